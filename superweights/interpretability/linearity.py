"""How far each block is from a linear map: the linearity of layers and the nonlinearity of single tokens.

Source: LLM-Microscope (arXiv 2502.15007, equations 1 and 2) and arXiv 2405.12250: the residual streams before
and after a block are centred, divided by their Frobenius norms and fitted by least squares; what is left
over is the nonlinearity.

Where we differ: the fit is made on some windows and judged on others (fitted and judged on the same N tokens,
anything is linear once N is near the width), tokens whose norm dwarfs the others' are judged apart (one in
each text carries nearly all of the Frobenius norm, and makes every deep block look linear), and the last
block is judged on what it writes, before the final norm. The published figure stands beside ours, labelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from superweights.axes import Bool, Float
from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.interpretability.study import Study
from superweights.interpretability.words_of import token_texts
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score
from superweights.taps import Site, Tap
from superweights.wording import counted

# A token is massive where it stands first, or its norm is so many times the batch's median.
MASSIVE = 10.0
# A fit needs so many tokens for each channel, or it explains noise.
TOKENS_PER_CHANNEL = 4
# One window in so many is held out. Bytes of sums of squares that are kept at a time; more layers, more passes.
_HELD_OUT, _BUDGET, _SHOWN = 4, 1 << 30, 8


def massive_tokens(hidden: Float[Tensor, "B T d"]) -> Bool[Tensor, "B T"]:
    """Which tokens of `hidden [B, T, d]` stand first or have over ten times the median norm: `[B, T]`, bool."""
    norms = hidden.float().norm(dim=-1)
    massive = norms > MASSIVE * norms.median()
    massive[:, 0] = True
    return massive


class NormalEquations:
    """Sums over tokens that a least-squares fit needs, in float64: `add` batches, then `fit`."""

    def __init__(self, width: int):
        self.n = 0
        self._x, self._y = (torch.zeros(width, dtype=torch.float64) for _ in range(2))
        self._xx, self._xy = (torch.zeros(width, width, dtype=torch.float64) for _ in range(2))
        self._yy = 0.0

    def add(self, before: Tensor, after: Tensor) -> None:
        """Tokens `[n, d]` before and after a block."""
        x, y = before.double().cpu(), after.double().cpu()
        self.n += len(x)
        self._x += x.sum(0)
        self._y += y.sum(0)
        self._xx.addmm_(x.T, x)
        self._xy.addmm_(x.T, y)
        self._yy += y.square().sum().item()

    def plus(self, before: Tensor, after: Tensor) -> NormalEquations:
        """A copy with more tokens in it."""
        other = NormalEquations(len(self._x))
        other.n, other._yy = self.n, self._yy
        for name in ("_x", "_y", "_xx", "_xy"):
            setattr(other, name, getattr(self, name).clone())
        other.add(before, after)
        return other

    def fit(self) -> Fit:
        """The best linear map of the centred tokens."""
        x, y = self._x / self.n, self._y / self.n
        xx = self._xx - self.n * torch.outer(x, x)
        xy = self._xy - self.n * torch.outer(x, y)
        matrix = _solve(xx, xy)
        spread_y = max(self._yy - self.n * y.square().sum().item(), 0.0)
        # of the map itself: ||XA - Y||² = ||Y||² - <XA, Y> at the optimum
        left = max(spread_y - (matrix * xy).sum().item(), 0.0)
        spread_d = spread_y - 2 * xy.trace().item() + xx.trace().item()
        return Fit(matrix, x, y, self.n, spread_y, spread_d, left)


@dataclass(frozen=True, eq=False)
class Fit:
    """The map `matrix [d, d]` of centred tokens, and what it leaves: `||Y - XA||²` of `||Y||²` (`spread`).

    `spread_update` is the squared norm of the centred update Y - X; the same residual belongs to its fit.
    """

    matrix: Tensor
    mean_before: Tensor
    """What X was centred by `[d]`."""
    mean_after: Tensor
    """What Y was centred by `[d]`."""
    n: int
    """How many tokens it was fitted on."""
    spread: float
    spread_update: float
    left: float
    """`||Y - XA||²`."""

    @property
    def linearity(self) -> float:
        """1 - ||XA - Y||² / ||Y||² on the tokens it was fitted on: the published Procrustes similarity."""
        return 1 - self.left / self.spread if self.spread else 1.0

    @property
    def linearity_of_update(self) -> float:
        """The same for the update alone, Y - X, in which the residual stream does not count as linear."""
        return 1 - self.left / self.spread_update if self.spread_update else 1.0

    def errors(self, before: Tensor, after: Tensor) -> Tensor:
        """The nonlinearity of each token `[n, d]`: how far the map misses it, `[n]`, float64.

        In root mean squared distances from the mean (equation 2 in the frame of equation 1, times √N), so
        that the mean of the squares over the fitted tokens is 1 - linearity, whatever N is.
        """
        missed = self.residual(before, after).norm(dim=1)
        return missed / ((self.spread / self.n) ** 0.5 or 1.0)

    def residual(self, before: Tensor, after: Tensor) -> Tensor:
        """What the map leaves of each token: `[n, d]`, float64."""
        x = before.double().cpu() - self.mean_before
        return after.double().cpu() - self.mean_after - x @ self.matrix


def _solve(xx: Tensor, xy: Tensor) -> Tensor:
    """The least-squares solution of `xx A = xy`; directions without tokens get none of it."""
    factor, failed = torch.linalg.cholesky_ex(xx)
    smallest, largest = factor.diagonal().min().item(), factor.diagonal().max().item()
    if not failed.item() and smallest > 1e-6 * largest:
        return torch.cholesky_solve(xy, factor)
    values, vectors = torch.linalg.eigh(xx)
    kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    return (vectors[:, kept] / values[kept]) @ (vectors[:, kept].T @ xy)


@dataclass(frozen=True)
class LayerLinearity:
    """One block. `linearity` and `update` (the residual stream left out) are those of held-out tokens, massive
    ones apart; `token_error` is the held-out tokens' root mean squared nonlinearity, `massive_error` the
    massive ones' under the same map. `published` is fitted and judged on the same tokens, massive ones
    among them, of whose squared norm they carry `massive_share`.
    """

    layer: int
    """The block, counted from 0."""
    linearity: float
    update: float
    token_error: float
    massive_error: float
    massive_share: float
    published: float
    published_update: float
    """The same with the residual stream left out."""


@dataclass(frozen=True)
class FarToken:
    """A token that a block maps far from the linear map: its nonlinearity, its text, where it stood."""

    layer: int
    """The block."""
    nonlinearity: float
    """How far the map misses it, in root mean squared distances from the mean."""
    text: str
    window: int
    """In which window it stood."""
    position: int
    """At which token of it."""


@dataclass(frozen=True)
class Linearity:
    """How linear the blocks are: fitted on `fitted` tokens and judged on `judged` others."""

    layers: tuple[LayerLinearity, ...]
    """One for each block."""
    farthest: tuple[FarToken, ...]
    """The tokens that a line misses by most."""
    fitted: int
    judged: int

    def scores(self) -> tuple[Score, ...]:
        mean = sum(each.linearity for each in self.layers) / len(self.layers)
        update = sum(each.update for each in self.layers) / len(self.layers)
        return (
            Score("linearity, mean over layers", mean, "", self.judged),
            Score("linearity of the update, mean over layers", update, "", self.judged),
        )

    def sheets(self) -> tuple[Sheet, ...]:
        titles = ("layer", "linearity", "of the update", "token error", "massive error", "massive share",
                  "published way", "published, update")  # fmt: skip
        rows = [tuple(vars(each).values()) for each in self.layers]
        note = (
            f"Fitted on {self.fitted} tokens, judged on {self.judged} of other windows, massive tokens apart. "
            "Published way: fitted and judged on the same tokens, massive ones among them."
        )
        far = [(t.layer, t.nonlinearity, t.text, t.window, t.position) for t in self.farthest]
        return (
            Sheet("how linear each block is", titles, rows, note),
            Sheet("least linear tokens", ("layer", "nonlinearity", "token", "window", "position"), far),
        )

    def panels(self) -> tuple[Panel, ...]:
        series = [
            Series.over_layers("linearity of held-out tokens", [e.linearity for e in self.layers]),
            Series.over_layers("of the update alone", [e.update for e in self.layers]),
            Series.over_layers("the published way", [e.published for e in self.layers], dashed=True),
        ]
        return (line_chart("linearity of blocks", "layer", "1 - relative squared error", series),)


def investigate(study: Study, layers: Sequence[int] | None = None) -> Linearity:
    """How linear the blocks of the study's model are (only `layers`, if given). Two passes for each gigabyte of
    sums.

    Raises `SuperweightsError` for fewer than four fitted tokens for each channel.
    """
    body = Body.of(study.model)
    body.every("block_in", "block_out")
    width = _width(body)
    held_out = torch.arange(len(study.ids)) % _HELD_OUT == _HELD_OUT - 1
    _check_enough(study.ids, held_out, width)
    at_once = max(1, _BUDGET // (16 * width * width))
    found: list[LayerLinearity] = []
    far: list[FarToken] = []
    wanted = list(range(body.layers) if layers is None else layers)
    for start in range(0, len(wanted), at_once):
        group = wanted[start : start + at_once]
        (fits,) = replace(study, ids=study.ids[~held_out]).ask(_Fitting(group, width))
        (judged,) = replace(study, ids=study.ids[held_out]).ask(_Judging(fits))
        found += judged.layers
        far += judged.farthest(study, held_out.nonzero()[:, 0])
    far.sort(key=lambda token: -token.nonlinearity)
    return Linearity(tuple(found), tuple(far[:_SHOWN]), fits[group[0]].fit.n, judged.n)


def _check_enough(ids: Tensor, held_out: Tensor, width: int) -> None:
    rows, tokens = int((~held_out).sum()), ids.shape[1] - 1
    needed = TOKENS_PER_CHANNEL * width
    if rows * tokens < needed or not bool(held_out.any()):
        share = 1 - 1 / _HELD_OUT
        windows = max(_HELD_OUT, int(needed / share / max(tokens, 1)) + 2)
        raise SuperweightsError(
            f"Linearity of {width} channels needs {needed} tokens to fit, and {rows * max(tokens, 0)} are given: "
            "with too few, everything looks linear.",
            hint=f"use {counted(windows, 'window')} of {counted(ids.shape[1], 'token')}, or longer ones.",
        )


@dataclass(frozen=True, eq=False)
class _Fitted:
    fit: Fit
    everything: Fit
    massive_share: float


class _Fitting:
    """The fits of some layers, with and without their massive tokens. Answers with a dictionary of layers."""

    def __init__(self, layers: Sequence[int], width: int):
        self._sums = {layer: NormalEquations(width) for layer in layers}
        self._massive: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
        self._before: Tensor | None = None

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        return _pairs(self._sums, self._note)

    def begin(self, ids: Tensor) -> None:
        pass

    def _note(self, layer: int, before: Tensor, after: Tensor) -> None:
        apart = massive_tokens(before) | massive_tokens(after)
        self._sums[layer].add(before[~apart], after[~apart])
        self._massive[layer].append((before[apart].clone().cpu(), after[apart].clone().cpu()))

    def answer(self) -> dict[int, _Fitted]:
        found = {}
        for layer, sums in self._sums.items():
            before, after = (torch.cat(part) for part in zip(*self._massive[layer], strict=True))
            both = sums.plus(before, after).fit()
            spread = (after.double() - both.mean_after).square().sum().item()
            found[layer] = _Fitted(sums.fit(), both, spread / both.spread if both.spread else 0.0)
        return found


class _Judging:
    """The errors of other tokens under fits that were made before."""

    def __init__(self, fits: Mapping[int, _Fitted]):
        self._fits = fits
        self._sums = {layer: torch.zeros(5, dtype=torch.float64) for layer in fits}
        self._n = dict.fromkeys(fits, 0)
        self._far: list[tuple[float, int, int, int]] = []
        self._row = self._rows = 0

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        return _pairs(self._fits, self._note)

    def begin(self, ids: Tensor) -> None:
        self._row, self._rows = self._rows, self._rows + len(ids)

    def _note(self, layer: int, before: Tensor, after: Tensor) -> None:
        fit = self._fits[layer].fit
        apart = (massive_tokens(before) | massive_tokens(after)).cpu()
        errors = fit.errors(before.flatten(0, 1), after.flatten(0, 1)).reshape(apart.shape)
        kept = (~apart).to(before.device)
        x, y = before[kept].double().cpu() - fit.mean_before, after[kept].double().cpu() - fit.mean_after
        left = fit.residual(before[kept], after[kept]).square().sum()
        parts = [left, y.square().sum(), _spread(y - x), errors[apart].square().sum(), apart.sum()]
        self._sums[layer] += torch.stack([part.double() for part in parts])
        self._n[layer] += int(kept.sum())
        best = errors.masked_fill(apart, 0).flatten().topk(min(4, errors.numel()))
        for value, at in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row, position = divmod(at, apart.shape[1])
            self._far.append((value, layer, self._row + row, position))
        self._far = sorted(self._far, reverse=True)[: 4 * _SHOWN]

    def answer(self) -> _Judging:
        return self

    @property
    def n(self) -> int:
        """Tokens judged in the first layer."""
        return next(iter(self._n.values()))

    @property
    def layers(self) -> list[LayerLinearity]:
        """The layers' numbers."""
        found = []
        for layer, sums in self._sums.items():
            left, spread, update, massive, count = sums.tolist()
            fitted = self._fits[layer]
            scale = fitted.fit.spread / fitted.fit.n
            found.append(
                LayerLinearity(
                    layer,
                    1 - left / spread if spread else 1.0,
                    1 - left / update if update else 1.0,
                    (left / self._n[layer] / scale) ** 0.5 if scale else 0.0,
                    (massive / count) ** 0.5 if count else 0.0,
                    fitted.massive_share,
                    fitted.everything.linearity,
                    fitted.everything.linearity_of_update,
                )
            )
        return found

    def farthest(self, study: Study, windows: Tensor) -> list[FarToken]:
        """The least linear tokens, with their texts."""
        places = [(int(windows[row]), position) for _, _, row, position in self._far]
        texts = token_texts(study.tokenizer, [int(study.ids[place]) for place in places])
        return [
            FarToken(layer, value, text, window, position)
            for (value, layer, _, _), text, (window, position) in zip(self._far, texts, places, strict=True)
        ]


def _pairs(layers: Mapping[int, object], note) -> dict[Site, Tap]:
    """Taps that give `note(layer, before, after)` the residual stream around each block."""
    held: dict[int, Tensor] = {}
    taps: dict[Site, Tap] = {}
    for layer in layers:
        taps[Site("block_in", layer)] = lambda h, layer=layer: held.update({layer: h.clone()})
        taps[Site("block_out", layer)] = lambda h, layer=layer: note(layer, held.pop(layer), h)
    return taps


def _spread(rows: Tensor) -> Tensor:
    """The squared norm of `rows` about their mean."""
    return (rows - rows.mean(0)).square().sum() if len(rows) else rows.new_zeros(())


def _width(body: Body) -> int:
    known = body.model.get_input_embeddings()  # type: ignore[operator]
    config = getattr(body.model, "config", None)
    return getattr(config, "hidden_size", None) or known.weight.shape[1]
