"""The reductions behind a profile: what is kept of attention and of the residual stream in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from superweights.interpretability.body import Body
from superweights.interpretability.chunks import check_causal
from superweights.interpretability.moments import Moments
from superweights.interpretability.rows import PerRow
from superweights.lab import measures
from superweights.taps import Site, Tap

EPSILON = 0.3
_SUN_SIZE, _SUN_RATIO = 100.0, 1000.0


class Attention:
    """Keeps what sinks are read from. `roles(ids)` tells kinds of tokens apart: the mass on token 0 of the
    queries that have to predict them is kept."""

    def __init__(self, roles: Callable[[Tensor], dict[str, Tensor]] | None = None):
        names = ("raw", "proxy", "argmax", "mass", "mass_proxy", "nowhere", "sum", "zeros", "drain", "alpha")
        self.kept = {name: PerRow() for name in names}
        self.by_role: dict[str, list[Tensor]] = {}
        self.dead: dict[int, Tensor] = {}
        self.tokens = 0
        self._roles_of = roles or (lambda ids: {})
        self._roles: dict[str, Tensor] = {}

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        taps: dict[Site, Tap] = {}
        for layer in body.attending():
            taps[Site("weights", layer)] = self._on_weights(layer)
            if Site("v", layer) in body.sites.places:
                taps[Site("v", layer)] = self._on_values(layer)
            if Site("head_out", layer) in body.sites.places:
                taps[Site("head_out", layer)] = self._on_out(layer)
        return taps

    def begin(self, ids: Tensor) -> None:
        self._roles = self._roles_of(ids)
        self.tokens += ids.numel()

    def answer(self) -> Any:
        """Itself: a profile reads it."""
        return self

    def mean(self, name: str) -> float | None:
        """The mean over layers and rows; None where the model hides it, or no row has any."""
        if not self.kept[name].layers:
            return None
        value = self.kept[name].stacked().nanmean().item()
        return None if value != value else value

    def largest_alpha(self) -> float:
        """Of all heads the largest mean weight on token 0."""
        return self.kept["alpha"].stacked().mean(1).max().item()

    def dead_share(self) -> float | None:
        """The share of heads that give nothing."""
        if not self.dead:
            return None
        return measures.dead_share(torch.cat(list(self.dead.values())), self.tokens)

    def _on_weights(self, layer: int) -> Tap:
        def look(weights: Tensor) -> None:
            check_causal(weights, layer)
            weights = weights.detach().float()
            even = measures.proxy(weights)
            alphas = measures.alpha(weights.abs())
            self.kept["alpha"].add(layer, alphas)
            self.kept["raw"].add(layer, (alphas > EPSILON).double().mean(1))
            self.kept["proxy"].add(layer, (measures.alpha(even) > EPSILON).double().mean(1))
            first, looking = measures.first_argmax(weights)
            self.kept["argmax"].add(layer, first / looking)  # nan where no query looks anywhere
            pairs = weights.shape[1] * (weights.shape[2] - 1)
            self.kept["nowhere"].add(layer, 1 - looking / pairs)
            self.kept["mass"].add(layer, weights[:, :, 1:, 0].abs().mean((1, 2)))
            self.kept["mass_proxy"].add(layer, even[:, :, 1:, 0].mean((1, 2)))
            self.kept["sum"].add(layer, weights[:, :, 1:].sum(-1).mean((1, 2)))
            self.kept["zeros"].add(layer, measures.causal_zeros(weights))
            for name, mask in self._roles.items():
                asking = mask[:, 1:].to(
                    even.device
                )  # the query before a token is the one that has to tell it
                found = even[:, :, :-1, 0].mean(1)[:, 1:][asking[:, 1:]]
                self.by_role.setdefault(name, []).append(found.double().cpu())

        return look

    def _on_values(self, layer: int) -> Tap:
        def look(values: Tensor) -> None:
            norms = values.detach().float().norm(dim=-1)
            self.kept["drain"].add(layer, (norms[..., 0] / norms[..., 1:].mean(-1)).mean(1))

        return look

    def _on_out(self, layer: int) -> Tap:
        def look(out: Tensor) -> None:
            self.dead[layer] = self.dead.get(layer, 0) + measures.dead_tokens(out.detach()).cpu()

        return look


class Stream:
    """Keeps what outliers of the residual stream are read from. `bases` are rotations `[d, d]` to look in as well."""

    def __init__(self, bases: Mapping[str, Tensor] | None = None):
        self.bases = dict(bases or {})
        names = ["ratio", "median", "massive"]
        names += [f"{basis} {which}" for basis in self.bases for which in ("first", "others")]
        self.kept = {name: PerRow() for name in names}
        self._squares: dict[int, Tensor] = {}
        self._tokens = 0
        self._flat: Moments | None = None

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        return {site: self._on_stream(site.layer or 0) for site in body.every("block_out")}

    def begin(self, ids: Tensor) -> None:
        self._tokens += ids.numel()

    def answer(self) -> Any:
        """Itself: a profile reads it."""
        return self

    def per_layer(self, name: str) -> tuple[float, ...]:
        """The mean over rows, for each layer."""
        return self.kept[name].means()

    def kurtosis_neuron(self) -> tuple[float, ...]:
        """For each layer."""
        return tuple(measures.kurtosis_neuron(self._squares[n] / self._tokens) for n in sorted(self._squares))

    def kurtosis_flat(self) -> float:
        """Of all layers and tokens pooled."""
        assert self._flat is not None
        return self._flat.kurtosis().item()

    def _on_stream(self, layer: int) -> Tap:
        def look(hidden: Tensor) -> None:
            hidden = hidden.detach().float()
            norms = hidden.norm(dim=-1)
            self.kept["ratio"].add(layer, norms[:, 0] / norms.mean(1))
            self.kept["median"].add(layer, measures.max_median_ratio(hidden).mean(1))
            sizes = hidden.abs()
            massive = (sizes > _SUN_SIZE) & (sizes > _SUN_RATIO * sizes.median())
            self.kept["massive"].add(layer, massive.flatten(1).any(1))
            squares = hidden.square().sum((0, 1)).double().cpu()
            self._squares[layer] = self._squares.get(layer, 0) + squares
            flat = Moments.of(hidden.flatten())
            self._flat = flat if self._flat is None else self._flat.merged(flat)
            for basis, rotation in self.bases.items():
                turned = measures.kurtosis_channel(hidden @ rotation.to(hidden))
                self.kept[f"{basis} first"].add(layer, turned[:, 0])
                self.kept[f"{basis} others"].add(layer, turned[:, 1:].mean(1))

        return look
