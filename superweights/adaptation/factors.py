"""A matrix taken apart: singular directions and values, and what it becomes when each value is turned by its own z."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.axes import Float
from superweights.errors import SuperweightsError

# Matrices with more singular values than this are taken apart by random projections, this many values at most.
LARGE, FEW = 4096, 1024
_OVERSAMPLED, _POWERS = 16, 4


@dataclass(frozen=True, eq=False)
class Factors:
    """`W = U diag(sigma) Vh + the rest`: U `[outputs, k]`, sigma `[k]` descending, Vh `[k, inputs]`, all float32.

    Only values above the noise of float32 are kept (`k` of them); `method` is `full` or `randomized`. `error` is the
    largest of `|W^T u_i - sigma_i v_i|` in units of the first singular value: what these triplets miss of being
    singular ones. `energy` is the share of the squared norm of W that they hold.
    """

    U: Tensor
    sigma: Tensor
    Vh: Tensor
    method: str
    error: float
    energy: float

    def __len__(self) -> int:
        return len(self.sigma)

    def delta(self, z: Tensor) -> Tensor:
        """`U diag(sigma (z - 1)) Vh`, `[outputs, inputs]`: what SVF adds to the matrix, exactly 0 where z is 1.

        Source: Transformer², arXiv 2501.06252, section 3.1, written as a difference so that z = 1 leaves the base as
        it is whatever the decomposition rounds. Components that z leaves alone are not multiplied.
        """
        turned = (z != 1).nonzero()[:, 0]
        if len(turned) == len(self):
            return (self.U * (self.sigma * (z - 1))) @ self.Vh
        return (self.U[:, turned] * (self.sigma[turned] * (z[turned] - 1))) @ self.Vh[turned]

    def pulled_back(self, gradient: Tensor) -> Tensor:
        """The gradient for z, `[k]`: `sigma_i u_i^T G v_i` for the gradient G `[outputs, inputs]` of the matrix."""
        return self.sigma * ((self.U.T @ gradient) * self.Vh).sum(1)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Factors:
        """The same on `device`, its tensors in `dtype` (None: as they are)."""
        parts = (part.to(device, dtype or part.dtype) for part in (self.U, self.sigma, self.Vh))
        return Factors(*parts, method=self.method, error=self.error, energy=self.energy)


def decompose(
    weight: Float[Tensor, "outputs inputs"],
    rank: int | None = None,
    *,
    name: str = "the matrix",
    seed: int = 0,
) -> Factors:
    """The factors of `weight [outputs, inputs]`: all of them, or the `rank` largest by random projections.

    Without a rank, matrices of up to 4,096 singular values are decomposed in full, and larger ones to 1,024 values.
    Source of the randomized way: Halko, Martinsson, Tropp 2011, algorithms 4.4 and 5.1, four power iterations and 16
    more directions than asked for; deterministic for a seed.

    Raises `SuperweightsError` for nan or infinity, and for a matrix without a singular value above noise.
    """
    weight = weight.detach().float()
    if not torch.isfinite(weight).all():
        raise SuperweightsError(f"{name} holds nan or infinity.", hint="the checkpoint is damaged.")
    if rank is not None and rank < 1:
        raise SuperweightsError(f"A rank of {rank} is none.", hint="give 1 or more.")
    most = min(weight.shape)
    wanted = rank if rank is not None else (most if most <= LARGE else FEW)
    if wanted >= most or (most <= LARGE and wanted + _OVERSAMPLED > most // 2):
        U, sigma, Vh = torch.linalg.svd(weight, full_matrices=False)
        method = "full"
    else:
        U, sigma, Vh = _randomized(weight, wanted, seed)
        method = "randomized"
    kept = min(wanted, _above_noise(sigma, weight, name))
    U, sigma, Vh = U[:, :kept].contiguous(), sigma[:kept].contiguous(), Vh[:kept].contiguous()
    missed = (weight.T @ U - Vh.T * sigma).norm(dim=0).max() / sigma[0]
    energy = (sigma.double().square().sum() / weight.double().square().sum()).item()
    return Factors(U, sigma, Vh, method, missed.item(), min(1.0, energy))


def _randomized(weight: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator(device=weight.device).manual_seed(seed)
    width = min(rank + _OVERSAMPLED, *weight.shape)
    drawn = torch.randn(weight.shape[1], width, generator=generator, device=weight.device)
    basis = torch.linalg.qr(weight @ drawn).Q
    for _ in range(_POWERS):
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ basis).Q).Q
    U, sigma, Vh = torch.linalg.svd(basis.T @ weight, full_matrices=False)
    return basis @ U[:, :rank], sigma[:rank], Vh[:rank]


def _above_noise(sigma: Tensor, weight: Tensor, name: str) -> int:
    """How many values stand above the rounding noise of the largest (the usual rank tolerance)."""
    tolerance = sigma[0] * max(weight.shape) * torch.finfo(torch.float32).eps
    above = int((sigma > tolerance).sum())
    if above == 0:
        raise SuperweightsError(
            f"{name} has no singular value above noise (its largest is {sigma[0].item():.3g}).",
            hint="leave its layer out: --layers names those to adapt.",
        )
    return above
