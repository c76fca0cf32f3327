"""`superweights known`: the index of published and measured super weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superweights.cli import console
from superweights.errors import SuperweightsError
from superweights.record import to_json_line

if TYPE_CHECKING:
    from superweights.index import KnownWeight, Match

_EMBEDDED = "embedded"


def known(
    model: Annotated[
        str | None, typer.Argument(help="A name, a folder or a file. Nothing: list all.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Open the model and check every number.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the whole index as a page to browse.")] = None,
    card: Annotated[Path | None, typer.Option(help="Write the card of the data set, in Markdown.")] = None,
) -> None:
    """List known super weights, or those of one model, and check them against its file.

    A path is opened and recognised by its numbers first, by its name second; a hub name is looked up by name
    alone, unless --verify is given.

    Example: superweights known ./my-llama --verify
    """
    from superweights.index import load_known, look_up

    if html is not None or card is not None:
        _write(model, verify, json, html, card)
    elif model is None:
        if verify:
            raise SuperweightsError("--verify needs a model.", hint="superweights known MODEL --verify")
        _show(load_known(), json)
    elif verify or model == _EMBEDDED or Path(model).expanduser().exists():
        _look_inside(model, verify, json)
    else:
        _show_matches(model, look_up(model), json)


def _write(model: str | None, verify: bool, json: bool, html: Path | None, card: Path | None) -> None:
    """The whole index as a page, as a card, or both."""
    from superweights.index import load_known
    from superweights.reports import index_card, index_page

    if model is not None or verify or json:
        raise SuperweightsError(
            "--html and --card write the whole index, and nothing else.",
            hint="superweights known --html known.html",
        )
    asked = [(path, make) for path, make in ((html, index_page), (card, index_card)) if path is not None]
    for path, _ in asked:
        console.check_out(path)
    entries = load_known()
    for path, make in asked:
        console.write_out(path, make(entries))
        console.notes.print(f"{console.plain(str(path))}: {len(entries)} weights", soft_wrap=True)


def _look_inside(model: str, verify: bool, json: bool) -> None:
    """Look an opened checkpoint up, and hold each entry against it if asked."""
    from superweights.checkpoint import open_checkpoint
    from superweights.index import look_up
    from superweights.index import verify as held_against

    with open_checkpoint(model) as checkpoint:
        matches = look_up(checkpoint)
        checks = [held_against(match.known, checkpoint).sentence for match in matches] if verify else []
    _show_matches(model, matches, json, checks)


def _show_matches(model: str, matches: list[Match], json: bool, checks: list[str] | None = None) -> None:
    """The known weights of one model: how each was recognised, what is disputed, what a check has found."""
    if not matches:
        console.notes.print(_nothing(model), markup=False, soft_wrap=True)
    elif json:
        for i, match in enumerate(matches):
            found = {"how": match.how, "agreeing": match.agreeing, "compared": match.compared}
            found |= {
                "value_here": match.value,
                "address_here": str(match.address) if match.address else None,
            }
            found |= {"check": checks[i] if checks else None}
            console.print_line(to_json_line({**match.known.to_json(), **found}))
    else:
        _show([match.known for match in matches], json, [match.how for match in matches])
        for i, match in enumerate(matches):
            _tell(match.known, checks[i] if checks else None)
        sources = dict.fromkeys(text for match in matches for text in match.known.sources)
        console.data.print(
            "\nSources", *(f"  {text}" for text in sources), sep="\n", markup=False, soft_wrap=True
        )


def _tell(entry: KnownWeight, check: str | None) -> None:
    """What is measured, disputed and noted about one weight, a line each."""
    lines = [*([f"here: {check}"] if check else [])]
    for effect in entry.evidence.effects:
        error = "" if effect.standard_error is None else f" ± {effect.standard_error:.2g}"
        lines.append(f"{effect.what}: {effect.value:.6g}{error} {effect.unit}")
    lines += [f"disputed: {text}" for text in entry.conflicts]
    lines += [f"note: {text}" for text in entry.notes]
    console.data.print(f"\n{entry}", *(f"  {line}" for line in lines), sep="\n", markup=False, soft_wrap=True)


def _show(entries: list[KnownWeight], json: bool, how: list[str] | None = None) -> None:
    """The entries as JSON lines, or as a table, model by model; an empty cell is unknown."""
    if json:
        for entry in entries:
            console.print_line(to_json_line(entry.to_json()))
        return
    from rich.table import Table
    from rich.text import Text

    wide = console.data.width >= 100
    titles = [
        "weight",
        "value",
        *(["spike in → out"] if wide else []),
        "verdict",
        *(["found by"] if how else []),
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=title != "found by", justify="right" if title == "value" else "left")
    for i, entry in enumerate(entries):
        if i == 0 or entry.model != entries[i - 1].model:
            table.add_row(Text(entry.model, style="bold"))
        cells = {"weight": Text(f"  {entry}"), "verdict": entry.verdict.replace("_", " ")}
        cells |= {
            "value": "" if entry.value is None else f"{entry.value:.4g}",
            "spike in → out": _spikes(entry),
        }
        table.add_row(*(cells[title] if title in cells else (how or [])[i] for title in titles))
    console.data.print(table)


def _spikes(entry: KnownWeight) -> str:
    spikes = entry.evidence.spike_in, entry.evidence.spike_out
    return " → ".join("?" if spike is None else f"{spike:.4g}" for spike in spikes) if any(spikes) else ""


def _nothing(model: str) -> str:
    """What to say when nothing is known, with the closest names there are."""
    from difflib import get_close_matches

    from superweights.index import names_known

    names = {name.split("/")[-1].lower(): name for name in names_known()}
    close = get_close_matches(model.rstrip("/").split("/")[-1].lower(), names, n=3, cutoff=0.6)
    said = f"Nothing is known about {model}"
    return said + (f"; close names: {', '.join(names[name] for name in close)}." if close else ".")
