"""One tensor rounded: codes, what each block stores, and the weights that are kept exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.axes import Float
from superweights.errors import SuperweightsError
from superweights.quantization.clipping import limits, share_limit
from superweights.quantization.cutting import check_blocks, cut, join
from superweights.quantization.fit import Doubled, Fitted, fit
from superweights.quantization.grids import Grid, grid_of
from superweights.quantization.published import decode_as_published, encode_as_published, published_blocks
from superweights.quantization.scheme import Scheme

_PART = 2**22  # elements worked on at a time: a few dozen MB of float32, whatever the tensor's size
_INDEX_BITS = 32


@dataclass(frozen=True, eq=False)
class Kept:
    """The weights kept exactly: `indices` `[kept, dimensions]` as stored, `values` in the weight's dtype."""

    indices: torch.Tensor
    values: torch.Tensor

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class StoredBits:
    """Bits that a quantized tensor takes, by what they are for. Padding is codes that stand for no weight."""

    codes: int
    """Of the weights' codes."""
    padding: int
    """Of codes that fill a last block."""
    scales: int
    """Of scales and what multiplies them."""
    zero_points: int
    """Of zero points or offsets."""
    kept: int
    """Of the weights kept exactly, with their places."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.codes + self.padding + self.scales + self.zero_points + self.kept


@dataclass(frozen=True)
class RoundingError:
    """How far a rounded tensor is from the original.

    `largest` and `root_mean_square` in units of the weights; `relative` is the Frobenius norm of the error over
    that of the weights (None for an all-zero tensor); `largest_in_steps` is the largest error over the step at
    that weight: at most 0.5 where nothing was clipped.
    """

    largest: float
    root_mean_square: float
    relative: float | None
    largest_in_steps: float


@dataclass(frozen=True, eq=False)
class Quantized:
    """A rounded tensor. `codes` are `[blocks, elements]`, one byte each here; `stored_bits` counts them packed.

    `blocks` stores scale and zero point of each block. Weights in `kept` have a code as well, of their clipped
    value, so that the rest stands alone under any kernel; `dequantize` puts them back.
    """

    scheme: Scheme
    """How it was rounded."""
    shape: torch.Size
    """The tensor's shape as stored in the checkpoint."""
    dtype: torch.dtype
    """The type that it had, and has again when it is read."""
    out_axis: int
    """Which axis is the output channel."""
    codes: torch.Tensor
    blocks: Fitted
    kept: Kept

    @property
    def scales(self) -> torch.Tensor:
        """The scale of each block, as stored, `[blocks, 1]`."""
        return self.blocks.scales

    @property
    def zero_points(self) -> torch.Tensor | None:
        """Integer zero points, or float offsets in units of the weights; None for a symmetric grid."""
        return self.blocks.offsets if self.blocks.zero_points is None else self.blocks.zero_points

    @property
    def stored_bits(self) -> StoredBits:
        """What this tensor takes when its codes are packed to the bit; int32 for each coordinate of a kept weight."""
        bits, zero_points = self.scheme.bits, 0
        doubled = self.blocks.doubled
        if doubled is not None:
            pass
        elif self.blocks.offsets is not None:
            zero_points = self.blocks.offsets.numel() * self.blocks.offsets.element_size() * 8
        elif self.blocks.zero_points is not None:
            zero_points = self.blocks.zero_points.numel() * bits
        scales = self.scales.numel() * self.scales.element_size() * 8
        scales += 32 * (self.blocks.tensor_scale is not None)
        if doubled is not None:
            scales = (
                16 * doubled.bases.numel()
                + (8 if self.scheme.grid == "int6" else 6) * doubled.multiples.numel()
            )
        kept = len(self.kept) * (_INDEX_BITS * len(self.shape) + self.kept.values.element_size() * 8)
        number = self.shape.numel()
        return StoredBits(number * bits, (self.codes.numel() - number) * bits, scales, zero_points, kept)

    @property
    def bits_per_weight(self) -> float:
        """All stored bits over the number of weights."""
        return self.stored_bits.total / self.shape.numel()

    def dequantize(self, dtype: torch.dtype | None = None, *, kept: bool = True) -> Float[Tensor, ...]:
        """The rounded weights in `dtype` (None: the original one). `kept=False` leaves the kept ones rounded."""
        dtype = self.dtype if dtype is None else dtype
        values = torch.empty(self.codes.shape, dtype=dtype, device=self.codes.device)
        grid = grid_of(self.scheme)
        for part in _parts(self.codes):
            values[part] = self._decode(part, grid).to(dtype)
        cut_by = published_blocks(self.shape, self.scheme) if self.scheme.paper_compat else self.scheme.blocks
        weight = join(values, self.shape, cut_by, self.out_axis)
        if kept and len(self.kept):
            weight[tuple(self.kept.indices.long().T)] = self.kept.values.to(dtype)
        return weight

    def steps(self) -> Float[Tensor, ...]:
        """The step at each weight, float32, in its shape: scale times the larger gap beside its grid value."""
        grid = grid_of(self.scheme)
        if self.scheme.paper_compat:
            steps = _published_steps(self)
        else:
            steps = self.blocks.scale().abs() * grid.gap(grid.values(self.codes))
        cut_by = published_blocks(self.shape, self.scheme) if self.scheme.paper_compat else self.scheme.blocks
        return join(steps.expand(self.codes.shape), self.shape, cut_by, self.out_axis)

    def _decode(self, part: slice, grid: Grid) -> torch.Tensor:
        blocks = _rows(self.blocks, part)
        if self.scheme.paper_compat:
            return decode_as_published(self.codes[part], blocks, self.scheme)
        return blocks.decode(self.codes[part], grid)


def quantize_tensor(
    weight: Float[Tensor, ...], scheme: Scheme, keep: Sequence[tuple[int, ...]] = (), out_axis: int = 0
) -> Quantized:
    """`weight` rounded by `scheme`; the weights at the indices `keep` are kept exactly.

    `weight` is a vector, a matrix or a stack of matrices; `out_axis` is the axis of its output channels (1 for
    Conv1D). It is not changed. Kept weights are held out before limits and scales are computed, and the code in
    their place is that of their clipped value. All arithmetic is float32 (except `paper_compat`). Raises
    `SuperweightsError` for nan or infinite weights, an index outside, or a scheme that the shape forbids.

    Source: arXiv 2411.07191, section 4.2. There the kept weights take part in limits and scales and are only
    written back afterwards, which changes nothing where they are the extreme of their block; `paper_compat`
    does that.
    """
    check_shape(weight.shape, scheme, out_axis)
    _check_values(weight)
    if scheme.fit == "second_order":
        raise SuperweightsError(
            "The fit second_order needs what the matrix is multiplied with, and has only the matrix.",
            hint="superweights.quantization.second_order.round_by_inputs takes both; superweights quantize draws them.",
        )
    kept = _kept(weight, keep)
    if scheme.paper_compat:
        codes, stored = encode_as_published(weight.detach().cpu(), scheme, out_axis)
    else:
        codes, stored = _encode(weight.detach().cpu(), scheme, kept, out_axis)
    return Quantized(scheme, weight.shape, weight.dtype, out_axis, codes, stored, kept)


def check_shape(shape: torch.Size, scheme: Scheme, out_axis: int = 0) -> None:
    """Raise `SuperweightsError` where `scheme` cannot cut a tensor of `shape` into its blocks."""
    check_blocks(shape, scheme.blocks if not scheme.paper_compat else _any_size(scheme), out_axis)
    if scheme.scale_dtype == "super" and (out_axis or shape[-1] % 256):
        raise SuperweightsError(
            f"Super-blocks are of 256 inputs, which do not divide {list(shape)}.",
            hint="use scales of float16 for this tensor, as llama.cpp falls back to types of 32 inputs.",
        )


def rounding_error(weight: Float[Tensor, ...], quantized: Quantized) -> RoundingError:
    """How far `quantized`, with its kept weights in place, is from `weight`."""
    if weight.shape != quantized.shape:
        raise SuperweightsError(
            f"The weight has shape {list(weight.shape)}, its rounded form {list(quantized.shape)}.",
            hint="compare a tensor with its own rounded form.",
        )
    error = (quantized.dequantize(torch.float32) - weight.detach().float().cpu()).abs()
    steps = quantized.steps()
    size = float(weight.detach().double().cpu().norm())
    return RoundingError(
        largest=float(error.max()),
        root_mean_square=float(error.double().square().mean().sqrt()),
        relative=float(error.double().norm()) / size if size else None,
        largest_in_steps=float(torch.where(error == 0, 0.0, error / steps).max()),
    )


def _encode(weight: torch.Tensor, scheme: Scheme, kept: Kept, out_axis: int) -> tuple[torch.Tensor, Fitted]:
    """The codes and block facts of a checked weight, a part of the blocks at a time."""
    counts = torch.ones(weight.shape, dtype=torch.bool)
    if len(kept):
        counts[tuple(kept.indices.T)] = False
    blocks, counted = cut(weight, scheme.blocks, out_axis), cut(counts, scheme.blocks, out_axis)
    grid = grid_of(scheme)
    tensor_limit, tensor_scale = None, None
    if scheme.clip.rule == "tensor_share":
        tensor_limit = share_limit(weight, counts if len(kept) else None, scheme.clip.by)
    if scheme.grid == "nvfp4":
        largest = float(torch.where(counts, weight, 0).abs().max())
        tensor_scale = max(largest / (6 * 448), torch.finfo(torch.float32).tiny)
    codes = torch.empty(blocks.shape, dtype=grid.code_dtype)
    fitted = []
    for part in _parts(blocks):
        counted_here = None if counted[part].all() else counted[part]
        clipped, bounds = _clip(blocks[part].float(), counted_here, scheme, tensor_limit)
        fitted.append(fit(clipped, counted_here, bounds, grid, scheme, tensor_scale))
        codes[part] = fitted[-1].encode(clipped, grid)
    return codes, _joined(fitted)


def _clip(blocks: torch.Tensor, counted: torch.Tensor | None, scheme: Scheme, tensor_limit: float | None):
    """The clipped blocks, and the range of their counted elements; uncounted ones are brought into that range."""
    found = limits(blocks, counted, scheme.clip, tensor_limit)
    clipped = blocks if found is None else blocks.clamp(*found)
    if counted is None:
        return clipped, (clipped.amin(1, keepdim=True), clipped.amax(1, keepdim=True))
    low = torch.where(counted, clipped, torch.inf).amin(1, keepdim=True)
    high = torch.where(counted, clipped, -torch.inf).amax(1, keepdim=True)
    empty = low > high
    low, high = torch.where(empty, 0.0, low), torch.where(empty, 0.0, high)
    return clipped.clamp(low, high), (low, high)


def _kept(weight: torch.Tensor, keep: Sequence[tuple[int, ...]]) -> Kept:
    for index in keep:
        fits = len(index) == weight.dim()
        if not fits or any(not 0 <= i < n for i, n in zip(index, weight.shape, strict=True)):
            raise SuperweightsError(
                f"The index {tuple(index)} lies outside a tensor of shape {list(weight.shape)}.",
                hint="indices count from 0, as the checkpoint stores them: usually [out_channel, in_neuron].",
            )
    indices = torch.tensor(sorted(set(map(tuple, keep))), dtype=torch.int32).reshape(-1, weight.dim())
    return Kept(indices, weight.detach().cpu()[tuple(indices.T)].clone())


def _check_values(weight: torch.Tensor) -> None:
    if not weight.is_floating_point():
        raise SuperweightsError(
            f"The weight is stored as {weight.dtype}: it has been quantized already, or is no weight.",
            hint="quantize the original checkpoint, or dequantize this one first.",
        )
    if not weight.numel():
        raise SuperweightsError("The weight is empty.", hint="leave tensors without elements out.")
    # nan and infinity show in the extremes, which take a tenth of the time of looking at every number
    if not all(extreme.isfinite() for extreme in weight.aminmax()):
        raise SuperweightsError(
            "The weight holds nan or infinite values.",
            hint="the checkpoint is damaged, or overflowed when it was converted to float16.",
        )


def _any_size(scheme: Scheme):
    """The published blocks' kind alone: their sizes never refuse a shape."""
    return scheme.blocks if scheme.blocks.kind != "run" else type(scheme.blocks)("tensor", ())


def _published_steps(quantized: Quantized) -> torch.Tensor:
    scale = quantized.blocks.scales.float()
    if quantized.scheme.grid.startswith("int"):
        return 1 / scale
    grid = grid_of(quantized.scheme)
    return scale / 2 * grid.gap(grid.values(quantized.codes))


def _parts(blocks: torch.Tensor) -> list[slice]:
    """Slices of the rows of `blocks` that hold about `_PART` elements each."""
    rows = max(1, _PART // blocks.shape[1])
    return [slice(start, start + rows) for start in range(0, len(blocks), rows)]


def _rows(fitted: Fitted, part: slice) -> Fitted:
    offsets, zeros = fitted.offsets, fitted.zero_points
    return Fitted(
        fitted.scales[part],
        None if offsets is None else offsets[part],
        None if zeros is None else zeros[part],
        fitted.tensor_scale,
    )


def _joined(parts: list[Fitted]) -> Fitted:
    first = parts[0]
    if len(parts) == 1:
        return first
    return Fitted(
        torch.cat([p.scales for p in parts]),
        None if first.offsets is None else torch.cat([p.offsets for p in parts if p.offsets is not None]),
        None
        if first.zero_points is None
        else torch.cat([p.zero_points for p in parts if p.zero_points is not None]),
        first.tensor_scale,
        None if first.doubled is None else _joined_doubled(parts),
    )


def _joined_doubled(parts: list[Fitted]) -> Doubled:
    doubled = [part.doubled for part in parts if part.doubled is not None]
    return Doubled(torch.cat([d.bases for d in doubled]), torch.cat([d.multiples for d in doubled]))
