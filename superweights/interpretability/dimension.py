"""How many directions the residual stream uses: its intrinsic dimension, and how lopsided it is.

Sources: TwoNN (Facco et al. 2018) for the intrinsic dimension, and the share of the largest eigenvalue of the
covariance, which LLM-Microscope (arXiv 2502.15007) calls anisotropy (it is not the mean cosine of Ethayarajh
2019, hence its name here). Where we differ: both are asked of tokens that are not massive, because one token
in each text carries nearly all of the variance; the share with all tokens stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.axes import Float
from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score
from superweights.taps import Site, Tap

# How many tokens are kept, at most; the norm of a massive token over the median; too close to be two points.
ROWS, MASSIVE, _SAME = 1024, 10.0, 1e-6
# Rows of distances that stand at a time, and the fewest tokens that a dimension can be told from.
_CHUNK, _FEWEST = 256, 32
# The nearest points are looked for in float32 and measured in float64: so many candidates, and where even the
# nearest is closer than this share of the mean norm, all points.
_CANDIDATES, _CLOSE = 6, 0.05
# The share of neighbours that the published code fits to, and that of Facco et al.
PUBLISHED, FACCO = 0.2, 0.9


def two_nearest(points: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The distance of each of `points [n, d]` to its nearest and its second nearest other: `[n]` each, float64."""
    return _measured(points, _looked_for(points))


def _looked_for(points: Tensor) -> Tensor:
    """The few points that seem nearest to each of `points`, by distances in float32: `[n, candidates]`."""
    quick, found = points.float(), []
    for start in range(0, len(points), _CHUNK):
        distances = torch.cdist(quick[start : start + _CHUNK], quick)
        index = torch.arange(len(distances))
        distances[index, start + index] = torch.inf
        count = min(_CANDIDATES, len(points) - 1)
        found.append(distances.topk(count, dim=1, largest=False).indices)
    return torch.cat(found)


def _measured(points: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The two smallest distances of each point, measured in float64 among its candidates; among all points where
    even the nearest is so close that float32 may have looked for the wrong ones."""
    points, nearest = points.double(), []
    size = points.norm(dim=1).mean().item()
    for start in range(0, len(points), _CHUNK):
        part = slice(start, start + _CHUNK)
        exact = (points[part, None] - points[candidates[part]]).norm(dim=-1).sort(1).values[:, :2]
        close = (exact[:, 0] < _CLOSE * size).nonzero()[:, 0]
        if len(close):
            distances = torch.cdist(points[start + close], points)
            distances[torch.arange(len(close)), start + close] = torch.inf
            exact[close] = distances.topk(2, dim=1, largest=False).values
        nearest.append(exact)
    first, second = torch.cat(nearest).T
    return first, second


def intrinsic_dimension(points: Float[Tensor, "n d"], share: float = PUBLISHED) -> float:
    """The TwoNN dimension of `points [n, d]`: -log(1 - F(μ)) over log μ, μ the ratio of the two nearest distances.

    Fitted through the origin on the `share` of points with the smallest ratios. Of points that stand on each
    other (within 1e-6 of the mean norm) one is kept; the published code leaves out those whose nearest is a
    copy, but not their neighbours, which then have two equally near ones and raise the dimension. Memory: 256
    rows of distances. Raises `SuperweightsError` for fewer than 32 different points.
    """
    return _fitted(neighbour_ratios(points), share)


def neighbour_ratios(points: Float[Tensor, "n d"]) -> Float[Tensor, " different"]:
    """log of the second nearest distance over the nearest, of each different one of `points [n, d]`, sorted.

    The part of `intrinsic_dimension` that takes time: several fits can share it.
    """
    centred = points.double() - points.double().mean(0)
    points = centred / (centred.norm(dim=1).mean() or 1.0)
    candidates = _looked_for(points) if len(points) > 1 else torch.empty(len(points), 0, dtype=torch.long)
    kept = _different(points, candidates)
    n = int(kept.sum())
    if n < _FEWEST:
        raise SuperweightsError(
            f"Only {n} of {len(kept)} tokens differ; a dimension needs {_FEWEST}.",
            hint="use more windows of a text.",
        )
    if n < len(points):
        points = points[kept]
        candidates = _looked_for(points)
    first, second = _measured(points, candidates)
    return (second / first).log().sort().values


def _fitted(ratios: Tensor, share: float) -> float:
    """The slope of -log(1 - F) over the smallest `share` of the sorted log ratios."""
    n = len(ratios)
    empirical = torch.arange(1, n + 1, dtype=torch.float64) / n
    used = slice(0, min(max(2, int(n * share)), n - 1))  # at the last point F is 1
    x, y = ratios[used], -torch.log1p(-empirical[used])
    return ((x * y).sum() / x.square().sum()).item()


def _different(points: Tensor, candidates: Tensor) -> Tensor:
    """Which of `points` do not stand on an earlier one: `[n]`. Only those with a candidate nearby are compared."""
    near = torch.zeros(len(points), dtype=torch.bool)
    for start in range(0, len(points), _CHUNK):
        part = slice(start, start + _CHUNK)
        near[part] = ((points[part, None] - points[candidates[part]]).norm(dim=-1) <= _SAME).any(1)
    kept = torch.ones(len(points), dtype=torch.bool)
    for row in near.nonzero()[:, 0].tolist():
        kept[row] = bool((torch.cdist(points[row, None], points[:row]) > _SAME).all())
    return kept


def top_eigen_share(points: Float[Tensor, "n d"]) -> float:
    """The largest eigenvalue's share of the covariance of `points [n, d]`: about 1/d to 1."""
    wide = points if points.dtype == torch.float64 else points.float()
    centred = wide - wide.mean(0)
    centred = centred / centred.abs().max().clamp_min(1e-30)
    gram = centred @ centred.T if len(points) < points.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram)
    return (values[-1] / values.sum()).item() if values.sum() > 0 else 1.0


@dataclass(frozen=True)
class LayerDimension:
    """The residual stream after one block: its dimension by the published fit and by Facco's, and the largest
    eigenvalue's share without and with massive tokens; `massive` is how many of those were in the sample.
    """

    layer: int
    """The block, counted from 0."""
    dimension: float | None
    """By the published fit; None where it has no answer."""
    dimension_facco: float | None
    """By Facco's fit; None where it has no answer."""
    top_eigen_share: float
    """Without massive tokens."""
    top_eigen_share_all: float
    """With them."""
    massive: int


@dataclass(frozen=True)
class Dimension:
    """How many directions the residual stream uses, block by block, on a sample of `rows` tokens."""

    layers: tuple[LayerDimension, ...]
    """One for each block."""
    rows: int
    width: int
    """Channels of the residual stream."""

    def scores(self) -> tuple[Score, ...]:
        known = [each for each in self.layers if each.dimension is not None]
        if not known:
            return ()
        most = max(known, key=lambda each: each.dimension or 0.0)
        return (
            Score(f"largest intrinsic dimension (layer {most.layer})", most.dimension or 0.0, "", self.rows),
        )

    def sheets(self) -> tuple[Sheet, ...]:
        titles = ("layer", "dimension", "Facco's fit", "top eigen share", "with massive tokens", "massive")
        note = (
            f"A seeded sample of {self.rows} tokens, {self.width} channels; massive tokens (first of a window, or "
            f"over {MASSIVE:g} times the median norm) are left out unless said. The dimension of a sample grows "
            "with its size where it is large; compare equal samples."
        )
        return (
            Sheet(
                "directions of the residual stream",
                titles,
                [tuple(vars(e).values()) for e in self.layers],
                note,
            ),
        )

    def panels(self) -> tuple[Panel, ...]:
        first = [
            Series.over_layers("lowest fifth of the ratios", [e.dimension for e in self.layers]),
            Series.over_layers("lowest 90 % (Facco)", [e.dimension_facco for e in self.layers]),
        ]
        second = [
            Series.over_layers("without massive tokens", [e.top_eigen_share for e in self.layers]),
            Series.over_layers("with them", [e.top_eigen_share_all for e in self.layers], dashed=True),
        ]
        return (
            line_chart("intrinsic dimension (TwoNN)", "layer", "dimensions", first),
            line_chart("largest eigenvalue of the covariance", "layer", "share", second),
        )


class Dimensions:
    """The question as a reduction: keeps the same `rows` tokens of every layer, a seeded sample."""

    def __init__(self, rows: int = ROWS, seed: int = 0, of: int | None = None):
        """`of` is how many tokens the whole text has, where that is known: too few are refused at once."""
        if of is not None and of < _FEWEST:
            raise SuperweightsError(
                f"The text has {of} tokens; a dimension needs {_FEWEST}.",
                hint="use longer windows, or more of them.",
            )
        self._rows = rows
        self._generator = torch.Generator().manual_seed(seed)
        self._keys = torch.empty(0, dtype=torch.float64)
        self._first = torch.empty(0, dtype=torch.bool)
        self._kept: dict[int, Tensor] = {}
        self._choice = torch.empty(0, dtype=torch.long)
        self._fresh = torch.empty(0, dtype=torch.long)

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        return {site: lambda h, layer=site.layer: self._keep(layer, h) for site in body.every("block_out")}

    def begin(self, ids: Tensor) -> None:
        """Which of the tokens so far stay: those with the smallest of random keys, whatever the batches are."""
        held = len(self._keys)
        keys = torch.rand(ids.shape, generator=self._generator, dtype=torch.float64).flatten()
        first = torch.zeros(ids.shape, dtype=torch.bool)
        first[:, 0] = True
        keys, first = torch.cat([self._keys, keys]), torch.cat([self._first, first.flatten()])
        order = keys.argsort()[: self._rows].sort().values
        self._keys, self._first = keys[order], first[order]
        self._choice, self._fresh = order[order < held], order[order >= held] - held

    def _keep(self, layer: Any, hidden: Tensor) -> None:
        fresh = hidden.flatten(0, 1)[self._fresh.to(hidden.device)].float().cpu()
        held = self._kept.get(layer)
        self._kept[layer] = fresh if held is None else torch.cat([held[self._choice], fresh])

    def answer(self) -> Dimension:
        layers = tuple(self._layer(layer, points) for layer, points in sorted(self._kept.items()))
        return Dimension(layers, len(self._keys), next(iter(self._kept.values())).shape[1])

    def _layer(self, layer: int, points: Tensor) -> LayerDimension:
        norms = points.norm(dim=1)
        massive = self._first | (norms > MASSIVE * norms.median())
        rest = points[~massive]
        return LayerDimension(
            layer,
            *_dimensions_or_none(rest),
            top_eigen_share(rest) if len(rest) else 1.0,
            top_eigen_share(points),
            int(massive.sum()),
        )


def reduction(study: Any) -> Dimensions:
    """The question for `study`."""
    return Dimensions(seed=study.seed, of=study.ids.numel())


def _dimensions_or_none(points: Tensor) -> tuple[float | None, float | None]:
    """The dimension by both fits, or None where too few tokens differ (a constant layer)."""
    try:
        ratios = neighbour_ratios(points)
    except SuperweightsError:
        return None, None
    return _fitted(ratios, PUBLISHED), _fitted(ratios, FACCO)
