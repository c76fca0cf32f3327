"""A quantized checkpoint held against the original: each super weight, the super activation, the sinks, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.address import Address
from superweights.audits.experts import error_of, others_error
from superweights.audits.standing_in import Pair, standing_in
from superweights.checkpoint import Checkpoint
from superweights.decoding import Decoding, method_of
from superweights.errors import SuperweightsError
from superweights.progress import Progress, labelled
from superweights.record import Score
from superweights.scoring import Comparison, compare
from superweights.stream import streaming
from superweights.subject import device_of, objective_of
from superweights.taps import Site, sites_of, tapping

# From the scaling curve of SmolLM2-135M's super weight (docs/sweep.md): 0.8 to 3 times its value costs at most 0.05
# nats, half of it 0.12, a third 0.29, and without it 1.7.
_INTACT, _BENT = (0.95, 1.05), (0.5, 2.0)
# A model that predicts this much worse is broken whatever its weights look like: perplexity 1.5 times as high.
_BROKEN_NATS = 0.405
_BROKEN_COSINE = 0.1


@dataclass(frozen=True)
class WeightFate:
    """One super weight before and after, and its neighbours: `matrix_error` is the Frobenius norm of the whole
    matrix's error over that of the matrix (of stacked experts: of its own); `steps` the weight's error in steps
    of the grid, where that is known.

    `verdict`: `intact` within 5 percent, `bent` between half and twice, else `broken`.
    """

    address: Address
    """The super weight."""
    before: float
    """Its value in the original."""
    after: float
    """Its value as the quantized checkpoint has it."""
    steps: float | None
    matrix_error: float
    verdict: str
    expert: int | None = None
    """The expert that holds it, where it is in one of several."""
    others_error: float | None = None
    """The median `matrix_error` of the other experts of its layer."""


@dataclass(frozen=True)
class Audit:
    """What `audit` found. `activation_*` is the largest residual value and stands at `layer`, `channel`; `sink_*` the
    mean attention weight on the first token. None where the model was not run.

    `verdict`: `broken` where a super weight or the super activation is, or predictions are 0.405 nats worse (perplexity
    1.5 times; embeddings moved by 0.1 of 1 - cosine); `bent` where one is bent; else `intact`.
    """

    method: str
    """How the checkpoint is quantized, in its own word."""
    weights: tuple[WeightFate, ...]
    """What became of each super weight."""
    comparison: Comparison | None
    """Predictions of both on the same windows."""
    layer: int | None
    """The block after which the largest residual value stands."""
    channel: int | None
    """Its residual channel."""
    activation_before: float | None
    """That value in the original."""
    activation_after: float | None
    """The value there in the quantized one."""
    sink_before: Score | None
    """The original's."""
    sink_after: Score | None
    """The quantized one's."""
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """JSON values; addresses as text."""
        data = asdict(self)
        for row, fate in zip(data["weights"], self.weights, strict=True):
            row["address"] = str(fate.address)
        return data


def audit(
    quantized: Checkpoint,
    original: Checkpoint,
    addresses: Sequence[Address],
    tokens: Tensor | None = None,
    *,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """What became of the weights at `addresses` of `original` in `quantized`, and of the model on `tokens`.

    `tokens` `[windows, length]` run through both, in float32 and without the method's own kernels; None reads weights
    only. Raises `SuperweightsError` for an address that the original lacks, a method that cannot be read, and
    checkpoints of different models.
    """
    if not addresses and tokens is None:
        raise SuperweightsError("There is nothing to audit.", hint="give weights, or tokens to run.")
    fates = []
    pair, exact = Pair(Decoding(quantized), original), Pair(Decoding(original), original)
    for address in dict.fromkeys(addresses):
        fates.append(_fate(pair, exact, address))
        if progress is not None:
            progress("weights", len(fates), len(addresses))
    if tokens is None:
        return Audit(
            method_of(quantized), tuple(fates), None, None, None, None, None, None, None, _worst(fates, [])
        )
    plain = original if method_of(original) in ("dense", "gguf") else standing_in(original, original)
    with (
        streaming(plain, dtype="float32", device=device) as base,
        streaming(standing_in(quantized, original), dtype="float32", device=device) as other,
    ):
        comparison = compare(base, other, tokens, seed=seed, progress=labelled(progress, "predictions"))
        before, after = _look(base, tokens), _look(other, tokens)
    layer = int(before.peaks.amax(1).argmax())
    channel = int(before.peaks[layer].argmax())
    activation = float(before.peaks[layer, channel]), float(after.peaks[layer, channel])
    extra = [_verdict(activation[1] / activation[0])]
    if comparison.loss.value > (_BROKEN_COSINE if comparison.base is None else _BROKEN_NATS):
        extra.append("broken")
    return Audit(
        method_of(quantized),
        tuple(fates),
        comparison,
        layer,
        channel,
        *activation,
        before.sink(),
        after.sink(),
        _worst(fates, extra),
    )


def _fate(quantized: Pair, original: Pair, address: Address) -> WeightFate:
    original.original.check(address)
    exact = original.read(address.tensor)
    stored = quantized.decoded(address.tensor)
    before, after = float(exact[address.index]), float(stored.weight[address.index])
    steps = None
    if stored.step is not None:
        steps = (after - before) / float(stored.step[address.index])
    own = address.index[0] if exact.dim() == 3 else ...
    error = error_of(stored.weight[own], exact[own])
    beside = others_error(quantized, original, address) or (None, None)
    original.release([address.tensor])
    quantized.release([address.tensor])
    verdict = _verdict(after / before if before else 0.0)
    return WeightFate(address, before, after, steps, error, verdict, *beside)


def _verdict(ratio: float) -> str:
    if _INTACT[0] <= ratio <= _INTACT[1]:
        return "intact"
    return "bent" if _BENT[0] <= ratio <= _BENT[1] else "broken"


def _worst(fates: Sequence[WeightFate], extra: Sequence[str]) -> str:
    found = {*(fate.verdict for fate in fates), *extra}
    return next((verdict for verdict in ("broken", "bent") if verdict in found), "intact")


@dataclass(frozen=True, eq=False)
class _Looks:
    """`peaks` `[layers, channels]`: the largest |value| after each block; `sinks` `[windows]`."""

    peaks: Tensor
    sinks: Tensor

    def sink(self) -> Score:
        n = len(self.sinks)
        error = float(self.sinks.std() / n**0.5) if n > 1 else None
        return Score("weight on token 0", float(self.sinks.mean()), "of attention", n, error)


def _look(model: Any, tokens: Tensor) -> _Looks:
    """One pass: residual peaks and the attention that token 0 draws, over queries from 1."""
    sites = sites_of(model)
    peaks: dict[int, Tensor] = {}
    sinks: dict[int, Tensor] = {}

    def on_block(layer: int):
        def look(h: Tensor) -> None:
            largest = h.detach().abs().float().flatten(0, -2).amax(0).cpu()
            peaks[layer] = torch.maximum(peaks[layer], largest) if layer in peaks else largest

        return look

    def on_weights(layer: int):
        def look(weights: Tensor) -> None:
            sinks[layer] = weights.detach().float()[..., 1:, 0].mean((1, 2)).cpu()

        return look

    taps: dict[Site, Any] = {}
    for place in sites.places:
        if place.kind == "block_out" and place.layer is not None:
            taps[place] = on_block(place.layer)
        elif place.kind == "weights" and place.layer is not None:
            taps[place] = on_weights(place.layer)
    rows = []
    for row in tokens:
        with tapping(model, taps):
            batch = objective_of(model).batch(row[None].to(device_of(model)), whole=True)
            model(**batch.arguments)
        rows.append(torch.stack(list(sinks.values())).mean(0))
    order = sorted(peaks)
    return _Looks(torch.stack([peaks[layer] for layer in order]), torch.cat(rows))
