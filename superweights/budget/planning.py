"""A bit budget spent over the matrices of a model, by one half of some windows, and checked on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from superweights.address import Address
from superweights.budget.allotting import Allotment, allot
from superweights.budget.measuring import Sensitivity, check_plans, sensitivities
from superweights.checkpoint import Checkpoint
from superweights.findings import Alternative, Planned, PlannedMatrix
from superweights.progress import Progress, silent
from superweights.quantization.plan import Plan
from superweights.quantization.scheme import Scheme
from superweights.record import Score
from superweights.stream.linears import linear_tensors


@dataclass(frozen=True)
class Planning:
    """A plan and what is known of it."""

    plan: Plan
    """What `quantize` follows."""
    found: Planned
    """What it costs, matrix by matrix and in all."""
    scores: tuple[Score, ...]
    """KL on the checking windows, perplexity before and after."""


def plan_bits(
    checkpoint: Checkpoint,
    bits: float,
    tokens: Tensor,
    kept: Sequence[Address] = (),
    form: str = "packed",
    *,
    device: str = "auto",
    seed: int = 0,
    notes: Sequence[str] = (),
    progress: Progress = silent,
) -> Planning:
    """The plan of `bits` stored bits per weight, by the first half of `tokens [windows, length]`, and what it does
    to the second, beside single schemes of nearly that size. `form` says whose schemes there are to choose from;
    `notes` are passed on.
    """
    matrices, half = linear_tensors(checkpoint), len(tokens) // 2
    measured = sensitivities(
        checkpoint, matrices, tokens[:half], form, list(kept), device=device, progress=progress
    )
    allotment = allot(
        {each.tensor: each.choices for each in measured}, {each.tensor: each.size for each in measured}, bits
    )
    axes = {name: axis for name, axis in matrices.items() if axis}
    plan = Plan({name: choice.scheme for name, choice in allotment.choices.items()}, tuple(kept), axes)
    beside = _around(measured, allotment.bits_per_weight)
    same = [Plan(dict.fromkeys(plan.schemes, scheme), plan.keep, plan.out_axes) for _, scheme in beside]
    checked, *others = check_plans(checkpoint, [plan, *same], tokens[half:], device=device, seed=seed)
    uniform = []
    for (least, scheme), other in zip(beside, others, strict=True):
        assert other.kl is not None, "the model predicts: it was measured"
        uniform.append(Alternative(str(scheme), least, **asdict(other.kl)))
    found = Planned(
        allotment.bits_per_weight,
        allotment.loss,
        tuple((step.bits_per_weight, step.loss) for step in allotment.frontier),
        tuple(uniform),
        tuple(_matrix(each, allotment, kept) for each in measured),
        tuple(notes),
    )
    scores = tuple(score for score in (checked.kl, checked.base, checked.other) if score is not None)
    return Planning(plan, found, scores)


def _matrix(each: Sensitivity, allotment: Allotment, kept: Sequence[Address]) -> PlannedMatrix:
    choice = allotment.choices[each.tensor]
    held = tuple(str(address) for address in kept if address.tensor == each.tensor)
    bits = choice.bits / each.size
    return PlannedMatrix(each.tensor, each.measured, str(choice.scheme), choice.scheme.grid, bits, held)


def _around(found: Sequence[Sensitivity], bits: float) -> list[tuple[float, Scheme]]:
    """The largest single scheme within `bits`, and the smallest above, as far as there are any."""
    total = sum(each.size for each in found)
    choices = [[each.choices[n] for each in found] for n in range(len(found[0].choices))]
    uniform = sorted(
        ((sum(choice.bits for choice in same) / total, same[0].scheme) for same in choices),
        key=lambda pair: pair[0],
    )
    within = [pair for pair in uniform if pair[0] <= bits + 0.005]
    return within[-1:] + uniform[len(within) :][:1]
