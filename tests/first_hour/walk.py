"""Every command of a page, run as a new user runs it; what hurts is said in a sentence each.

    python tests/first_hour/walk.py            # all pages: some minutes
    python tests/first_hour/walk.py find test  # these

A command runs in a terminal of 80 columns. What it found is then shown again, at 80, 120 and 160 columns and in a
pipe, by `superweights show`; a command that writes no record and nothing else runs again instead. Commands are on
tiny models, so that it is the words that are tried, not the numbers. The pages that they wrote are opened in a browser.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lines import PAGES, Line, lines_of
from terminal import Shown, in_pipe, in_terminal

WIDTHS = (80, 120, 160)
# Commands that print what was measured at that moment, other numbers each time.
_OF_THIS_MOMENT = ("estimate",)
_WRITES = ("--to", "--save", "--plot", "--kept", "--output", "-o", "--picture", "--svg", "--out", "--store")


def walk(lines: Sequence[Line], folder: Path) -> Iterator[tuple[Line, list[str]]]:
    """Each line with its faults. One that fails is tried once more at the end: pages tell of folders before they
    make them."""
    waiting = []
    for number, line in enumerate(lines):
        faults = faults_of(line, folder, number)
        if any(each.startswith("ended with") for each in faults):
            waiting.append((number, line))
        else:
            yield line, faults
    for number, line in waiting:
        yield line, faults_of(line, folder, number)


def faults_of(line: Line, folder: Path, number: int) -> list[str]:
    """What is wrong with one command."""
    if line.into is not None:
        shown = in_pipe(line.arguments, folder)
        (folder / line.into).write_text(_shortened(shown.out))
        return _of(shown, line, "pipe")
    record = folder / f"record{number}.json"
    keeps = _takes(line.arguments, "--out") and "--out" not in line.arguments and line.arguments[0] != "sweep"
    keeps &= (
        "reference" not in line.arguments
    )  # a sweep's lines are no record, and the published script makes none
    kept = ["--out", str(record)] if keeps else []
    first = in_terminal([*line.arguments, *kept], 80, folder)
    if record.exists() and not (named := folder / f"{line.arguments[0]}.json").exists():
        named.write_bytes(record.read_bytes())  # the pages call them so
    faults = _of(first, line, "80")
    if first.code != line.code:
        return faults
    again = ["show", record.name] if record.exists() else list(line.arguments)
    if not record.exists() and set(_WRITES) & set(line.arguments):
        return faults
    pipe = in_pipe(again, folder)
    faults += _of(pipe, line, "pipe")
    whole, same = pipe.numbers | pipe.addresses, again[0] not in _OF_THIS_MOMENT
    for width in WIDTHS:
        seen = in_terminal(again, width, folder)
        faults += _of(seen, line, str(width))
        if (
            line.code == 0
            and same
            and not _for_programs(again)
            and (cut := (seen.numbers | seen.addresses) - whole)
        ):
            faults.append(f"{width}: shows {', '.join(sorted(cut)[:5])}, which is not what it found")
    return list(dict.fromkeys(faults))


def _of(shown: Shown, line: Line, where: str) -> list[str]:
    """Faults that are seen in one screen."""
    said, faults = shown.out + shown.err, []
    if shown.code != line.code:
        end = said.strip().splitlines()[-3:]
        faults.append(f"ended with {shown.code}, not {line.code} ({where}): {' / '.join(end)[-300:]}")
    if "Traceback (most recent call last)" in said:
        faults.append(f"{where}: a traceback")
    if cut := [row.strip() for row in said.splitlines() if re.search(r"(?<!█)…", row)]:
        faults.append(f"{where}: cut: {cut[0][:100]}")
    if shown.breaks and not _for_programs(line.arguments):
        faults.append(f"{where}: broken: {', '.join(shown.breaks[:3])}")
    return faults


def _for_programs(arguments: Sequence[str]) -> bool:
    """Whether this is printed for programs, which know no width: JSON, Markdown for a card."""
    return bool({"--json", "--schema", "--format"} & set(arguments)) and "--to" not in arguments


def _takes(arguments: Sequence[str], option: str) -> bool:
    """Whether the command of these arguments has this option."""
    import click
    import typer

    from superweights.cli import app

    command: click.Command | None = typer.main.get_command(app)
    for word in arguments:
        if not isinstance(command, click.Group) and not hasattr(command, "commands"):
            break
        command = command.commands.get(word)  # type: ignore[union-attr]
    return command is not None and any(option in each.opts for each in command.params)


def _shortened(text: str) -> str:
    """A recipe of the lab with a few steps."""
    return re.sub(r"(?m)^(steps|warmup) = \d+$", r"\1 = 2", text)


def look(folder: Path) -> int:
    """Open every page that the commands wrote in a browser, print its faults, and count them."""
    import pages

    found = 0
    try:
        with pages.chromium() as browser:
            for path in sorted(folder.rglob("*.html")):
                faults = pages.faults_of(browser, path.as_uri())
                print(f"page {path.relative_to(folder)}", *(f"\n    {each}" for each in faults), flush=True)
                found += len(faults)
    except pages.NoBrowserError as reason:
        print(f"pages were not looked at: {reason}")
    return found


def main(names: Sequence[str]) -> int:
    """Walk the pages of these names, or all; print each command and its faults. 1 where there are any."""
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    from stand import standing

    pages = [page for page in PAGES if not names or page.stem in names]
    lines = [line for page in pages for line in lines_of(page)]
    found = 0
    with tempfile.TemporaryDirectory() as folder, standing(Path(folder), at_school=True):
        start = time.monotonic()
        for line, faults in walk(lines, Path(folder)):
            print(
                f"{time.monotonic() - start:6.0f} s  {line}",
                *(f"\n    {each}" for each in faults),
                flush=True,
            )
            found += len(faults)
        found += look(Path(folder))
    print(f"{len(lines)} commands of {len(pages)} pages, {found} faults")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
