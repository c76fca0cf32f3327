"""Where a block's sites are, told by the identities that its own numbers satisfy.

`block_in + attn_write + mlp_write = block_out`: the writes are the module outputs for which this holds.
`mid = block_in + attn_write`; the output projection is the linear module whose output is the write; a norm
is a module without a matrix whose input is the stream and whose output is read by attention or MLP. Nothing
else is known about any architecture, and what does not hold is refused with its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.taps.site import KINDS, WITHOUT_LAYER, SitePlace
from superweights.taps.trace import BlockTrace, Call

# How many roundings apart two computations of one sum may be.
_ROUNDINGS = 8
_SAMPLE = 256

_PARALLEL = "the block adds attention and MLP to the same stream, so there is nothing between them"
_NO_SUM = "no outputs of the block's modules add up from its input to its output"
_POST_NORM = "the block normalises its stream after adding to it, so no write is part of its output"
_UNTOLD = "the block has one write, and whether attention or the MLP made it could not be told"
_NO_ATTENTION = "the block has no attention"
_NO_MLP = "the block has no MLP of its own"


@dataclass(frozen=True, eq=False)
class _Write:
    """A module output that is added to the residual stream, `scale` times."""

    call: Call
    scale: float
    value: Tensor


def places_in(trace: BlockTrace) -> tuple[dict[str, SitePlace], dict[str, str]]:
    """The places of one block's sites by kind, and the reasons for those it has not."""
    places = {"block_in": SitePlace(trace.path, "input"), "block_out": SitePlace(trace.path, "output")}
    refused: dict[str, str] = {}
    for part in (_inside_attention, _writes_and_projections):
        found, missing = part(trace)
        places |= found
        refused |= missing
    held = places.keys() | refused.keys() | set(WITHOUT_LAYER)
    assert held == set(KINDS), f"{set(KINDS) - held} neither placed nor refused"
    return places, refused


def _inside_attention(trace: BlockTrace) -> tuple[dict[str, SitePlace], dict[str, str]]:
    """q, k, v where attention goes through transformers' interface, logits and weights where it has one softmax."""
    places: dict[str, SitePlace] = {}
    refused: dict[str, str] = {}
    calls, softmaxes = trace.interface, trace.softmaxes
    if len(calls) == 1:
        place = SitePlace(calls[0][0], "attention", heads=calls[0][1], through_interface=True)
        places |= dict.fromkeys(("q", "k", "v"), place)
    else:
        own = "its attention does not go through transformers' attention interface"
        reason = _NO_ATTENTION if not softmaxes else own
        refused |= dict.fromkeys(("q", "k", "v"), _several(len(calls)) if calls else reason)
    if len(softmaxes) == 1 and len(calls) <= 1:
        place = SitePlace(softmaxes[0][0], "attention", heads=softmaxes[0][1], through_interface=bool(calls))
        places |= dict.fromkeys(("logits", "weights"), place)
    else:
        none = "no softmax over the tokens was seen" if calls else _NO_ATTENTION
        several = max(len(softmaxes), len(calls))
        refused |= dict.fromkeys(("logits", "weights"), _several(several) if softmaxes else none)
    return places, refused


def _writes_and_projections(trace: BlockTrace) -> tuple[dict[str, SitePlace], dict[str, str]]:
    """The two writes, the stream between them, what is read, and the inputs of the two projections."""
    kinds = ("attn_norm_in", "head_out", "attn_write", "mid", "mlp_norm_in", "mlp_act", "mlp_write")
    writes = _find_writes(trace)
    if writes is None:
        return {}, dict.fromkeys(kinds, _POST_NORM if _ends_in_norm(trace) else _NO_SUM)
    attention, mlp = _tell_apart(trace, writes)
    if attention is mlp is None:
        return {}, dict.fromkeys(kinds, _UNTOLD)
    places: dict[str, SitePlace] = {}
    refused: dict[str, str] = {}

    def settle(kind: str, place: SitePlace | None, reason: str) -> None:
        if place is not None:
            places[kind] = place
        else:
            refused[kind] = reason

    for kind, write, absent in (("attn_write", attention, _NO_ATTENTION), ("mlp_write", mlp, _NO_MLP)):
        settle(kind, write and SitePlace(write.call.path, "output", write.scale), absent)
    settle("head_out", _head_out(trace, attention), _why_no_heads(trace, attention))
    mid = None if attention is None or mlp is None else _mid(trace, attention)
    settle("mid", mid, _PARALLEL if attention and mlp else _NO_MLP if attention else _NO_ATTENTION)
    settle("mlp_act", _input_of_projection(trace, mlp), _why_no_projection(mlp))
    branch = _branch(trace, attention)
    stream = trace.before if mid is None or attention is None else trace.before + attention.value
    norm = "no norm stands before it" if attention else _NO_ATTENTION
    settle("attn_norm_in", attention and _norm_before(trace, trace.before, branch, inside=True), norm)
    norm = "no norm stands before it" if mlp else _NO_MLP
    settle("mlp_norm_in", mlp and _norm_before(trace, stream, branch, inside=False), norm)
    return places, refused


def _find_writes(trace: BlockTrace) -> list[_Write] | None:
    """The one or two module outputs that make the block's output of its input, in the order they were made."""
    candidates = _candidates(trace)
    if not candidates or trace.before.shape != trace.after.shape:
        return None
    if (found := _fitting(trace, candidates)) is None:
        return None
    return [
        _Write(candidates[i], scale, scale * _flat(candidates[i].output).reshape(trace.before.shape))
        for i, scale in found
    ]


def _candidates(trace: BlockTrace) -> list[Call]:
    """Calls whose output could be a write; of several with the same output the one that ended last."""
    kept: list[Call] = []
    for call in sorted(_once(trace), key=lambda c: c.end):
        if _like_the_stream(trace, call):
            kept = [other for other in kept if not _equal(other.output, call.output)]
            kept.append(call)
    return kept


def _like_the_stream(trace: BlockTrace, call: Call) -> bool:
    """Whether the call's output has the shape of the residual stream."""
    out = call.output
    return out is not None and out.numel() == trace.before.numel() and out.shape[-1] == trace.before.shape[-1]


def _fitting(trace: BlockTrace, candidates: list[Call]) -> list[tuple[int, float]] | None:
    """Indices and scales of the candidates that add up from input to output: fewest first, unscaled first."""
    before, after = trace.before.double().flatten(), trace.after.double().flatten()
    outs = torch.stack([_flat(c.output).double() for c in candidates])
    generator = torch.Generator().manual_seed(0)
    sample = torch.randint(len(before), (_SAMPLE,), generator=generator).to(before.device)
    rounding = _ROUNDINGS * torch.finfo(trace.before.dtype).eps

    def fits(chosen: tuple[int, ...], scales: tuple[float, ...], at: Tensor | slice) -> bool:
        parts = [scale * outs[i][at] for i, scale in zip(chosen, scales, strict=True)]
        error = (after[at] - before[at] - sum(parts)).abs()
        size = before[at].abs() + after[at].abs() + sum(part.abs() for part in parts)
        return bool((error <= rounding * size).all())

    for scaled in (False, True):
        for chosen in _one_or_two(len(candidates)):
            scales = _scales(outs[list(chosen)][:, sample], (after - before)[sample]) if scaled else None
            scales = scales or (1.0,) * len(chosen)
            if fits(chosen, scales, sample) and fits(chosen, scales, slice(None)):
                return list(zip(chosen, scales, strict=True))
    return None


def _scales(parts: Tensor, total: Tensor) -> tuple[float, ...] | None:
    """The factors with which `parts` come closest to `total` (residual multipliers), None where one is zero."""
    solved = torch.linalg.lstsq(parts.T, total[:, None]).solution[:, 0].tolist()
    return None if any(not abs(s) > 1e-6 for s in solved) else tuple(round(s, 9) for s in solved)


def _one_or_two(n: int) -> Iterator[tuple[int, ...]]:
    yield from ((i,) for i in range(n))
    yield from ((i, j) for i in range(n) for j in range(i + 1, n))


def _tell_apart(trace: BlockTrace, writes: list[_Write]) -> tuple[_Write | None, _Write | None]:
    """Which write is attention's (or another token mixer's) and which the MLP's; None for one that is not there."""
    inside = [name for name, _ in trace.interface or trace.softmaxes]
    if len(writes) == 2:
        first, second = writes
        own = [any(_related(w.call.path, name) for name in inside) for w in writes]
        return (second, first) if own == [False, True] else (first, second)
    write = writes[0]
    # attention's own write, or (where its output leaves through another module) one that depends on other tokens
    mixes = True if any(_related(write.call.path, name) for name in inside) else trace.mixes()
    attention, mlp = (write if mixes else None), (write if mixes is False else None)
    return (attention or _silent(trace, inside, True), mlp or _silent(trace, inside, False))


def _silent(trace: BlockTrace, inside: list[str], attention: bool) -> _Write | None:
    """The write of an attention or MLP that adds nothing but zeros, where the block has one (a silenced sub-layer)."""
    for call in sorted(_once(trace), key=lambda c: -c.end):
        own = any(_related(call.path, name) for name in inside)
        silent = _like_the_stream(trace, call) and not _flat(call.output).any()
        if silent and own == attention and _has_matrix(call):
            return _Write(call, 1.0, torch.zeros_like(trace.before))
    return None


def _has_matrix(call: Call) -> bool:
    return any(parameter.ndim > 1 for parameter in call.module.parameters())


def _related(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _branch(trace: BlockTrace, attention: _Write | None) -> tuple[str, ...]:
    """The paths of the modules that belong to attention: where it was seen, or where its write comes from."""
    seen = tuple(name for name, _ in trace.interface or trace.softmaxes)
    return seen or (() if attention is None else tuple(c.path for c in _origins(trace, attention)))


def _origins(trace: BlockTrace, write: _Write) -> list[Call]:
    """The calls whose output is the write itself, or what its post-norm was given."""
    same = [c for c in trace.calls if c.output is not None and _equal(c.output, write.call.output)]
    if any(_is_linear(c) for c in same) or not _is_norm(write.call):
        return same
    given = write.call.inputs[0]
    return same + [
        c for c in trace.calls if c.output is not None and c is not write.call and _equal(c.output, given)
    ]


def _projection(trace: BlockTrace, write: _Write | None) -> Call | None:
    """The linear module that makes the write."""
    if write is None:
        return None
    once = _once(trace)
    return next(
        (c for c in reversed(_origins(trace, write)) if _is_linear(c) and c.inputs and c in once), None
    )


def _input_of_projection(trace: BlockTrace, write: _Write | None) -> SitePlace | None:
    found = _projection(trace, write)
    return None if found is None else SitePlace(found.path, "input")


def _head_out(trace: BlockTrace, attention: _Write | None) -> SitePlace | None:
    found, seen = _projection(trace, attention), trace.interface or trace.softmaxes
    if found is None or len(seen) != 1:
        return None
    width, heads = found.inputs[0].shape[-1], seen[0][1]
    if trace.value_width is not None and width % trace.value_width == 0:
        heads = width // trace.value_width  # fewer than the query heads where pairs of them are subtracted
    if width % heads:
        return None
    ours, attended = (path.removeprefix(trace.path).split(".")[1:2] for path in (found.path, seen[0][0]))
    return SitePlace(found.path, "input", heads=heads) if ours == attended or not attended else None


def _why_no_heads(trace: BlockTrace, attention: _Write | None) -> str:
    seen = trace.interface or trace.softmaxes
    if attention is None or not seen:
        return "the block has no attention heads"
    return _several(len(seen)) if len(seen) > 1 else "no single linear module makes what attention writes"


def _why_no_projection(mlp: _Write | None) -> str:
    return "no single linear module makes what the MLP writes (experts?)" if mlp else _NO_MLP


def _mid(trace: BlockTrace, attention: _Write) -> SitePlace | None:
    """The place of the sum `block_in + attn_write`, if some later module reads it."""
    stream = trace.before + attention.value
    later = (c for c in trace.calls if c.start > attention.call.end)
    if any(_close(given, stream) for c in later for given in c.inputs[:1]):
        return SitePlace(attention.call.path, "sum", attention.scale)
    return None


def _norm_before(
    trace: BlockTrace, stream: Tensor, branch: tuple[str, ...], inside: bool
) -> SitePlace | None:
    """The input of the first norm that reads `stream` and is read inside (or outside) the attention branch."""
    for call in _once(trace):
        if not (_is_norm(call) and _close(call.inputs[0], stream)):
            continue
        readers = [c for c in trace.calls if c.start > call.end and _reads(c, call.output)]
        within = [c for c in readers if any(_within(c.path, b) for b in branch)]
        around = [c for c in readers if any(_related(c.path, b) for b in branch)]
        if within if inside else len(around) < len(readers):
            return SitePlace(call.path, "input")
    return None


def _within(path: str, branch: str) -> bool:
    return path == branch or path.startswith(f"{branch}.")


def _reads(call: Call, tensor: Tensor | None) -> bool:
    return tensor is not None and any(_equal(given, tensor) for given in call.inputs)


def _once(trace: BlockTrace) -> list[Call]:
    """The calls of modules that ran once in the block: a hook on one that ran twice would mean two places."""
    times = Counter(id(call.module) for call in trace.calls)
    return [call for call in trace.calls if times[id(call.module)] == 1]


def _ends_in_norm(trace: BlockTrace) -> bool:
    return any(_is_norm(call) and _equal(call.output, trace.after) for call in trace.calls)


def _is_linear(call: Call) -> bool:
    """A leaf whose only matrix makes its output: `nn.Linear`, `Conv1D` and their kin."""
    weights = [p for p in call.module.parameters(recurse=False) if p.ndim > 1]
    return not any(call.module.children()) and len(weights) == 1 and weights[0].ndim == 2


def _is_norm(call: Call) -> bool:
    """A leaf without matrices that changes what it is given, and keeps its shape."""
    if any(call.module.children()) or any(p.ndim > 1 for p in call.module.parameters()) or not call.inputs:
        return False
    given, out = call.inputs[0], call.output
    return out is not None and given.shape == out.shape and not torch.equal(given, out)


def _flat(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.flatten()


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return (
        one is not None
        and other is not None
        and one.numel() == other.numel()
        and one.shape[-1] == other.shape[-1]
        and torch.equal(one.flatten(), other.flatten())
    )


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal up to the rounding of one addition."""
    if one.numel() != other.numel() or one.shape[-1] != other.shape[-1]:
        return False
    size = 4 * torch.finfo(one.dtype).eps
    return torch.allclose(
        one.flatten(), other.flatten().to(one.dtype), rtol=size, atol=size * float(other.abs().mean())
    )


def _several(n: int) -> str:
    return f"the block has {n} attentions, and a site means one"
