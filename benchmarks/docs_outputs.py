"""The outputs that README and docs show under their commands, printed anew, in place.

    python benchmarks/docs_outputs.py --check            # what the quick ones print now, compared; 1 where it differs
    python benchmarks/docs_outputs.py known formats      # all commands of these pages, on the embedded model: rewritten
    python benchmarks/docs_outputs.py --quick --write    # the quick ones of all pages, rewritten
    python benchmarks/docs_outputs.py first_look         # the notebook, run from top to bottom, with what it shows

A page's commands run in the order in which they stand, in one folder (`--dir`, else a new one): what one of them
writes, a later one may read; files of data that a page speaks of are laid there first. Quick commands read no more than
a few weights; they are compared in the tests. Blocks with three dots in a line of their own are abridged by hand, and
are left alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NOTEBOOK = ROOT / "examples" / "first_look.ipynb"
QUICK = re.compile(r"superweights (known|recipe) ")
_BLOCK = re.compile(r"(```console\n)(.*?)(```)", re.DOTALL)


def regenerated(text: str, printed: Callable[[str], str], chosen: Callable[[str], bool]) -> str:
    """A page's text with what `printed` gives for each command of its console blocks, if it is `chosen`."""

    def block(found: re.Match[str]) -> str:
        parts = re.split(r"(?m)^(?=\$ )", found[2])
        if re.search(r"(?m)^\.\.\.$", found[2]):
            return found[0]
        return found[1] + "".join(map(part, parts)) + found[3]

    def part(shown: str) -> str:
        command = re.match(r"\$ (?:.*\\\n)*.*\n", shown)
        if command is None:
            return shown
        words = re.sub(r"\\\n\s*", "", command[0][2:]).strip()
        if not chosen(words):
            return shown
        end = "\n" if shown.endswith("\n\n") else ""
        gap = "\n" if shown[command.end() :].startswith("\n") else ""
        lines = [line.rstrip() for line in printed(words).strip("\n").splitlines()]
        return command[0] + gap + "\n".join(lines) + "\n" + end

    return _BLOCK.sub(block, text)


def printed_here(command: str, folder: Path) -> str:
    """What a command prints, stdout before stderr, into a pipe: nothing is cut there."""
    words = shlex.split(command.replace("make find ARGS=", "superweights find "))
    words = [part for word in words for part in ([word] if " " not in word or "[" in word else word.split())]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "superweights", *words[1:]],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    return done.stdout + done.stderr


def run_notebook() -> None:
    """Run the example from top to bottom and keep what it shows in it; nothing that tells of this machine."""
    import nbclient
    import nbformat

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1500, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.output_type != "stream"]
    nbformat.write(notebook, NOTEBOOK)


def main() -> int:
    """1 where `--check` finds a difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help="names of pages, without .md; all where there are none")
    parser.add_argument("--quick", action="store_true", help="only quick commands")
    parser.add_argument("--check", action="store_true", help="compare the quick ones, write nothing")
    parser.add_argument(
        "--write", action="store_true", help="rewrite the pages (default where pages are named)"
    )
    parser.add_argument("--dir", type=Path, help="folder for what the commands write and read")
    options = parser.parse_args()
    quick = options.quick or options.check
    if NOTEBOOK.stem in options.pages:
        run_notebook()
    changed = []
    with tempfile.TemporaryDirectory() as made:
        folder = options.dir or Path(made)
        (folder / "bad.jsonl").write_text('{"question": "Bees make"}\n')
        for page in PAGES:
            if options.pages and page.stem not in options.pages:
                continue
            text = page.read_text(encoding="utf-8")
            new = regenerated(
                text, lambda words: printed_here(words, folder), lambda w: not quick or is_quick(w)
            )
            if new != text:
                changed.append(page.name)
                if not options.check and (options.write or options.pages):
                    page.write_text(new, encoding="utf-8")
    print(f"changed: {', '.join(changed) or 'none'}")
    return int(options.check and bool(changed))


def is_quick(command: str) -> bool:
    """Whether it reads no more than a few weights."""
    return bool(QUICK.match(command))


if __name__ == "__main__":
    sys.exit(main())
