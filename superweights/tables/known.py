"""What `known` knows: the index of published and measured super weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from superweights.tables.numbers import with_error
from superweights.tables.page import Fitting, Parts, Table

if TYPE_CHECKING:
    from superweights.index import KnownWeight, Match

_SPIKES = "spike in → out"


def parts(matches: Sequence[Match]) -> Parts:
    """The weights of all models, model by model."""
    yield _fitting(matches, ["weight", "value", _SPIKES, "verdict"])


def of_one_model(matches: Sequence[Match]) -> Parts:
    """The known weights of one model: how each was recognised, what is disputed, what a check has found."""
    yield _fitting(matches, ["weight", "value", _SPIKES, "verdict", "found by"])
    for match in matches:
        yield from map(Text, _told(match.known, match.check))
    yield Text("\nSources")
    sources = dict.fromkeys(text for match in matches for text in match.known.sources)
    yield from (Text(f"  {text}") for text in sources)


def _told(entry: KnownWeight, check: str | None) -> list[str]:
    """What is measured, disputed and noted about one weight, a line each."""
    lines = [f"here: {check}"] if check else []
    for effect in entry.evidence.effects:
        lines.append(f"{effect.what}: {with_error(effect, digits=6)} {effect.unit}")
    lines += [f"disputed: {text}" for text in entry.conflicts]
    lines += [f"note: {text}" for text in entry.notes]
    return [f"\n{entry}", *(f"  {line}" for line in lines)]


def _fitting(matches: Sequence[Match], titles: Sequence[str]) -> Fitting:
    """A narrow terminal does without the spikes."""
    fewer = [title for title in titles if title != _SPIKES]
    return Fitting([_table(matches, titles), _table(matches, fewer)])


def _table(matches: Sequence[Match], titles: Sequence[str]) -> Table:
    """Model by model; an empty cell is unknown."""
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
            "value": "" if entry.value is None else f"{entry.value:z.4g}",
            _SPIKES: _spikes(entry),
            "verdict": entry.verdict.replace("_", " "),
            "found by": how,
        }
        table.add_row(*(cells[title] for title in titles))
    return table


def _spikes(entry: KnownWeight) -> str:
    spikes = entry.evidence.spike_in, entry.evidence.spike_out
    return " → ".join("?" if spike is None else f"{spike:z.4g}" for spike in spikes) if any(spikes) else ""
