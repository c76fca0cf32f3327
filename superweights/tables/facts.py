"""What `facts` found, the gravest of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from superweights.tables.numbers import plain
from superweights.tables.page import Parts

if TYPE_CHECKING:
    from superweights.record import Record

_TENSORS = 5


def parts(record: Record) -> Parts:
    """Sentences: massive channels, the strongest sink, float16's room, what small formats lose."""
    return map(plain, _sentences(record.findings))


def _sentences(found: Any) -> Iterator[str]:
    massive = [layer for layer in found.massive if layer.channels]
    if massive:
        top = max(massive, key=lambda layer: layer.largest)
        channels = sorted({c for layer in massive for c in layer.channels})
        yield (
            f"massive channels {', '.join(map(str, channels))} in layers {massive[0].layer} to {massive[-1].layer}; "
            f"largest {top.largest:z,.0f} after layer {top.layer}, at positions {', '.join(map(str, top.positions))} "
            f"({', '.join(map(repr, top.tokens))})."
        )
    else:
        yield "no massive activation."
    if found.sinks:
        strongest = max(found.sinks, key=lambda layer: layer.mass)
        yield f"sink: {strongest.mass:z.0%} of the attention of layer {strongest.layer} goes to the first token."
    least = min(found.sites, key=lambda site: site.fp16_headroom)
    yield (
        f"float16: the largest number, {least.largest:z,.4g} ({least.site} of layer {least.layer}), fits "
        f"{least.fp16_headroom:z.3g} times."
    )
    lost = sorted(found.tensors, key=lambda t: -(t.nvfp4_blocks_zero + t.nvfp4_blocks_subnormal))
    for worst in lost[:_TENSORS]:
        yield (
            f"{worst.tensor}: NVFP4 scales that are 0 {worst.nvfp4_blocks_zero:z.2%}, subnormal "
            f"{worst.nvfp4_blocks_subnormal:z.2%}; FP8 weights that become 0 {worst.fp8_weights_zero:z.2%}."
        )
