"""Moments gathered piece by piece, and the kurtosis that they make."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean, and sums of the 2nd to 4th power of the distance from it: of `count` numbers each `[...]`.

    Float64. `merged` is exact in the sense of Pébay (2008): no power sums around zero, which lose everything
    where the mean is large.
    """

    count: float
    mean: Tensor
    """The mean."""
    second: Tensor
    """Sum of the squares."""
    third: Tensor
    """Sum of the cubes."""
    fourth: Tensor
    """Sum of the fourth powers."""

    @classmethod
    def of(cls, values: Tensor, axis: int = -1) -> Moments:
        """The moments along one axis of `values`, computed in float32 or wider."""
        wide = values if values.dtype == torch.float64 else values.float()
        centre = wide.mean(axis, keepdim=True)
        apart = wide - centre
        square = apart * apart
        sums = (square, square * apart, square * square)
        second, third, fourth = (each.sum(axis).double().cpu() for each in sums)
        return cls(values.shape[axis], centre.squeeze(axis).double().cpu(), second, third, fourth)

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of numbers together."""
        n_a, n_b = self.count, other.count
        n, delta = n_a + n_b, other.mean - self.mean
        step = delta / n
        second = self.second + other.second + delta * step * n_a * n_b
        third = (
            self.third
            + other.third
            + delta * step**2 * n_a * n_b * (n_a - n_b)
            + 3 * step * (n_a * other.second - n_b * self.second)
        )
        fourth = (
            self.fourth
            + other.fourth
            + delta * step**3 * n_a * n_b * (n_a**2 - n_a * n_b + n_b**2)
            + 6 * step**2 * (n_a**2 * other.second + n_b**2 * self.second)
            + 4 * step * (n_a * other.third - n_b * self.third)
        )
        return Moments(n, self.mean + step * n_b, second, third, fourth)

    def kurtosis(self) -> Tensor:
        """The fourth central moment over the square of the second: 3 for a Gaussian; nan for constants."""
        return self.count * self.fourth / self.second.square()

    def rms(self) -> Tensor:
        """The root of the mean square around zero."""
        return (self.second / self.count + self.mean.square()).sqrt()


def ceiling(count: float) -> float:
    """The largest kurtosis that `count` numbers can have: that of one number unlike all others.

    `n - 2 + 1 / (n - 1)`: kurtoses of different widths are therefore not comparable without it.
    """
    return count - 2 + 1 / (count - 1) if count > 1 else float("nan")
