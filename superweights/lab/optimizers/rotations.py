"""Fixed orthogonal bases in which Adam keeps its moments: drawn from seeds and names, never stored.

A rotation takes a gradient into its basis (`into`) and a step back out (`out_of`). Haar matrices are the Q of a
Gaussian matrix in float64, its columns' signs those of R's diagonal, so that they are uniform; kept in float32.

Sources: OrthoAdam, Kaul et al. 2410.17174 (the basis differs for every parameter, fixed for the whole run); the
memory-bounded block recipe is appendix A of Maes et al. 2410.19964 (one n x n matrix for all blocks of a permuted
vector). How OrthoAdam's authors bound memory could not be read; ours are called by what they do.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from superweights.errors import SuperweightsError

DENSE = 2048  # numbers of the largest parameter that gets a matrix of its own


class Rotation(Protocol):
    """An orthogonal map of one parameter's gradient."""

    def into(self, gradient: Tensor) -> Tensor:
        """The gradient in the basis, in the parameter's shape."""
        ...

    def out_of(self, step: Tensor) -> Tensor:
        """A step of the basis in the parameter's own coordinates."""
        ...


def haar(size: int, seed: int) -> Tensor:
    """A uniformly random orthogonal matrix [size, size], the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return (q * r.diagonal().sign()).float()


class Identity:
    """The standard basis: plain Adam."""

    def into(self, gradient: Tensor) -> Tensor:
        """The gradient itself."""
        return gradient

    def out_of(self, step: Tensor) -> Tensor:
        """The step itself."""
        return step


class SignedPermutation:
    """Numbers change places and signs. Adam does not notice: this is AdamW (the control of OrthoAdam)."""

    def __init__(self, size: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.places = torch.randperm(size, generator=generator)
        self.back = torch.argsort(self.places)
        self.signs = torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1

    def into(self, gradient: Tensor) -> Tensor:
        """Permuted, then signed."""
        self.places, self.back, self.signs = (
            held.to(gradient.device) for held in (self.places, self.back, self.signs)
        )
        return (gradient.flatten()[self.places] * self.signs).view_as(gradient)

    def out_of(self, step: Tensor) -> Tensor:
        """The inverse."""
        return (step.flatten() * self.signs)[self.back].view_as(step)


class Axes:
    """A matrix along one axis or both: left G right^T; along a vector, left alone. None leaves an axis as it is."""

    def __init__(self, left: Tensor | None, right: Tensor | None = None):
        self.left, self.right = left, right

    def into(self, gradient: Tensor) -> Tensor:
        """left G right^T."""
        self._move(gradient)
        if self.left is not None:
            gradient = self.left @ gradient
        return gradient if self.right is None else gradient @ self.right.T

    def out_of(self, step: Tensor) -> Tensor:
        """left^T U right."""
        self._move(step)
        if self.left is not None:
            step = self.left.T @ step
        return step if self.right is None else step @ self.right

    def _move(self, like: Tensor) -> None:
        self.left = None if self.left is None else self.left.to(like.device)
        self.right = None if self.right is None else self.right.to(like.device)


class Blocks:
    """The flattened parameter, permuted, cut into blocks of one size that share one matrix; the rest has its own.

    As in the published recipe the permutation is not undone in the basis: Adam does not see it.
    """

    def __init__(self, size: int, block: int, seed: int, matrix_seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.places = torch.randperm(size, generator=generator)
        self.back = torch.argsort(self.places)
        self.whole = size - size % block
        self.matrix = haar(block, matrix_seed) if self.whole else torch.empty(0, 0)
        self.rest = haar(size % block, matrix_seed + 1) if size % block else torch.empty(0, 0)

    def into(self, gradient: Tensor) -> Tensor:
        """Each block times the matrix."""
        self.places, self.back, self.matrix, self.rest = (
            held.to(gradient.device) for held in (self.places, self.back, self.matrix, self.rest)
        )
        return self._turned(gradient.flatten()[self.places], self.matrix.T, self.rest.T).view_as(gradient)

    def out_of(self, step: Tensor) -> Tensor:
        """The inverse."""
        return self._turned(step.flatten(), self.matrix, self.rest)[self.back].view_as(step)

    def _turned(self, flat: Tensor, matrix: Tensor, rest: Tensor) -> Tensor:
        side = matrix.shape[0]
        parts = []
        if self.whole:
            parts.append((flat[: self.whole].view(-1, side) @ matrix).flatten())
        if len(rest):
            parts.append(flat[self.whole :] @ rest)
        return torch.cat(parts)


class Dense:
    """One matrix for all numbers of a small parameter: the definition itself, and the oracle of the tests."""

    def __init__(self, size: int, seed: int, name: str):
        if size > DENSE:
            raise SuperweightsError(
                f"A dense rotation of {name} would be a matrix of {size} x {size}.",
                hint=f"at most {DENSE} numbers in a parameter; take rotation = 'kron' or 'block'.",
            )
        self.matrix = haar(size, seed)

    def into(self, gradient: Tensor) -> Tensor:
        """Q g."""
        self.matrix = self.matrix.to(gradient.device)
        return (self.matrix @ gradient.flatten()).view_as(gradient)

    def out_of(self, step: Tensor) -> Tensor:
        """Q^T u."""
        return (self.matrix.T @ step.flatten()).view_as(step)
