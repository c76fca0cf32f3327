"""`superweights known`: the index of published and measured super weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from superweights.cli import console, options
from superweights.cli.groups import grouped

Named = Annotated[str | None, typer.Argument(help="A name, a folder or a file. Nothing: list all.")]
Verify = Annotated[bool, typer.Option("--verify", help="Open the model and check every number.")]
Index = Annotated[
    list[Path] | None,
    typer.Option(help="Also the lines of this file, as the known.jsonl of a census; repeatable."),
]
AsJson = Annotated[bool, options.in_output("--json", help="JSON lines, one per weight.")]
Html = Annotated[Path | None, options.in_output(help="Write the whole index as a page to browse.")]
Card = Annotated[Path | None, options.in_output(help="Write the card of the data set, in Markdown.")]


@grouped
def known(
    model: Named = None,
    verify: Verify = False,
    index: Index = None,
    as_json: AsJson = False,
    html: Html = None,
    card: Card = None,
) -> None:
    """List known super weights, or those of one model, and check them against its file.

    A path is opened and recognised by its numbers first, by its name second; a hub name is looked up by name
    alone, unless --verify is given.

    Example: superweights known ./my-llama --verify
    """
    from superweights.verbs.known import known as verb
    from superweights.verbs.known import nothing_known, write_index

    if html is not None or card is not None:
        for said in write_index(html, card, model is None and not verify and not as_json, index or ()):
            console.note(said)
        return
    matches = verb(model, verify=verify, index=index or ())
    if model is not None and not matches:
        console.note(nothing_known(model))
    else:
        _print(matches, model, as_json)


def _print(matches: list, model: str | None, as_json: bool) -> None:
    from superweights.tables.known import of_one_model, parts

    if model is None:
        console.show_rows((match.known for match in matches), as_json, lambda: parts(matches))
    else:
        console.show_rows(matches, as_json, lambda: of_one_model(matches))
