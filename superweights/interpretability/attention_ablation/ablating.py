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
) -> Iterator[None]:
    """`model` with the attention of `layers` (and of these `heads` only, if given) replaced as `mode` says.

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
            _silent_value(layer, heads) if mode == "no-sink-value" else _other(layer, mode, heads, generator)
        )
    with tapping(model, taps):
        yield


def _other(layer: int, mode: str, heads: Sequence[int] | None, generator: torch.Generator) -> dict[Site, Tap]:
    """The taps of one layer that put other weights in place; the mask is read off the logits."""
    seen: dict[str, Tensor] = {}

    def before(logits: Tensor) -> None:
        seen["allowed"] = logits > torch.finfo(logits.dtype).min / 2

    def after(weights: Tensor) -> Tensor:
        new = replaced_weights(weights, seen.pop("allowed"), mode, generator)
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
