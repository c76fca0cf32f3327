"""A matrix rounded with its inputs in view: the error of the product is made small, not that of the weights.

With inputs x of second moment H = mean(x x^T), rounding W to Q costs tr((W - Q) H (W - Q)^T) in the product. Three
steps, each of which only lowers that cost or leaves it:

1. Codes column by column; what one column's rounding adds to the product is taken back by the columns that are still
   to be rounded. Columns of large H come first: their order changes nothing that is stored, because every block's scale
   is fitted before (by the scheme's data-free fit) and stays while the codes are chosen.
2. The scales and offsets of all blocks together, by conjugate gradients, for the codes as they are.
3. Codes once more, each to the best value while all others stay.

Source: GPTQ (Frantar et al., arXiv 2210.17323, algorithm 1) for step 1, with "static groups" and "act order" of its
authors' code; QuantEase (Behdin et al., arXiv 2309.01885) for step 3. Where we differ: the start is the centred fit,
kept weights have no error and take none, steps 2 and 3 alternate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from superweights.quantization.cutting import cut, join
from superweights.quantization.fit import Fitted
from superweights.quantization.grids import Grid, Integers, grid_of
from superweights.quantization.scheme import Scheme
from superweights.quantization.tensor import Quantized, quantize_tensor

# Columns that are rounded before the rest of the matrix hears of it: no more than a matter of speed.
_STRIP = 16
_CONJUGATE_STEPS = 5


@dataclass(frozen=True, eq=False)
class InputMoments:
    """What is known of a layer's inputs: `second` `[inputs, inputs]`, the mean of x x^T over tokens."""

    second: Tensor


@dataclass(frozen=True)
class Effort:
    """How hard it is tried; the defaults were chosen on text that no table shows."""

    damping: float = 0.01
    """Added to every input's second moment, as a share of their mean: how far the moments are mistrusted."""
    rounds: int = 1
    """How often scales and codes take turns after the first codes (steps 2 and 3)."""


def round_by_inputs(
    weight: Tensor,
    scheme: Scheme,
    moments: InputMoments,
    keep: Sequence[tuple[int, ...]] = (),
    out_axis: int = 0,
    effort: Effort = Effort(),
) -> Quantized:
    """`weight` rounded by `scheme` with the least error in its product with inputs of these `moments`.

    A matrix `[outputs, inputs]`, or transposed with `out_axis` 1. Scales start from the scheme's fit (`second_order`:
    the data-free one of its grid). Weights at `keep` stay exactly as they are. Errors as `quantize_tensor`.
    """
    start = quantize_tensor(weight, data_free(scheme), keep, out_axis)
    problem = _Problem(weight, start, moments, effort)
    levels = problem.first_levels(start.blocks)
    fitted = start.blocks
    for _ in range(effort.rounds):
        fitted = problem.refitted(fitted, levels)
        levels = problem.improved(fitted, levels)
    codes = problem.codes(levels, start)
    return replace(start, scheme=scheme, codes=codes, blocks=fitted)


def data_free(scheme: Scheme) -> Scheme:
    """`scheme` with the fit that stands in for `second_order` where no inputs are known."""
    if scheme.fit != "second_order":
        return scheme
    floats = scheme.zero_point == "float" and isinstance(grid_of(scheme), Integers)
    return replace(scheme, fit="centred" if floats else "range")


class _Problem:
    """One matrix, inputs first (`[inputs, outputs]`: its columns are rows here), and what its error costs."""

    def __init__(self, weight: Tensor, start: Quantized, moments: InputMoments, effort: Effort):
        self._start, self._grid = start, grid_of(start.scheme)
        exact = self._turned(weight.detach().float().cpu())
        second = moments.second.float()
        diagonal = second.diagonal()
        unseen = diagonal <= 0
        damped = second + torch.diag(
            torch.where(unseen, 1.0, 0.0) + effort.damping * float(diagonal.mean() or 1.0)
        )
        self._cost = damped
        kept = start.kept.indices.long()
        self._held = torch.zeros_like(exact, dtype=torch.bool)
        if len(kept):
            outputs, inputs = kept.T if start.out_axis == 0 else kept.T.flip(0)
            self._held[inputs, outputs] = True
        self._exact = exact
        self._order = damped.diagonal().argsort(descending=True)

    def first_levels(self, fitted: Fitted) -> Tensor:
        """The grid values of the codes of step 1, `[inputs, outputs]`."""
        order = self._order
        cost = self._cost[order][:, order].double()
        inverse = torch.linalg.inv(cost)
        upper = torch.linalg.cholesky((inverse + inverse.T) / 2, upper=True).float()
        place = _Places(self._spread(fitted), order)
        rest = self._exact[order]
        exact, held = self._exact[order], self._held[order]
        levels = torch.empty_like(rest)
        for start in range(0, len(rest), _STRIP):
            end = min(start + _STRIP, len(rest))
            strip = rest[start:end]
            errors = torch.empty_like(strip)
            for row in range(end - start):
                at = start + row
                level, value = place.nearest(strip[row], at, self._grid)
                levels[at] = level
                value = torch.where(held[at], exact[at], value)
                errors[row] = (strip[row] - value) / upper[at, at]
                if row + 1 < end - start:
                    strip[row + 1 :].addr_(upper[at, at + 1 : end], errors[row], alpha=-1)
            rest[end:].addmm_(upper[start:end, end:].T, errors, alpha=-1)
        back = torch.empty_like(levels)
        back[order] = levels
        return back

    def improved(self, fitted: Fitted, levels: Tensor) -> Tensor:
        """Step 3: each code at its best while the others stay, in one pass over the columns."""
        order, cost = self._order, self._cost
        place = _Places(self._spread(fitted), torch.arange(len(levels)))
        levels = levels.clone()
        values = torch.where(self._held, self._exact, place.values(levels))
        slope = cost @ (self._exact - values)
        for start in range(0, len(order), _STRIP):
            rows = order[start : start + _STRIP]
            inner, local = cost[rows][:, rows], slope[rows]
            moved = torch.empty_like(local)
            for row, at in enumerate(rows.tolist()):
                wanted = values[at] + local[row] / inner[row, row]
                level, value = place.nearest(wanted, at, self._grid)
                value = torch.where(self._held[at], self._exact[at], value)
                moved[row] = value - values[at]
                levels[at], values[at] = level, value
                local[row + 1 :].addr_(inner[row + 1 :, row], moved[row], alpha=-1)
            slope.addmm_(cost[:, rows], moved, alpha=-1)
        return levels

    def refitted(self, fitted: Fitted, levels: Tensor) -> Fitted:
        """Step 2: scales, and float offsets where there are any, that cost least with these codes."""
        if fitted.doubled is not None or fitted.tensor_scale is not None or not _is_plain(fitted.scales):
            return fitted
        free = (~self._held).float()
        spread = self._spread(fitted)
        shifted = levels if spread.zero_points is None else levels - spread.zero_points
        direction = self._cut(shifted * free)
        ones = self._cut(free)
        mean = direction.sum(1, keepdim=True) / ones.sum(1, keepdim=True).clamp(min=1)
        offsets = fitted.offsets is not None
        if offsets:
            direction = direction - mean * ones
        diagonal = self._cut(self._cost.diagonal()[:, None] * free)
        weights = [(diagonal * direction.square()).sum(1, keepdim=True)]
        weights += [diagonal.sum(1, keepdim=True)] if offsets else []
        precondition = [torch.where(w > 0, 1 / w.clamp(min=1e-30), 0.0) for w in weights]

        def forward(unknown: list[Tensor]) -> Tensor:
            blocks = unknown[0] * direction
            return self._join(blocks + unknown[1] * ones if offsets else blocks)

        def adjoint(gradient: Tensor) -> list[Tensor]:
            blocks = self._cut(gradient)
            found = [(blocks * direction).sum(1, keepdim=True)]
            return [*found, (blocks * ones).sum(1, keepdim=True)] if offsets else found

        scale = fitted.scale()
        unknown = [scale]
        if offsets:
            assert fitted.offsets is not None
            unknown.append(fitted.offsets.float() + scale * mean)
        away = (self._exact - torch.where(self._held, self._exact, 0.0)) - forward(unknown)
        unknown = _conjugate(unknown, adjoint(self._cost @ away), precondition, forward, adjoint, self._cost)
        good = unknown[0].isfinite() & (unknown[0] * scale > 0)
        scales = _as_stored(torch.where(good, unknown[0], scale), fitted.scales)
        if not offsets:
            return replace(fitted, scales=scales)
        assert fitted.offsets is not None
        moved = _as_stored(unknown[1] - scales.float() * mean, fitted.offsets)
        return replace(fitted, scales=scales, offsets=torch.where(good, moved, fitted.offsets))

    def codes(self, levels: Tensor, start: Quantized) -> Tensor:
        """The codes of `levels` as `Quantized` holds them, those of padding as they were."""
        blocks = cut(self._turned(levels), self._start.scheme.blocks, self._start.out_axis)
        found = self._grid.nearest(blocks)
        stands = cut(torch.ones(start.shape, dtype=torch.bool), start.scheme.blocks, start.out_axis)
        return torch.where(stands, found, start.codes)

    def loss(self, quantized: Quantized) -> float:
        """The cost of `quantized`, as a share of what 0 in place of every weight would cost."""
        error = self._exact - self._turned(quantized.dequantize(torch.float32))
        both = [float((self._cost @ each * each).sum()) for each in (error, self._exact)]
        return both[0] / both[1] if both[1] else 0.0

    def _turned(self, matrix: Tensor) -> Tensor:
        """The stored matrix as `[inputs, outputs]`, and back."""
        return matrix if self._start.out_axis else matrix.T.contiguous()

    def _spread(self, fitted: Fitted) -> Fitted:
        """`fitted` with what is stored for each block at every weight of it, `[inputs, outputs]`."""
        shape = self._start.codes.shape

        def wide(stored: Tensor | None) -> Tensor | None:
            return None if stored is None else self._join(stored.float().expand(shape))

        scales = wide(fitted.scale())
        assert scales is not None
        return Fitted(scales, wide(fitted.offsets), wide(fitted.zero_points))

    def _join(self, blocks: Tensor) -> Tensor:
        start = self._start
        return self._turned(join(blocks, start.shape, start.scheme.blocks, start.out_axis))

    def _cut(self, matrix: Tensor) -> Tensor:
        return cut(self._turned(matrix), self._start.scheme.blocks, self._start.out_axis)


class _Places:
    """What is stored for every weight, row by row in `order`."""

    def __init__(self, spread: Fitted, order: Tensor):
        self._scales = spread.scales[order]
        self._inverse = torch.where(self._scales == 0, 0.0, 1 / self._scales)
        self._offsets = None if spread.offsets is None else spread.offsets[order]
        self._zeros = None if spread.zero_points is None else spread.zero_points[order]

    def nearest(self, wanted: Tensor, at: int, grid: Grid) -> tuple[Tensor, Tensor]:
        """Grid values and weights nearest to `wanted`, the row `at`."""
        steps = (wanted if self._offsets is None else wanted - self._offsets[at]) * self._inverse[at]
        if self._zeros is not None:
            steps += self._zeros[at]
        level = grid.nearest_values(steps)
        value = (level if self._zeros is None else level - self._zeros[at]) * self._scales[at]
        return level, value if self._offsets is None else value + self._offsets[at]

    def values(self, levels: Tensor) -> Tensor:
        """The weights of grid values `levels`, all rows."""
        value = (levels if self._zeros is None else levels - self._zeros) * self._scales
        return value if self._offsets is None else value + self._offsets


def _conjugate(unknown, residual, precondition, forward, adjoint, cost: Tensor) -> list[Tensor]:
    """`unknown` after some steps of preconditioned conjugate gradients; `residual` is what is left at the start."""
    turned = [p * r for p, r in zip(precondition, residual, strict=True)]
    direction, size = turned, _inner(residual, turned)
    for _ in range(_CONJUGATE_STEPS):
        image = adjoint(cost @ forward(direction))
        curvature = _inner(direction, image)
        if not curvature > 0 or not size > 0:
            break
        step = size / curvature
        unknown = [u + step * d for u, d in zip(unknown, direction, strict=True)]
        residual = [r - step * i for r, i in zip(residual, image, strict=True)]
        turned = [p * r for p, r in zip(precondition, residual, strict=True)]
        size, before = _inner(residual, turned), size
        direction = [t + size / before * d for t, d in zip(turned, direction, strict=True)]
    return unknown


def _inner(one: list[Tensor], other: list[Tensor]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))


def _is_plain(scales: Tensor) -> bool:
    """Whether scales are ordinary numbers, and no powers of two or 8-bit floats."""
    return scales.dtype in (torch.float32, torch.float16, torch.bfloat16)


def _as_stored(values: Tensor, like: Tensor) -> Tensor:
    """`values` in the dtype of `like`; where they do not fit it, `like`."""
    stored = values.to(like.dtype)
    return torch.where(stored.isfinite(), stored, like)
