"""`superweights known`: the index of published and measured super weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console
from superweights.cli.printing import fits, print_lines, print_table, with_error
from superweights.errors import SuperweightsError
from superweights.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from superweights.verbs.known import KnownWeight, Match


def known(
    model: Annotated[
        str | None, typer.Argument(help="A name, a folder or a file. Nothing: list all.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Open the model and check every number.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, one per weight.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the whole index as a page to browse.")] = None,
    card: Annotated[Path | None, typer.Option(help="Write the card of the data set, in Markdown.")] = None,
) -> None:
    """List known super weights, or those of one model, and check them against its file.

    A path is opened and recognised by its numbers first, by its name second; a hub name is looked up by name
    alone, unless --verify is given.

    Example: superweights known ./my-llama --verify
    """
    from superweights.verbs.known import known as verb

    if html is not None or card is not None:
        _write(html, card, alone=model is None and not verify and not as_json)
        return
    matches = verb(model, verify=verify)
    if model is None:
        print_lines(m.known for m in matches) if as_json else _show(matches)
    elif not matches:
        console.notes.print(_nothing(model), markup=False, soft_wrap=True)
    elif as_json:
        print_lines(matches)
    else:
        _show_found(matches)


def _write(html: Path | None, card: Path | None, alone: bool) -> None:
    """The whole index as a page, as a card, or both."""
    from superweights.verbs.known import known, known_page

    if not alone:
        raise SuperweightsError(
            "--html and --card write the whole index, and nothing else.",
            hint="superweights known --html known.html",
        )
    for path in (html, card):
        console.check_out(path)
    for path, form in ((html, "html"), (card, "md")):
        if path is not None:
            console.write_out(path, known_page(form))
            console.notes.print(
                f"{console.plain(str(path))}: {counted(len(known()), 'weight')}", soft_wrap=True
            )


def _show_found(matches: Sequence[Match]) -> None:
    """The known weights of one model: how each was recognised, what is disputed, what a check has found."""
    _show(matches, recognised=True)
    for match in matches:
        _tell(match.known, match.check)
    sources = dict.fromkeys(text for match in matches for text in match.known.sources)
    console.data.print(
        "\nSources", *(f"  {text}" for text in sources), sep="\n", markup=False, soft_wrap=True
    )


def _tell(entry: KnownWeight, check: str | None) -> None:
    """What is measured, disputed and noted about one weight, a line each."""
    lines = [*([f"here: {check}"] if check else [])]
    for effect in entry.evidence.effects:
        lines.append(f"{effect.what}: {with_error(effect, digits=6)} {effect.unit}")
    lines += [f"disputed: {text}" for text in entry.conflicts]
    lines += [f"note: {text}" for text in entry.notes]
    console.data.print(f"\n{entry}", *(f"  {line}" for line in lines), sep="\n", markup=False, soft_wrap=True)


def _show(matches: Sequence[Match], recognised: bool = False) -> None:
    """A table, model by model; an empty cell is unknown."""
    titles = ["weight", "value", "spike in → out", "verdict", *(["found by"] if recognised else [])]
    made = _table(matches, titles)
    if not fits(made):
        made = _table(matches, [title for title in titles if title != "spike in → out"])
    print_table(made)


def _table(matches: Sequence[Match], titles: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right" if title == "value" else "left")
    model = None
    for entry, how in ((match.known, match.how) for match in matches):
        if entry.model != model:
            table.add_row(Text(entry.model, style="bold"))
            model = entry.model
        cells = {
            "weight": Text(f"  {entry}"),
            "value": "" if entry.value is None else f"{entry.value:.4g}",
            "spike in → out": _spikes(entry),
            "verdict": entry.verdict.replace("_", " "),
            "found by": how,
        }
        table.add_row(*(cells[title] for title in titles))
    return table


def _spikes(entry: KnownWeight) -> str:
    spikes = entry.evidence.spike_in, entry.evidence.spike_out
    return " → ".join("?" if spike is None else f"{spike:.4g}" for spike in spikes) if any(spikes) else ""


def _nothing(model: str) -> str:
    """What to say when nothing is known, with the closest names there are."""
    from superweights.verbs.known import names_like

    close = names_like(model)
    said = f"Nothing is known about {model}"
    return said + (f"; close names: {', '.join(close)}." if close else ".")
