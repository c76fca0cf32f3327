"""The profile of a model: everything that prevention is judged by, measured alike on any checkpoint."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from superweights.artefacts.shape import NullIsNan, shaped
from superweights.errors import SuperweightsError
from superweights.interpretability.asking import ask
from superweights.interpretability.kurtosis import Kurtosis, Tails
from superweights.lab import measures
from superweights.lab.inner import inner_numbers
from superweights.lab.looking import Attention, Stream
from superweights.lab.penalty import penalties
from superweights.record import Score
from superweights.scoring import token_losses

# A number that was none when it was written stands as null in JSON.
Number = Annotated[float, NullIsNan()]
Roles = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Profile:
    """What a model does on held-out rows `[rows, tokens]`, in float32. Shares are between 0 and 1; None: hidden by
    this model's attention, or not asked for.

    Every number about sinks depends on `tokens`, the beginning-of-sequence rule and the threshold; `uniform_mass` is
    what attention that makes no difference would show. Means over layers are of each layer alike.
    """

    rows: int
    tokens: int
    parameters: int  # numbers of the model, each once
    loss: Number  # nats per token, positions 1 to the last
    loss_by_role: dict[str, Number]  # the same, by kind of position, where the task tells them apart
    # Attention on token 0.
    uniform_mass: Number  # also the argmax share by chance
    argmax_share: float | None  # of (head, query > 0) pairs that look anywhere: largest |weight| on token 0
    mass: float | None  # mean |weight| on token 0, queries > 0
    mass_proxy: float | None  # the same of |A| over its rows' sums
    sink_rate: float | None  # Sink_1^0.3: heads whose mean weight on token 0 is above 0.3, per row of text
    sink_rate_proxy: float | None  # the same of |A| over its rows' sums
    largest_alpha: float | None  # of all heads the largest mean weight on token 0
    mass_by_role: dict[str, Number]  # `mass_proxy` by kind of query
    row_sum: (
        float | None
    )  # what a query's weights add up to; 1 less this is the null slot's where there is one
    nowhere: float | None  # (head, query) pairs whose weights are all zero
    causal_zeros: float | None  # exact zeros among the causal entries
    dead_heads: float | None  # heads that give nothing on 95 % of tokens
    value_drain: float | None  # norm of token 0's value over the mean of the others'
    # The residual stream after each block.
    peak_first: Number  # largest |x| of token 0 (mean over rows), in the layer where it is largest
    peak_others: Number  # the same of the other tokens
    norm_ratio: Number  # norm of token 0 over the mean of all, in the layer where it is largest
    massive: Number  # rows with an |x| above 100 and 1,000 times the layer's median (Sun et al. 2402.17762)
    max_median_ratio: (
        Number  # largest over median |x| of a token, mean over tokens, largest layer (He et al.)
    )
    # Kurtosis in its three senses; none is the excess.
    kurtosis_channel_first: Number  # over the channels of token 0, mean over layers; Gaussian 3 (Kaul et al.)
    kurtosis_channel_others: Number  # over the channels of the other tokens
    kurtosis_neuron: Number  # of the channels' sizes, largest layer; 1: all alike (He et al.)
    kurtosis_flat: Number  # everything pooled; Gaussian 3 (Zuhri et al.)
    # `kurtosis_channel` in other bases: `random`, and `own`, the one that the optimizer works in.
    rotated_first: dict[str, Number]
    rotated_others: dict[str, Number]  # over the other tokens
    # Perplexity added by rounding every linear layer but the head, by scheme.
    penalties: dict[str, Number] = field(default_factory=dict)
    # Inside the blocks; None: hidden, or not asked for (they are where rounding penalties are).
    variance_growth: float | None = (
        None  # variance over channels, tokens > 0: after the last block over the first
    )
    late_removal: float | None = (
        None  # loss rise without one of the last third of the blocks, their mean, nats/token
    )
    neuron_peak: float | None = None  # largest |input| of a down-projection
    neuron_zeros: float | None = None  # exact zeros among these inputs, mean over layers
    neuron_near_zeros: float | None = None  # inputs below 0.01, mean over layers
    down_drift: float | None = None  # mean of a down-projection's weights in their standard deviations
    # Super weights that a search has proven; None: not searched.
    super_weights: int | None = None
    super_weights_verdict: str | None = None  # the gravest

    def scores(self) -> tuple[Score, ...]:
        """The numbers that stand for it in a record."""
        named = (
            ("loss", self.loss, "nats per token"),
            ("largest weight on token 0", self.argmax_share, "of query-head pairs"),
            ("weight on token 0", self.mass, "of attention"),
            ("kurtosis_channel of token 0", self.kurtosis_channel_first, "Gaussian: 3"),
            ("kurtosis_channel of other tokens", self.kurtosis_channel_others, "Gaussian: 3"),
            ("kurtosis_neuron", self.kurtosis_neuron, "1: none"),
            ("kurtosis_flat", self.kurtosis_flat, "Gaussian: 3"),
        )
        return tuple(Score(name, value, unit, self.rows) for name, value, unit in named if value is not None)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Profile:
        """The inverse of `to_json`; numbers that JSON has no word for come back as nan.

        Raises `SuperweightsError` naming the field that is none of a profile, or holds something else.
        """
        return shaped(cls, held, "a profile", "remove the file it stands in: the run makes it anew.")


@torch.no_grad()
def profile_of(
    model: nn.Module,
    ids: Tensor,
    *,
    roles: Roles | None = None,
    own_basis: Tensor | None = None,
    calibration: Tensor | None = None,
    seed: int = 0,
) -> Profile:
    """The profile of `model` on rows `ids [n, T]`, each of which begins as in training (BOS, or not).

    `roles(ids)` tells kinds of positions apart. `own_basis [d, d]` is a rotation in which kurtosis is taken too,
    beside a random one. With `calibration [m, T]`, rows that are not in `ids`, rounding penalties are measured, and
    what goes on inside the blocks. The
    model is put into eval mode for as long as it takes; random numbers go on as if nothing had been drawn.

    Raises `SuperweightsError` for a model whose attention cannot be seen, or that is no causal decoder.
    """
    if ids.ndim != 2 or ids.shape[1] < 4:
        raise SuperweightsError(
            f"A profile needs rows of 4 tokens or more, not {list(ids.shape)}.", hint="use longer windows."
        )
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            return _measured(model, ids, roles or (lambda ids: {}), own_basis, calibration, seed)
    finally:
        model.train(training)


def _measured(
    model: nn.Module, ids: Tensor, roles: Roles, own: Tensor | None, calibration: Tensor | None, seed: int
) -> Profile:
    width = _width(model)
    bases = {"random": measures.random_rotation(width, seed)} | ({} if own is None else {"own": own.float()})
    attention, stream, tails = ask(model, ids, Attention(roles), Stream(bases), Kurtosis())
    losses = token_losses(model, ids)
    by_role = {name: losses[mask[:, 1:].cpu()].mean().item() for name, mask in roles(ids).items()}
    return Profile(
        rows=len(ids),
        tokens=ids.shape[1],
        parameters=sum(p.numel() for p in model.parameters()),
        loss=losses.double().mean().item(),
        loss_by_role=by_role,
        **_attention_numbers(attention, ids.shape[1]),
        **_stream_numbers(stream, tails, tuple(bases)),
        penalties={} if calibration is None else penalties(model, ids, calibration),
        **({} if calibration is None else inner_numbers(model, ids)),
    )


def _attention_numbers(seen: Attention, tokens: int) -> dict[str, Any]:
    return {
        "uniform_mass": measures.uniform_mass(tokens),
        "argmax_share": seen.mean("argmax"),
        "mass": seen.mean("mass"),
        "mass_proxy": seen.mean("mass_proxy"),
        "sink_rate": seen.mean("raw"),
        "sink_rate_proxy": seen.mean("proxy"),
        "largest_alpha": seen.largest_alpha(),
        "mass_by_role": {name: torch.cat(held).mean().item() for name, held in seen.by_role.items()},
        "row_sum": seen.mean("sum"),
        "nowhere": seen.mean("nowhere"),
        "causal_zeros": seen.mean("zeros"),
        "dead_heads": seen.dead_share(),
        "value_drain": seen.mean("drain"),
    }


def _stream_numbers(stream: Stream, tails: Tails, bases: tuple[str, ...]) -> dict[str, Any]:
    mean = statistics.fmean
    return {
        "peak_first": max(tails.peak_first),
        "peak_others": max(tails.peak_others),
        "norm_ratio": max(stream.per_layer("ratio")),
        "massive": max(stream.per_layer("massive")),
        "max_median_ratio": max(stream.per_layer("median")),
        "kurtosis_channel_first": mean(tails.first),
        "kurtosis_channel_others": mean(tails.others),
        "kurtosis_neuron": max(stream.kurtosis_neuron()),
        "kurtosis_flat": stream.kurtosis_flat(),
        "rotated_first": {basis: mean(stream.per_layer(f"{basis} first")) for basis in bases},
        "rotated_others": {basis: mean(stream.per_layer(f"{basis} others")) for basis in bases},
    }


def _width(model: nn.Module) -> int:
    """The width of the residual stream."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    config: Any = getattr(model, "config", None)
    return int(getattr(config, "hidden_size", None) or embedding.weight.shape[1])
