"""`superweights.known`: what is published and measured about a model's super weights."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from superweights.artefacts.file import write_text
from superweights.artefacts.place import check_replaceable
from superweights.errors import SuperweightsError
from superweights.index import KnownWeight, Match, load_known, look_up, names_known, read_index
from superweights.index import verify as held_against
from superweights.wording import counted

__all__ = ["KnownWeight", "Match", "known", "known_page", "names_like", "nothing_known", "write_index"]


def known(model: Any = None, *, verify: bool = False, index: Sequence[Path | str] = ()) -> list[Match]:
    """The known super weights of `model`, the surest first; of all models where it is None.

    What is on this machine (a path, an open checkpoint, a `Source`, `embedded`) is opened and recognised by its numbers
    first, by its name second; any other name is looked up in the index alone, unless `verify` is set: then each
    entry is held against the checkpoint's own numbers, and `Match.check` says how that went.

    `index` are files of further lines, such as the `known.jsonl` of a census, that are asked beside our own.

    >>> [str(match.known) for match in known("huggyllama/llama-7b")]
    ['model.layers.2.mlp.down_proj.weight[3968, 7003]']
    """
    if model is None and verify:
        raise SuperweightsError("--verify needs a model.", hint="superweights known MODEL --verify")
    further = [entry for path in index for entry in read_index(path)]
    if model is None:
        return [Match(entry, "listed") for entry in (*load_known(), *further)]
    if not verify and isinstance(model, str | Path) and not _is_here(model):
        return look_up(model, further)
    from superweights.checkpoint import opened_checkpoint
    from superweights.subject import Source

    with opened_checkpoint(Source.of(model)) as checkpoint:
        matches = look_up(checkpoint, further)
        if not verify:
            return matches
        return [replace(match, check=held_against(match.known, checkpoint).sentence) for match in matches]


def known_page(form: str = "html", index: Sequence[Path | str] = ()) -> str:
    """The whole index as a page to browse (`html`), or as the card of the data set (`md`), with the further lines of
    the files `index`."""
    from superweights.reports import index_card, index_page

    pages = {"html": index_page, "md": index_card}
    if form not in pages:
        raise SuperweightsError(f"There is no form {form!r}.", hint=f"choose one of {', '.join(pages)}.")
    return pages[form]([*load_known(), *(entry for path in index for entry in read_index(path))])


def write_index(
    html: Path | None, card: Path | None, alone: bool, index: Sequence[Path | str] = ()
) -> Iterator[str]:
    """Write the whole index as a page, as a card, or both; a sentence for each. `alone`: nothing else was asked.

    Raises `SuperweightsError` where something else was asked too.
    """
    if not alone:
        raise SuperweightsError(
            "--html and --card write the whole index, and nothing else.",
            hint=_whole(html, card, index),
        )
    asked = [(path, form) for path, form in ((html, "html"), (card, "md")) if path is not None]
    for path, _ in asked:
        check_replaceable(path)
    for path, form in asked:
        write_text(path, known_page(form, index))
        yield f"{path}: {counted(len(known(index=index)), 'weight')}"


def _whole(html: Path | None, card: Path | None, index: Sequence[Path | str]) -> str:
    """The command that writes the whole index where it was asked for."""
    options = [*(("--index", file) for file in index), ("--html", html), ("--card", card)]
    words = (f" {name} {shlex.quote(str(path))}" for name, path in options if path is not None)
    return f"superweights known{''.join(words)}"


def nothing_known(model: str) -> str:
    """What to say when nothing is known, with the closest names there are."""
    close = names_like(model)
    said = f"Nothing is known about {model}"
    return said + (f"; close names: {', '.join(close)}." if close else ".")


def names_like(model: str) -> list[str]:
    """The names in the index that are spelled most like `model`, three at most."""
    names = {name.split("/")[-1].lower(): name for name in names_known()}
    close = get_close_matches(model.rstrip("/").split("/")[-1].lower(), names, n=3, cutoff=0.6)
    return [names[name] for name in close]


def _is_here(model: str | Path) -> bool:
    return str(model) == "embedded" or Path(model).expanduser().exists()
