"""How heavy are the tails of the activations? Kurtosis in the three senses that share the name.

- `per_token`: over the d features of one token (Kaul et al., arXiv 2410.17174, eq. 2), in the residual
  stream after each block, for first tokens and the others apart, beside the largest |x|.
- `attention`, `mlp`: over all elements of what attention and MLP write (Bondarenko et al., arXiv 2306.12929).
- `channels`: of one channel over tokens: which features are outliers, by kurtosis and by size.
- `weights`: of the elements of the MLP's output matrix.

Population moments, not excess: a Gaussian has 3. Each has a ceiling, `n - 2 + 1/(n - 1)` of n numbers, and
is only comparable as a share of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.interpretability.moments import Moments, ceiling
from superweights.interpretability.rows import PerRow
from superweights.interpretability.study import Study
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score
from superweights.taps import Site, Tap

_TOP = 5


@dataclass(frozen=True)
class OutlierFeature:
    """A channel of the residual stream: root mean square over tokens but the first, over the median channel's
    (`size`), and its kurtosis over all tokens."""

    channel: int
    size: float
    kurtosis: float


@dataclass(frozen=True)
class Tails:
    """The tails in each layer. Kurtoses are population values (Gaussian 3), means over rows of text.

    `first`, `others`: over the features of first tokens and of the rest; their ceiling is `token_ceiling`,
    set by the width alone. `peak_first`, `peak_others`: largest |x| (mean over rows of each row's largest).
    `attention`, `mlp`: over all elements of what is written, ceiling `tensor_ceiling`; None where this model
    has no such site. `channel_mean`, `channel_max`: of channels over tokens, ceiling `channel_ceiling`.
    `weights`: of the MLP's output matrix, None without one. `features` are the channels that stand out after
    the layer where the largest does.
    """

    rows: int
    tokens: int
    first: tuple[float, ...]
    others: tuple[float, ...]
    peak_first: tuple[float, ...]
    peak_others: tuple[float, ...]
    attention: tuple[float, ...] | None
    mlp: tuple[float, ...] | None
    channel_mean: tuple[float, ...]
    channel_max: tuple[float, ...]
    weights: tuple[float, ...] | None
    features: tuple[OutlierFeature, ...]
    features_layer: int
    """The layer after which they stand out."""
    token_ceiling: float
    tensor_ceiling: float
    channel_ceiling: float
    summary: tuple[Score, ...]
    """The few numbers that sum it up."""

    def scores(self) -> tuple[Score, ...]:
        return self.summary

    def sheets(self) -> tuple[Sheet, ...]:
        columns = ("layer", "token 0", "of ceiling", "others", "|x| token 0", "|x| others", "attention write",
                   "MLP write", "channels, mean", "channels, largest", "weights")  # fmt: skip
        rows = [
            (n, self.first[n], self.first[n] / self.token_ceiling, self.others[n], self.peak_first[n],
             self.peak_others[n], *(each[n] if each else None for each in (self.attention, self.mlp)),
             self.channel_mean[n], self.channel_max[n], self.weights[n] if self.weights else None)
            for n in range(len(self.first))
        ]  # fmt: skip
        note = (
            f"Gaussian 3; ceilings: over features {self.token_ceiling:.1f}, over a written tensor "
            f"{self.tensor_ceiling:,.0f}, over tokens {self.channel_ceiling:,.0f}"
        )
        features = [(f.channel, f.size, f.kurtosis) for f in self.features]
        return (
            Sheet("Kurtosis of the residual stream and what is written to it", columns, rows, note),
            Sheet(
                f"Features that stand out after layer {self.features_layer}",
                ("channel", "size over the median channel", "kurtosis over tokens"),
                features,
                "size: root mean square over tokens but the first",
            ),
        )

    def panels(self) -> tuple[Panel, ...]:
        ceiling_line = Series.over_layers("ceiling", [self.token_ceiling] * len(self.first), dashed=True)
        lines = [Series.over_layers("token 0", self.first), Series.over_layers("other tokens", self.others)]
        return (
            line_chart(
                "Kurtosis over features after each layer",
                "layer",
                "Gaussian: 3",
                [*lines, ceiling_line],
                log=True,
            ),
        )


class Kurtosis:
    """The reduction behind `superweights anatomy kurtosis`: answers with `Tails`."""

    def __init__(self) -> None:
        self._shape = (0, 0)
        self._kept = {name: PerRow() for name in ("first", "others", "peak_first", "peak_others")}
        self._pooled: dict[Site, Moments] = {}
        self._channels: dict[int, Moments] = {}
        self._later: dict[int, Tensor] = {}
        self._weights: dict[int, float] = {}

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        taps: dict[Site, Tap] = {site: self._on_stream(site.layer or 0) for site in body.every("block_out")}
        for kind in ("attn_write", "mlp_write"):
            if len(body.sites.layers_with(kind)) == body.layers:
                taps |= {site: self._on_write(site) for site in body.every(kind)}
        if len(body.sites.layers_with("mlp_act")) == body.layers:
            taps |= {site: self._on_weights(body, site) for site in body.every("mlp_act")}
        return taps

    def begin(self, ids: Tensor) -> None:
        if ids.shape[1] < 2:
            raise SuperweightsError(
                "Rows of one token have no tokens but the first.", hint="use windows of 2 or more tokens."
            )
        self._shape = self._shape[0] + ids.shape[0], ids.shape[1]

    def answer(self) -> Tails:
        rows, tokens = self._shape
        width = next(iter(self._channels.values())).mean.shape[0]
        per_channel = [self._channels[n].kurtosis() for n in sorted(self._channels)]
        layer, features = self._features()
        kept = {name: held.means() for name, held in self._kept.items()}
        return Tails(
            rows,
            tokens,
            **kept,
            attention=self._written("attn_write"),
            mlp=self._written("mlp_write"),
            channel_mean=tuple(each.nanmean().item() for each in per_channel),
            channel_max=tuple(each.nan_to_num().max().item() for each in per_channel),
            weights=tuple(self._weights[n] for n in sorted(self._weights)) or None,
            features=features,
            features_layer=layer,
            token_ceiling=ceiling(width),
            tensor_ceiling=ceiling(rows * tokens * width),
            channel_ceiling=ceiling(rows * tokens),
            summary=(
                self._kept["first"].score("kurtosis of first tokens", "over features"),
                self._kept["others"].score("kurtosis of other tokens", "over features"),
                self._kept["peak_first"].score("largest activation of first tokens", ""),
                self._kept["peak_others"].score("largest activation of other tokens", ""),
            ),
        )

    def _on_stream(self, layer: int) -> Tap:
        def look(hidden: Tensor) -> None:
            per_token = Moments.of(hidden).kurtosis()
            peaks = hidden.abs().amax(-1)
            self._kept["first"].add(layer, per_token[:, 0])
            self._kept["others"].add(layer, per_token[:, 1:].mean(1))
            self._kept["peak_first"].add(layer, peaks[:, 0])
            self._kept["peak_others"].add(layer, peaks[:, 1:].amax(1))
            flat = Moments.of(hidden.flatten(0, 1), 0)
            held = self._channels.get(layer)
            self._channels[layer] = flat if held is None else held.merged(flat)
            squares = hidden[:, 1:].float().square().sum((0, 1)).double().cpu()
            self._later[layer] = self._later.get(layer, 0) + squares

        return look

    def _on_write(self, site: Site) -> Tap:
        def look(written: Tensor) -> None:
            flat, held = Moments.of(written.flatten()), self._pooled.get(site)
            self._pooled[site] = flat if held is None else held.merged(flat)

        return look

    def _on_weights(self, body: Body, site: Site) -> Tap:
        def look(_: Tensor) -> None:
            if site.layer not in self._weights:
                matrix = body.matrix(site)
                self._weights[site.layer or 0] = Moments.of(matrix.flatten()).kurtosis().item()

        return look

    def _written(self, kind: str) -> tuple[float, ...] | None:
        sites = sorted(site for site in self._pooled if site.kind == kind)
        return tuple(self._pooled[site].kurtosis().item() for site in sites) or None

    def _features(self) -> tuple[int, tuple[OutlierFeature, ...]]:
        """The layer where a channel is largest beside the median one, and its largest channels."""
        sizes = {n: sums.sqrt() / sums.sqrt().median().clamp_min(1e-30) for n, sums in self._later.items()}
        layer = max(sizes, key=lambda n: sizes[n].max().item())
        top = sizes[layer].topk(min(_TOP, len(sizes[layer])))
        kurtosis = self._channels[layer].kurtosis()
        return layer, tuple(
            OutlierFeature(channel, size, kurtosis[channel].item())
            for size, channel in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        )


def reduction(study: Study) -> Kurtosis:
    """The reduction for `study`."""
    return Kurtosis()
