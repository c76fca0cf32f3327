"""One input rounded: which scalars are held out, the scale of the rest, integer codes, and the product.

Inputs here are `x [tokens, channels]`, float32, the tokens of `sequences` equally long sequences one after the
other. Tokens of one sequence share a scale where the scheme says `tensor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from superweights.axes import Bool, Float, Int
from superweights.errors import SuperweightsError
from superweights.quantization.activation_scheme import ActivationScheme, HeldPlace, Hold
from superweights.quantization.linears import largest_along
from superweights.quantization.scheme import Scheme
from superweights.quantization.tensor import quantize_tensor

# Above this share of held scalars the exact products are one dense product, not a sum over scalars.
_SPARSE = 0.01


@dataclass(frozen=True)
class Limits:
    """What calibration found for one layer's input: the largest |x| that is not held out, the largest of all,
    the root mean square of all, and the threshold above which scalars are held out (None: the rule has none)."""

    largest: float
    """The largest |x| that is not held out."""
    largest_of_all: float
    """The largest |x|."""
    root_mean_square: float
    """Of all x."""
    threshold: float | None = None
    """Above it scalars are held out."""


@dataclass(frozen=True, eq=False)
class RoundedInput:
    """`x` as integers: `codes [tokens, channels]` int8 times `scale [tokens, 1]` (or `[1, 1]`), and what was held out.

    `rows`, `channels` and `values` name the held scalars; their codes are 0.
    """

    codes: Tensor
    scale: Tensor
    rows: Tensor
    channels: Tensor
    values: Tensor

    def dequantize(self) -> Float[Tensor, "tokens channels"]:
        """The rounded input in float32, the held scalars exact."""
        x = self.codes.float() * self.scale
        x[self.rows, self.channels] = self.values
        return x


@dataclass(frozen=True, eq=False)
class RoundedWeight:
    """A layer's weights for the product: `dense [outputs, inputs]` float32, or `codes` int8 with `scale [outputs]`.

    Integers where the scheme is symmetric with at most one scale for each output: then the product is one of
    integers, as hardware does it. Held columns are read from either.
    """

    dense: Tensor | None
    codes: Tensor | None = None
    scale: Tensor | None = None

    def columns(self, channels: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen outputs"]:
        """The weights of these input channels: `[channels, outputs]`, float32."""
        if self.dense is not None:
            return self.dense.t()[channels]
        assert self.codes is not None
        assert self.scale is not None
        return self.codes.t()[channels].float() * self.scale

    def matrix(self) -> Float[Tensor, "outputs inputs"]:
        """All of them, `[outputs, inputs]`, float32."""
        if self.dense is not None:
            return self.dense
        assert self.codes is not None
        assert self.scale is not None
        return self.codes.float() * self.scale[:, None]


def held_out(
    x: Float[Tensor, "tokens channels"],
    hold: Hold,
    sequences: int,
    *,
    limits: Limits | None = None,
    places: Sequence[HeldPlace] = (),
) -> Bool[Tensor, "tokens channels"]:
    """True for each scalar of `x` that `hold` holds out, `[tokens, channels]`.

    `places` are those of this layer; `limits` make the threshold a calibrated one.
    """
    tokens, mask = _search(x, hold, sequences, _largest(x), limits, places)
    return torch.zeros_like(x, dtype=torch.bool).index_copy_(0, tokens, mask)


def round_input(
    x: Float[Tensor, "tokens channels"],
    scheme: ActivationScheme,
    sequences: int,
    *,
    limits: Limits | None = None,
    places: Sequence[HeldPlace] = (),
) -> RoundedInput:
    """`x` as the integers of `scheme`, what is held out aside. A static scale takes `limits`."""
    largest = _largest(x)
    tokens, mask = _search(x, scheme.hold, sequences, largest, limits, places)
    at, channels = mask.nonzero(as_tuple=True)
    rows = tokens[at]
    values = x[rows, channels]
    if len(rows):
        largest[tokens] = x[tokens].abs().masked_fill_(mask, 0).amax(1, keepdim=True)
    if scheme.scale == "static":
        assert limits is not None
        top = (
            limits.largest
            if scheme.clip is None
            else min(limits.largest, scheme.clip * limits.root_mean_square)
        )
        scale = x.new_tensor([[top / scheme.levels]])
    else:
        rest = None if scheme.clip is None else x.index_put((rows, channels), x.new_zeros(()))
        scale = _dynamic_scale(largest, rest, scheme, sequences)
    codes = (x / torch.where(scale == 0, 1.0, scale)).round_().clamp_(-scheme.levels, scheme.levels)
    codes = codes.to(torch.int8)
    codes[rows, channels] = 0
    return RoundedInput(codes, scale, rows, channels, values)


def round_weight(
    weight: Float[Tensor, "one other"], scheme: Scheme | None, out_axis: int, *, integer: bool = True
) -> RoundedWeight:
    """`weight` as `scheme` has it, ready for `product`; `integer` False always multiplies floats."""
    if scheme is None:
        dense = weight.detach().float()
        return RoundedWeight(dense if out_axis == 0 else dense.t().contiguous())
    quantized = quantize_tensor(weight, scheme, (), out_axis)
    device, blocks = weight.device, quantized.blocks
    plain = blocks.offsets is None and blocks.zero_points is None and blocks.tensor_scale is None
    if integer and plain and scheme.grid.startswith("int") and scheme.blocks.kind in ("channel", "tensor"):
        shape = quantized.shape
        codes = quantized.codes.to(torch.int8)
        if scheme.blocks.kind == "tensor":
            codes = codes.reshape(shape) if out_axis == 0 else codes.reshape(shape).t()
        scale = blocks.scale().flatten().expand(shape[out_axis])
        return RoundedWeight(None, codes.contiguous().to(device), scale.to(device))
    dense = quantized.dequantize(torch.float32).to(device)
    return RoundedWeight(dense if out_axis == 0 else dense.t().contiguous())


def product(
    rounded: RoundedInput, weight: RoundedWeight, bias: Float[Tensor, " outputs"] | None = None
) -> Float[Tensor, "tokens outputs"]:
    """`W x + bias` of the rounded input, the held scalars' exact products added: `[tokens, outputs]`, float32."""
    if weight.codes is not None and weight.scale is not None and rounded.codes.device.type == "cpu":
        y = torch._int_mm(rounded.codes, weight.codes.t()).float()  # pyright: ignore[reportPrivateImportUsage]
        y = y.mul_(rounded.scale).mul_(weight.scale)
    else:
        y = functional.linear(rounded.codes.float() * rounded.scale, weight.matrix())
    if len(rounded.rows) > _SPARSE * rounded.codes.numel():
        alone = torch.zeros_like(rounded.codes, dtype=torch.float32)
        alone[rounded.rows, rounded.channels] = rounded.values
        y += functional.linear(alone, weight.matrix())
    elif len(rounded.rows):
        _add_held(y, rounded, weight)
    return y if bias is None else y.add_(bias)


def _add_held(y: Tensor, rounded: RoundedInput, weight: RoundedWeight) -> None:
    """Add the held scalars' products to the tokens that have any; each weight column is read once."""
    channels, which = rounded.channels.unique(return_inverse=True)
    tokens, counts = rounded.rows.unique_consecutive(return_counts=True)
    first = counts.cumsum(0) - counts
    sums = functional.embedding_bag(
        which, weight.columns(channels), first, mode="sum", per_sample_weights=rounded.values
    )
    y.index_add_(0, tokens, sums)


def _largest(x: Tensor) -> Tensor:
    """The largest |x| of each token, `[tokens, 1]`."""
    return largest_along(x, 1, keepdim=True)


def _dynamic_scale(largest: Tensor, rest: Tensor | None, scheme: ActivationScheme, sequences: int) -> Tensor:
    """The step of each token, `[tokens, 1]`: from its own largest |x|, or from that of its sequence.

    `rest` is what is not held out, for a scheme that clips at its root mean square.
    """
    tokens, alone = len(largest), scheme.scale == "token"
    if not alone:
        largest = largest.reshape(sequences, -1).amax(1, keepdim=True)
    if rest is not None and scheme.clip is not None:
        largest = torch.minimum(
            largest, scheme.clip * _spread(rest if alone else rest.reshape(sequences, -1))
        )
    scale = largest / scheme.levels
    return scale if alone else scale.repeat_interleave(tokens // sequences, 0)


def _spread(rows: Tensor) -> Tensor:
    """The root mean square of each row, `[rows, 1]`."""
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True) / rows.shape[1] ** 0.5


def _search(
    x: Tensor,
    hold: Hold,
    sequences: int,
    largest: Tensor,
    limits: Limits | None,
    places: Sequence[HeldPlace],
) -> tuple[Tensor, Tensor]:
    """The tokens `[n]` where scalars may be held out, each once, and which of theirs are: `[n, channels]`.

    Tokens whose `largest` value is too small are not looked at again.
    """
    every = torch.arange(len(x), device=x.device)
    if hold.rule == "none" or (hold.rule == "places" and not places):
        return every[:0], torch.zeros_like(x[:0], dtype=torch.bool)
    if hold.rule == "places":
        return every, _mask_of(x, places, sequences)
    assert hold.amount is not None
    if hold.rule == "top" and hold.per == "token":
        return every, _largest_of(x.abs(), int(hold.amount))
    if hold.rule == "top":
        # The m largest of a sequence lie in the m tokens whose largest are the largest.
        length = len(x) // sequences
        first = largest.reshape(sequences, length).topk(min(int(hold.amount), length), dim=1).indices
        tokens = (first + torch.arange(sequences, device=x.device)[:, None] * length).flatten()
        found = _largest_of(x[tokens].abs().reshape(sequences, -1), int(hold.amount))
        return tokens, found.reshape(len(tokens), -1)
    if limits is not None and limits.threshold is not None:
        threshold = torch.full_like(largest, limits.threshold)
    elif hold.per == "token":
        threshold = hold.amount * _spread(x)
    else:
        threshold = hold.amount * _spread(x.reshape(sequences, -1)).repeat_interleave(len(x) // sequences, 0)
    tokens = (largest > threshold)[:, 0].nonzero()[:, 0]
    return tokens, x[tokens].abs() > threshold[tokens]


def _largest_of(size: Tensor, amount: int) -> Tensor:
    """True for the `amount` largest of each row of `size`."""
    indices = size.topk(min(amount, size.shape[1]), dim=1).indices
    return torch.zeros_like(size, dtype=torch.bool).scatter_(1, indices, True)


def _mask_of(x: Tensor, places: Sequence[HeldPlace], sequences: int) -> Tensor:
    mask = torch.zeros_like(x, dtype=torch.bool)
    by_sequence = mask.view(sequences, -1, x.shape[1])
    for place in places:
        if place.channel >= x.shape[1]:
            raise SuperweightsError(
                f"{place} lies outside an input of {x.shape[1]} channels.",
                hint="channels count from 0; a pattern must match only layers of one width.",
            )
        if place.position is None:
            by_sequence[:, :, place.channel] = True
        elif place.position < by_sequence.shape[1]:
            by_sequence[:, place.position, place.channel] = True
    return mask
