"""Attention with other weights in its place: what the model's own attention is worth.

`with attention_replaced(model, "uniform", layers=range(22, 29)): ...` for any stock model; what is masked stays
masked, and a learned sink keeps its mass. Source: "Large Vision-Language Models Get Lost in Attention" (arXiv
2605.05668) for the idea; its public code sets the logits of the last query over the image's keys in the late
layers to nearly equal numbers, and calls that Gaussian attention. Here every query of the given layers and
heads is replaced, by what the name says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.taps import Site, Tap, tapping

# What stands in place of the weights `[B, H, T, S]`, given where attention is allowed and a generator.
MODES: Mapping[str, str] = {
    "uniform": "equal weights over all that the mask allows",
    "gaussian": "softmax of normal random numbers",
    "dirichlet": "Dirichlet(1) random weights: any weights are equally likely",
    "self": "all weight on the token itself",
    "sink": "all weight on the first token that the mask allows",
    "no-sink": "the model's weights without token 0's, scaled back to their sum",
    "no-sink-value": "the model's weights, and zeros for the value of token 0",
    "shuffled": "the weights that the model has for another text of the batch",
}


def replaced_weights(weights: Tensor, allowed: Tensor, mode: str, generator: torch.Generator) -> Tensor:
    """Weights of the same shape and the same sum in each row, made as `mode` says (see `MODES`).

    `weights [B, H, T, S]` after the softmax, `allowed` the mask as booleans.
    """
    total = weights.sum(-1, keepdim=True)
    if mode == "no-sink":
        rest = weights.clone()
        rest[..., 0] = 0
        left = rest.sum(-1, keepdim=True)
        return torch.where(left > 0, rest * (total / left.clamp_min(1e-30)), weights)
    if mode == "shuffled":
        if len(weights) < 2:
            raise SuperweightsError(
                "Shuffled attention needs two texts in a batch.", hint="use --batch-size 2 or more."
            )
        other = weights.roll(1, 0) * allowed
        return other * (total / other.sum(-1, keepdim=True).clamp_min(1e-30))
    new = _drawn(allowed, mode, generator).to(weights.device)
    return (new / new.sum(-1, keepdim=True) * total).to(weights.dtype)


def dealt_among(
    weights: Tensor, allowed: Tensor, keys: Tensor, mode: str, generator: torch.Generator
) -> Tensor:
    """The weights with what falls on `keys [S]` dealt out anew among them, as `mode` says; the others stay.

    Queries that may look at none of these keys stay as they are. Raises `SuperweightsError` for the modes that are
    about token 0 or another text.
    """
    if mode not in ("uniform", "gaussian", "dirichlet"):
        raise SuperweightsError(
            f"Attention called {mode!r} is not made among some keys.",
            hint="use uniform, gaussian or dirichlet.",
        )
    here = keys[: weights.shape[-1]].to(weights.device)
    reached = allowed.to(weights.device) & here
    new = _drawn(reached, mode, generator).to(weights.device)
    part = (weights * here).sum(-1, keepdim=True)
    dealt = (new / new.sum(-1, keepdim=True).clamp_min(1e-30) * part).to(weights.dtype)
    return torch.where(here & reached.any(-1, keepdim=True), dealt, weights)


def _drawn(allowed: Tensor, mode: str, generator: torch.Generator) -> Tensor:
    """Weights, not yet of sum one, that do not depend on the model's own."""
    allowed = allowed.cpu()
    if mode == "uniform":
        return allowed.float()
    if mode == "gaussian":
        return torch.randn(allowed.shape, generator=generator).exp() * allowed
    if mode == "dirichlet":
        return torch.empty(allowed.shape).exponential_(generator=generator) * allowed
    if mode == "self":
        return torch.eye(allowed.shape[-2], allowed.shape[-1]).expand(allowed.shape) * allowed
    first = allowed.int().argmax(-1, keepdim=True)
    return torch.zeros(allowed.shape).scatter_(-1, first, 1.0)


@contextmanager
def attention_replaced(
    model: nn.Module,
    mode: str,
    layers: Iterable[int],
    *,
    heads: Sequence[int] | None = None,
    seed: int = 0,
    queries: Tensor | None = None,
    keys: Tensor | None = None,
    tower: str | None = None,
) -> Iterator[None]:
    """`model` with the attention of `layers` (and of these `heads` only, if given) replaced as `mode` says.

    `queries` and `keys` are masks over positions, `[T]` and `[S]` or longer: only these queries are replaced, and only
    the weight that falls on these keys is dealt out among them anew (None: all). `tower` as in `tapping`.

    Random weights are drawn anew for every batch, head and query, from `seed`. No key-value cache and no
    padding on the left: positions are those of the forward pass.

    Raises `SuperweightsError` for an unknown mode, for layers or heads that the model does not have, and
    for models whose attention weights cannot be seen.
    """
    if mode not in MODES:
        raise SuperweightsError(
            f"There is no attention called {mode!r}.", hint=f"choose from {', '.join(MODES)}."
        )
    chosen = sorted(set(layers))
    if not chosen:
        raise SuperweightsError("No layer is given.", hint="give the layers whose attention is replaced.")
    generator = torch.Generator().manual_seed(seed)
    taps: dict[Site, Tap] = {}
    for layer in chosen:
        taps |= (
            _silent_value(layer, heads)
            if mode == "no-sink-value"
            else _other(layer, mode, heads, generator, queries, keys)
        )
    with tapping(model, taps, tower):
        yield


def _other(
    layer: int,
    mode: str,
    heads: Sequence[int] | None,
    generator: torch.Generator,
    queries: Tensor | None,
    keys: Tensor | None,
) -> dict[Site, Tap]:
    """The taps of one layer that put other weights in place; the mask is read off the logits."""
    seen: dict[str, Tensor] = {}

    def before(logits: Tensor) -> None:
        seen["allowed"] = logits > torch.finfo(logits.dtype).min / 2

    def after(weights: Tensor) -> Tensor:
        allowed = seen.pop("allowed").expand(weights.shape)
        new = (
            replaced_weights(weights, allowed, mode, generator)
            if keys is None
            else dealt_among(weights, allowed, keys, mode, generator)
        )
        if queries is not None:
            asked = queries[: weights.shape[-2]].to(weights.device)
            new = torch.where(asked[:, None], new, weights)
        return new if heads is None else _only(weights, new, _existing(heads, weights.shape[1]))

    return {Site("logits", layer): before, Site("weights", layer): after}


def _silent_value(layer: int, heads: Sequence[int] | None) -> dict[Site, Tap]:
    """The tap of one layer that takes token 0's value away, for all heads."""
    if heads is not None:
        raise SuperweightsError(
            "Query heads share their values, so token 0's cannot be taken from some heads.",
            hint="leave the heads out, or use no-sink.",
        )

    def silence(values: Tensor) -> Tensor:
        values = values.clone()
        values[:, :, 0] = 0
        return values

    return {Site("v", layer): silence}


def _only(old: Tensor, new: Tensor, heads: list[int]) -> Tensor:
    mixed = old.clone()
    mixed[:, heads] = new[:, heads]
    return mixed


def _existing(heads: Sequence[int], count: int) -> list[int]:
    missing = [head for head in heads if not 0 <= head < count]
    if missing or not heads:
        raise SuperweightsError(
            f"There is no head {missing[0]}: a layer has {count}." if missing else "No head is given.",
            hint="heads count from 0.",
        )
    return list(heads)
