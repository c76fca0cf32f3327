"""What rounding does to each super weight, and whether protecting it changed anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from superweights.quantization.grids import Integers, grid_of
from superweights.quantization.scheme import Scheme
from superweights.quantization.tensor import Quantized, quantize_tensor

# Errors below this many steps are those of float32 arithmetic; the rounding of stored scales comes on top.
NOTHING = 0.01


@dataclass(frozen=True)
class Protected:
    """One kept weight, with and without protection.

    `before`, `plain` (rounded like any other) and `after` (protected) are values of the weight; `plain_steps`
    is the error of `plain` in steps of the grid at that place, None where the step is 0; `storage_steps` is how
    much of it the rounding of the stored scale can explain (float16: 0.015 at 4 bits). `step_plain` and
    `step_after` are the step of its block: where the weight alone made the range, holding it out makes the step
    finer for its neighbours. `neighbours_plain` and `neighbours_after` are the root mean square errors of all
    other weights of the tensor.
    """

    index: tuple[int, ...]
    """Where it stands in its tensor, as stored."""
    before: float
    plain: float
    after: float
    plain_steps: float | None
    storage_steps: float
    step_plain: float
    step_after: float
    neighbours_plain: float
    neighbours_after: float

    @property
    def restored(self) -> bool:
        """Whether plain rounding had moved the weight by more than the rounding of stored scales explains."""
        return self.plain_steps is None or abs(self.plain_steps) > NOTHING + self.storage_steps

    @property
    def refined(self) -> bool:
        """Whether holding the weight out changed its block's step, by more than one part in a hundred."""
        return abs(self.step_after - self.step_plain) > 0.01 * self.step_plain

    @property
    def changed(self) -> bool:
        """Whether protection changed anything: this weight's value or its block's step."""
        return self.restored or self.refined

    def __str__(self) -> str:
        error = "" if self.plain_steps is None else f" (error {self.plain_steps:+.3g} steps)"
        said = f"{list(self.index)}: before {self.before:.6g}, rounded {self.plain:.6g}{error}, "
        said += f"protected {self.after:.6g}"
        if not self.changed:
            return f"{said}. Protection changed nothing: rounding keeps this weight as it is."
        if not self.restored:
            said += ". Its own value was safe without protection"
        if self.refined:
            said += f". The step of its block goes from {self.step_plain:.4g} to {self.step_after:.4g}"
        return said + "."


def protection_report(
    weight: torch.Tensor,
    scheme: Scheme,
    keep: Sequence[tuple[int, ...]],
    out_axis: int = 0,
) -> tuple[Protected, ...]:
    """For each index of `keep`: the weight before, after plain rounding, and after rounding with all of them kept.

    Restoring a super weight is a no-op under min-max scales when it is the extreme of its block, because the
    extreme is on the grid; it matters with clipping, codebooks, and symmetric grids whose other end is larger.
    This report says which is the case. Source: arXiv 2411.07191, section 4.2.
    """
    plain, held = (
        quantize_tensor(weight, scheme, (), out_axis),
        quantize_tensor(weight, scheme, keep, out_axis),
    )
    exact = weight.detach().float().cpu()
    rounded, protected = plain.dequantize(torch.float32), held.dequantize(torch.float32)
    steps_plain, steps_held = plain.steps(), held.steps()
    others = _others(held)
    errors = [float((r - exact)[others].square().mean().sqrt()) for r in (rounded, protected)]
    report = []
    for index in sorted(set(map(tuple, keep))):
        step = float(steps_plain[index])
        moved = float(rounded[index]) - float(exact[index])
        in_steps = moved / step if step else (0.0 if moved == 0 else None)
        report.append(
            Protected(
                index=index,
                before=float(exact[index]),
                plain=float(rounded[index]),
                after=float(protected[index]),
                plain_steps=in_steps,
                storage_steps=_storage_steps(scheme),
                step_plain=step,
                step_after=float(steps_held[index]),
                neighbours_plain=errors[0],
                neighbours_after=errors[1],
            )
        )
    return tuple(report)


def _storage_steps(scheme: Scheme) -> float:
    """How many steps the largest code is off, at most, through the rounding of the stored scale."""
    grid = grid_of(scheme)
    levels = grid.high - grid.low if isinstance(grid, Integers) else 2.0**scheme.bits
    return levels * torch.finfo(getattr(torch, scheme.scale_dtype)).eps


def _others(held: Quantized) -> torch.Tensor:
    """True for every weight that is not kept."""
    others = torch.ones(held.shape, dtype=torch.bool)
    if len(held.kept):
        others[tuple(held.kept.indices.T)] = False
    return others
