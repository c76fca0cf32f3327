"""The numbers a code may stand for, and the nearest of them; a block's scale and offset come on top."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from superweights.quantization.scheme import INTEGERS, Scheme

# The quantiles of a Gaussian that QLoRA fixed (arXiv 2305.14314, appendix E), and the three-bit ones that the
# authors of arXiv 2411.07191 use.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
NF3 = (
    *(-1.0, -0.5350227355957031, -0.2469314038753510, 0.0),
    *(0.1833375245332718, 0.3819939494132996, 0.6229856610298157, 1.0),
)
# E2M1, the element of MXFP4 and NVFP4 (OCP MX 1.0, section 5.3.3), in the order of its bit patterns.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


# llama.cpp's table for IQ4_NL and IQ4_XS (ggml-common.h, `kvalues_iq4nl`).
IQ4_NL = (*(-127, -104, -83, -65, -49, -35, -22, -10), *(1, 13, 25, 38, 53, 69, 89, 113))


@dataclass(frozen=True)
class Integers:
    """Whole numbers from `low` to `high`, in units of a block's scale; ties go to the even one, as in torch."""

    low: float
    high: float
    code_dtype: torch.dtype
    """The integer type that holds the codes."""

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """The codes of the values nearest to float32 `x`; beyond the grid, its extremes."""
        return self.nearest_values(x).to(self.code_dtype)

    def nearest_values(self, x: torch.Tensor) -> torch.Tensor:
        """The values nearest to float32 `x` themselves."""
        return x.round().clamp_(self.low, self.high)

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """The float32 values of `codes`."""
        return codes.float()

    def gap(self, x: torch.Tensor) -> torch.Tensor:
        """The larger distance from the grid value `x` to its neighbours: the step there."""
        return torch.ones_like(x)


class Codebook:
    """Any finite set of values; `by_code[code]` is the value of a code, nan where the pattern means none.

    Ties go to the even code, which for floating-point patterns is IEEE's rule. The search takes one pass with
    a sorted table, so nothing of size elements x levels is ever made.
    """

    code_dtype = torch.uint8

    def __init__(self, by_code: torch.Tensor):
        self.by_code = by_code.float()
        usable = self.by_code.isfinite() & ~((self.by_code == 0) & self.by_code.signbit())
        codes = usable.nonzero().flatten()
        order = self.by_code[codes].argsort()
        self._codes = codes[order].to(torch.uint8)
        self._ordered = self.by_code[codes][order]
        self._between = (self._ordered[1:] + self._ordered[:-1]) / 2
        self.low, self.high = float(self._ordered[0]), float(self._ordered[-1])

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """The codes of the values nearest to float32 `x`; beyond the grid, its extremes."""
        place = torch.bucketize(x, self._between)
        tie = x == self._between[place.clamp(max=len(self._between) - 1)]
        place += tie & (self._codes[place] % 2 == 1)
        return self._codes[place]

    def nearest_values(self, x: torch.Tensor) -> torch.Tensor:
        """The values nearest to float32 `x` themselves."""
        return self.values(self.nearest(x))

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """The float32 values of `codes`."""
        return self.by_code.to(codes.device)[codes.int()]

    def gap(self, x: torch.Tensor) -> torch.Tensor:
        """The larger distance from the grid value `x` to its neighbours: the step there."""
        gaps = self._ordered.diff()
        place = torch.bucketize(x, self._ordered)
        return torch.maximum(gaps[(place - 1).clamp(min=0)], gaps[place.clamp(max=len(gaps) - 1)])


Grid = Integers | Codebook


@cache
def codebook(name: str) -> Codebook:
    """The codebook of a grid that is not a whole-number one."""
    if name in ("nf4", "nf3"):
        return Codebook(torch.tensor(NF4 if name == "nf4" else NF3))
    if name in ("mxfp4", "nvfp4"):
        return Codebook(torch.tensor([*E2M1, *(-v for v in E2M1)]))
    if name == "iq4_nl":
        return Codebook(torch.tensor(IQ4_NL))
    dtype = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}[name]
    return Codebook(torch.arange(256, dtype=torch.int16).to(torch.uint8).view(dtype).float())


def grid_of(scheme: Scheme) -> Grid:
    """The grid of `scheme`: signed whole numbers when symmetric, unsigned ones with a zero point, or a codebook."""
    if scheme.grid not in INTEGERS:
        return codebook(scheme.grid)
    bits = INTEGERS[scheme.grid]
    if scheme.zero_point != "none":
        return Integers(0, 2**bits - 1, torch.uint8)
    top = 2 ** (bits - 1)
    return Integers(-top if scheme.anchor == "signed" else 1 - top, top - 1, torch.int8)
