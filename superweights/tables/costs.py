"""What `estimate` expects of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from superweights.tables.page import Parts, Table
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.costs import Estimate

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def parts(found: Estimate) -> Parts:
    """The answer in a sentence, then of what it is made."""
    machine, shape, work = found.machine, found.shape, found.work
    shared = f" on {machine.devices} devices" if machine.devices > 1 else f" on {machine.name}"
    yield Text(
        f"superweights {found.command} of {shape.name}{shared}: about {_time(found.seconds)}, "
        f"{_bytes(found.memory_bytes)} of memory{' each' if machine.devices > 1 else ''}.",
        style="bold",
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("what", "how much", "of what"):
        table.add_column(
            title, no_wrap=title != "of what", justify="right" if title == "how much" else "left"
        )
    as_it_is = f"{work.windows} windows of {work.tokens} tokens as it is"
    block = f"{shape.blocks} blocks of up to {shape.largest_block:,}"
    passes = counted(work.passes, "pass")
    rows = [
        ("weights read", _bytes(found.read_bytes), f"{passes}, {shape.stored_bytes} bytes a number"),
        ("multiplications", f"{found.multiplications:z.3g}",
         f"{as_it_is}, {work.edited} edited ({work.share:z.0%} of a pass)"),
        ("memory", _bytes(found.memory_bytes), f"a block at a time; {_bytes(found.whole_bytes)} for all weights"),
        ("time", _time(found.seconds), _rates(found)),
        ("model", f"{shape.parameters:,}", f"numbers, in {block}; {shape.per_token:,} multiplied a token"),
    ]  # fmt: skip
    for row in rows:
        table.add_row(*row)
    yield table
    yield Text(
        "Nothing was run. Starting the program is not counted, nor what devices tell each other, nor a disk "
        "or link slower than the rate.",
        style="dim",
    )


def _rates(found: Estimate) -> str:
    machine = found.machine
    how = "measured here" if machine.measured else "as given"
    return f"{machine.multiplications:z.3g} multiplications and {_bytes(machine.reading)} a second, {how}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:z.3g} {unit}"
        count /= 1000
    raise AssertionError("the last unit ends it")


def _time(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:z.3g} seconds"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:z.0f} minutes"
    return f"{seconds / _HOUR:z.0f} hours" if seconds < 2 * _DAY else f"{seconds / _DAY:z.0f} days"
