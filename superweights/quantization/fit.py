"""The scale and offset of each block: from its range, by search, or by alternating with the rounding.

All of them are data-free. What each minimises, over the weights that count:

- `range`: nothing; the range becomes the grid's range (round to nearest).
- `mse`: the sum of squared errors, over ranges shrunk by 1.00 to 0.50. Measured on SmolLM2-135M this makes the
  model worse (perplexity 36.7 to 60 per channel): it cuts off large weights, and those matter.
- `half_quadratic`: HQQ (Badri and Shaji 2023, "Half-quadratic quantization"): the scale stays, the float zero
  point alternates with a shrinkage of the error, p = 0.7. We keep for every block the iterate with the least
  absolute error, where HQQ stops for all blocks at once.
- `centred`: ours. The zero point makes the mean error of each block 0, in turns with the rounding; the scale
  follows by weighted least squares, where a weight counts by its square plus the block's mean square. An error
  whose mean is not 0 is multiplied by the mean of the inputs and adds up over a row; large weights matter most.
- `least_squares`: the same weighting, for every grid: scale (and float offset) alternate, in closed form, with
  the rounding. Every block keeps its best iterate.

`half_quadratic` and `centred` start from a zero point rounded to a whole number, so that 0 lies on the grid:
measured, the start decides more than the iterations (SmolLM2-135M, int4 in groups of 64: HQQ's own optimizer
gives perplexity 28.8 from a rounded start, and 30.6 from the exact one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from superweights.axes import Bool, Float
from superweights.errors import SuperweightsError
from superweights.quantization.grids import Grid
from superweights.quantization.scheme import Scheme

_SHRINK = torch.linspace(1.0, 0.5, 26)
_ITERATIONS = {"half_quadratic": 20, "least_squares": 5, "centred": 3}
# A variance below this share of the squared mean is rounding.
_ROUNDING = 1e-6
_LP_NORM, _BETA, _BETA_GROWTH = 0.7, 10.0, 1.01  # HQQ's published defaults


@dataclass(frozen=True, eq=False)
class Doubled:
    """Scales that are rounded themselves: `bases` `[super-blocks, kinds]` float16, `multiples` `[blocks, kinds]` int16.

    A block's scale is the product of the first kind, its offset minus that of the second, where there is one.
    """

    bases: torch.Tensor
    multiples: torch.Tensor


@dataclass(frozen=True, eq=False)
class Fitted:
    """What is stored for each block, `[blocks, 1]`: scale, and a float offset or an integer zero point.

    A weight's value is `scale * grid value + offset`; with a zero point z it is `scale * (code - z)`.
    `tensor_scale` multiplies every scale (NVFP4). `doubled` is what is stored in their place in super-blocks.
    """

    scales: torch.Tensor
    """As they are stored; in units of the weights times `tensor_scale`."""
    offsets: torch.Tensor | None = None
    """Float zero points, in units of the weights; None where there are none."""
    zero_points: torch.Tensor | None = None
    """Integer zero points, as codes; None where there are none."""
    tensor_scale: float | None = None
    doubled: Doubled | None = None

    def scale(self) -> Float[Tensor, "blocks 1"]:
        """The scale of each block in float32."""
        scale = self.scales.float()
        return scale if self.tensor_scale is None else scale * self.tensor_scale

    def encode(self, blocks: Float[Tensor, "blocks elements"], grid: Grid) -> torch.Tensor:
        """The nearest codes of float32 `blocks`; a block whose scale is 0 takes the code nearest to 0."""
        return grid.nearest(self._in_steps(blocks))

    def levels(
        self, blocks: Float[Tensor, "blocks elements"], grid: Grid
    ) -> Float[Tensor, "blocks elements"]:
        """The grid values of the nearest codes of float32 `blocks`, float32."""
        return grid.nearest_values(self._in_steps(blocks))

    def _in_steps(self, blocks: torch.Tensor) -> torch.Tensor:
        """`blocks` in units of their scale, from their zero point: a tensor of its own."""
        scale = self.scale()
        divisor = torch.where(scale == 0, torch.inf, scale)  # a block without a scale is 0 everywhere
        x = blocks / divisor if self.offsets is None else (blocks - self.offsets.float()).div_(divisor)
        return x if self.zero_points is None else x.add_(self.zero_points)

    def decode(self, codes: torch.Tensor, grid: Grid) -> Float[Tensor, "blocks elements"]:
        """The float32 values of `codes`."""
        levels = grid.values(codes)
        if self.zero_points is not None:
            levels = levels - self.zero_points
        values = levels * self.scale()
        return values if self.offsets is None else values + self.offsets.float()


def fit(
    blocks: Float[Tensor, "blocks elements"],
    counted: Bool[Tensor, "blocks elements"] | None,
    bounds: tuple[Float[Tensor, "blocks 1"], Float[Tensor, "blocks 1"]],
    grid: Grid,
    scheme: Scheme,
    tensor_scale: float | None = None,
) -> Fitted:
    """What to store for float32 `blocks` whose ranges are `bounds`, each `[blocks, 1]`."""
    if scheme.scale_dtype == "super":
        free = fit(blocks, counted, bounds, grid, replace(scheme, scale_dtype="float32"), tensor_scale)
        return snapped(free, blocks, counted, grid, scheme)
    if scheme.fit == "mse":
        return _search(blocks, counted, bounds, grid, scheme)
    if scheme.fit == "centred":
        return _centred(blocks, counted, bounds, grid, scheme)
    start = from_range(*bounds, grid, scheme, tensor_scale)
    if scheme.fit == "half_quadratic":
        start = _with_whole_zero_point(bounds[0], bounds[1], grid, scheme)
        return _half_quadratic(blocks, counted, start, grid, scheme)
    if scheme.fit == "least_squares":
        return _least_squares(blocks, counted, start, grid, scheme)
    return start


def from_range(
    low: Float[Tensor, "blocks 1"],
    high: Float[Tensor, "blocks 1"],
    grid: Grid,
    scheme: Scheme,
    tensor_scale: float | None = None,
) -> Fitted:
    """The block's range mapped to the grid's. Stored scales are rounded so that the grid still covers it."""
    if scheme.zero_point == "float":
        return _float_zero_point(low, high, grid, scheme)
    if scheme.zero_point == "integer":
        low, high = low.clamp(max=0), high.clamp(min=0)
        scales = _stored((high - low) / grid.high, scheme, "away")
        scale = scales.float()
        zero_points = (-low / torch.where(scale == 0, 1.0, scale)).round().clamp(0, grid.high).to(torch.uint8)
        return Fitted(scales, zero_points=zero_points)
    extreme = torch.where(-low > high, low, high)
    if scheme.grid == "mxfp4":
        return Fitted(_power_of_two(extreme.abs()))
    if scheme.grid == "nvfp4":
        return _scaled_fp8(extreme.abs(), tensor_scale)
    scale = extreme / grid.low if scheme.anchor == "signed" else extreme.abs() / min(-grid.low, grid.high)
    return Fitted(_stored(scale, scheme, "away"))


def _float_zero_point(low: torch.Tensor, high: torch.Tensor, grid: Grid, scheme: Scheme) -> Fitted:
    """Offset and scale of an affine grid; the scale is taken after the offset has been rounded."""
    scale = (high - low) / (grid.high - grid.low)
    offsets = _stored(low - grid.low * scale, scheme, "down" if grid.low == 0 else "nearest")
    offset = offsets.float()
    scale = (high - offset) / grid.high
    if grid.low < 0:
        scale = torch.maximum(scale, (offset - low) / -grid.low)
    return Fitted(_stored(scale, scheme, "away"), offsets=offsets)


def _power_of_two(extreme: torch.Tensor) -> torch.Tensor:
    """The MX scale, as E8M0: 2^(floor(log2 max) - 2), since E2M1's largest power is 4 (OCP MX 1.0, section 6.3)."""
    exponent = torch.frexp(extreme).exponent - 1 - 2
    exponent = torch.where(extreme == 0, -127, exponent).clamp(-127, 127)
    return torch.ldexp(torch.ones_like(extreme), exponent).to(torch.float8_e8m0fnu)


def _scaled_fp8(extreme: torch.Tensor, tensor_scale: float | None) -> Fitted:
    """NVFP4's scales: E4M3, in units of the tensor's own float32 scale."""
    assert tensor_scale is not None
    scales = (extreme / 6 / tensor_scale).clamp(max=448).to(torch.float8_e4m3fn)
    return Fitted(scales, tensor_scale=tensor_scale)


def _stored(values: torch.Tensor, scheme: Scheme, direction: str) -> torch.Tensor:
    """`values` in the dtype that is stored, rounded to the nearest, downwards or away from zero."""
    dtype = getattr(torch, scheme.scale_dtype)
    stored = values.to(dtype)
    if direction != "nearest":
        short = stored.float() > values if direction == "down" else stored.float().abs() < values.abs()
        limit = torch.full_like(stored, -torch.inf)
        if direction == "away":
            limit = torch.where(values < 0, limit, -limit)
        stored = torch.where(short, torch.nextafter(stored, limit), stored)
    if not stored.isfinite().all():
        raise SuperweightsError(
            f"A scale or offset of this tensor does not fit {scheme.scale_dtype}.",
            hint='its weights are too large for it: use scale_dtype="float32" or "bfloat16".',
        )
    return stored


def snapped(
    free: Fitted, blocks: torch.Tensor, counted: torch.Tensor | None, grid: Grid, scheme: Scheme
) -> Fitted:
    """`free` with its scales (and offsets) as multiples of one float16 in each super-block of 256 weights.

    After the scales have been rounded, the offsets are fitted anew to them, and rounded in turn. Source: ggml-quants.c,
    `quantize_row_q4_K_ref` and its neighbours, for what is stored; the fit is ours.
    """
    per_super = 256 // blocks.shape[1]
    bits = 8 if scheme.grid == "int6" else 6
    if free.offsets is None:
        base, multiple = _multiples(free.scale(), per_super, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        scale = base.float().repeat_interleave(per_super, 0) * multiple
        return Fitted(scale, doubled=Doubled(base, multiple.to(torch.int16)))
    base, multiple = _multiples(free.scale(), per_super, 0, 63)
    fitted = replace(free, scales=base.float().repeat_interleave(per_super, 0) * multiple)
    number = _number(blocks, counted)
    for _ in range(_ITERATIONS["centred"]):
        deep, steps = _multiples(-_offset(fitted).clamp(max=0), per_super, 0, 63)
        fitted = replace(fitted, offsets=-(deep.float().repeat_interleave(per_super, 0) * steps))
        doubled = Doubled(torch.cat([base, deep], 1), torch.cat([multiple, steps], 1).to(torch.int16))
        best = replace(fitted, doubled=doubled)
        mean = (
            _total(blocks, counted) - fitted.scale() * _total(fitted.levels(blocks, grid), counted)
        ) / number
        fitted = replace(fitted, offsets=mean)
    return best


def _offset(fitted: Fitted) -> torch.Tensor:
    assert fitted.offsets is not None, "an affine grid has offsets"
    return fitted.offsets.float()


def _multiples(
    values: torch.Tensor, per_super: int, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`values` `[blocks, 1]` as one float16 for each `per_super` of them, `[super-blocks, 1]`, times whole numbers from
    `low` to `high`. The extreme is mapped, with its sign, to the end that reaches further."""
    grouped = values.reshape(-1, per_super)
    at = grouped.abs().argmax(1, keepdim=True)
    base = (grouped.gather(1, at) / (low if low < 0 else high)).half()
    wide = base.float().repeat_interleave(per_super, 0)
    whole = (values / torch.where(wide == 0, torch.inf, wide)).round().clamp(low, high)
    return base, whole


def _search(blocks, counted, bounds, grid: Grid, scheme: Scheme) -> Fitted:
    """The shrunk range with the least squared error, block by block."""
    best, least = None, None
    for factor in _SHRINK.tolist():
        tried = from_range(bounds[0] * factor, bounds[1] * factor, grid, scheme)
        error = _total((tried.decode(tried.encode(blocks, grid), grid) - blocks).square_(), counted)
        best, least = (tried, error) if best is None else _better(best, least, tried, error)
    assert best is not None
    return best


def _with_whole_zero_point(low: torch.Tensor, high: torch.Tensor, grid: Grid, scheme: Scheme) -> Fitted:
    """The range's own scale, and the offset nearest to the lower end that puts 0 on the grid."""
    scales = _stored((high - low) / grid.high, scheme, "away")
    scale = scales.float()
    steps = (low / torch.where(scale == 0, 1.0, scale)).round()
    return Fitted(scales, offsets=_stored(torch.where(scale == 0, low, steps * scale), scheme, "nearest"))


def _centred(blocks, counted, bounds, grid: Grid, scheme: Scheme) -> Fitted:
    fitted = _with_whole_zero_point(bounds[0], bounds[1], grid, scheme)
    weights, number = _importance(blocks, counted), _number(blocks, counted)
    total = weights.sum(1, keepdim=True).clamp(min=1e-30)
    sum_of_blocks, mean = _total(blocks, counted), _dot(weights, blocks) / total
    for iteration in range(_ITERATIONS["centred"]):
        levels = fitted.levels(blocks, grid)
        if iteration:
            # the weighted variance of the levels, and their covariance with the weights, without centred copies
            weighted = weights * levels
            level_mean = weighted.sum(1, keepdim=True) / total
            spread = _dot(weighted, levels) - level_mean.square() * total
            slope = (_dot(weighted, blocks) - level_mean * mean * total) / spread
            varied = spread > _ROUNDING * level_mean.square() * total
            fitted = replace(
                fitted, scales=_stored(torch.where(varied, slope, fitted.scale()), scheme, "nearest")
            )
        offset = (sum_of_blocks - fitted.scale() * _total(levels, counted)) / number
        fitted = replace(fitted, offsets=_stored(offset, scheme, "nearest"))
    return fitted


def _half_quadratic(blocks, counted, start: Fitted, grid: Grid, scheme: Scheme) -> Fitted:
    beta = [_BETA]

    def step(fitted: Fitted, values: torch.Tensor) -> Fitted:
        error = blocks - values
        size = error.abs()
        kept = (size - size.pow(_LP_NORM - 1) / beta[0]).clamp_(min=0) * error.sign()
        beta[0] *= _BETA_GROWTH
        shift = _total(error - kept, counted) / _number(blocks, counted)
        assert fitted.offsets is not None
        return replace(fitted, offsets=_stored(fitted.offsets.float() + shift, scheme, "nearest"))

    def cost(error: torch.Tensor) -> torch.Tensor:
        return _total(error.abs_(), counted)

    return _alternate(blocks, start, grid, step, cost, _ITERATIONS["half_quadratic"])


def _least_squares(blocks, counted, start: Fitted, grid: Grid, scheme: Scheme) -> Fitted:
    weights = _importance(blocks, counted)

    def step(fitted: Fitted, values: torch.Tensor) -> Fitted:
        levels = (values - (0 if fitted.offsets is None else fitted.offsets.float())) / fitted.scale()
        levels = torch.where(fitted.scale() == 0, 0.0, levels)
        total = weights.sum(1, keepdim=True).clamp(min=1e-30)
        free = fitted.offsets is not None
        level_mean = (weights * levels).sum(1, keepdim=True) / total if free else 0.0
        mean = (weights * blocks).sum(1, keepdim=True) / total if free else 0.0
        centred = levels - level_mean
        spread = (weights * centred.square()).sum(1, keepdim=True)
        slope = (weights * centred * (blocks - mean)).sum(1, keepdim=True) / spread
        slope = torch.where(spread > 0, slope, fitted.scale())
        scales = _stored(slope, scheme, "nearest")
        if not free:
            return replace(fitted, scales=scales)
        return replace(
            fitted, scales=scales, offsets=_stored(mean - scales.float() * level_mean, scheme, "nearest")
        )

    def cost(error: torch.Tensor) -> torch.Tensor:
        return (weights * error.square_()).sum(1, keepdim=True)

    return _alternate(blocks, start, grid, step, cost, _ITERATIONS["least_squares"])


def _importance(blocks: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
    """How much the error of each weight counts: its square plus the block's mean square; 0 where uncounted."""
    squares = blocks.square()
    importance = squares + _total(squares, counted) / _number(blocks, counted)
    return importance if counted is None else importance * counted


def _alternate(
    blocks: torch.Tensor,
    fitted: Fitted,
    grid: Grid,
    step: Callable[[Fitted, torch.Tensor], Fitted],
    cost: Callable[[torch.Tensor], torch.Tensor],
    iterations: int,
) -> Fitted:
    """The cheapest iterate of each block when rounding and `step` take turns, the start among them."""
    values = fitted.decode(fitted.encode(blocks, grid), grid)
    best, least = fitted, cost(values - blocks)
    for _ in range(iterations):
        fitted = step(fitted, values)
        values = fitted.decode(fitted.encode(blocks, grid), grid)
        best, least = _better(best, least, fitted, cost(values - blocks))
    return best


def _better(best: Fitted, least, tried: Fitted, error) -> tuple[Fitted, torch.Tensor]:
    """Block by block, `tried` where its error is less, `best` elsewhere."""
    wins = error < least

    def pick(new, old):
        return None if old is None else torch.where(wins, new, old)

    chosen = Fitted(
        torch.where(wins, tried.scales, best.scales),
        pick(tried.offsets, best.offsets),
        pick(tried.zero_points, best.zero_points),
        best.tensor_scale,
    )
    return chosen, torch.where(wins, error, least)


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The inner product of each row: `[blocks, 1]`. As a product of matrices, which for short rows is the quickest."""
    return torch.bmm(one[:, None], other[:, :, None])[:, 0]


def _total(values: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
    return (values if counted is None else values * counted).sum(1, keepdim=True)


def _number(values: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor | int:
    return values.shape[1] if counted is None else counted.sum(1, keepdim=True).clamp(min=1)
