"""What rounding one matrix alone costs, and what a whole plan does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superweights.address import Address
from superweights.budget.allotting import Choice
from superweights.budget.branches import divergences_alone, divergences_in_blocks
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.progress import Progress
from superweights.quantization.plan import Plan
from superweights.quantization.scheme import Blocks, Scheme
from superweights.quantization.standing_for import rounded_checkpoint
from superweights.quantization.tensor import quantize_tensor
from superweights.scoring import Comparison, compare_all
from superweights.stream import streaming
from superweights.subject import check_next_token, layout_of

_GROUPS, _THIRTY_TWO = Blocks("group", (64,)), Blocks("group", (32,))
# For each format, the schemes among which a plan chooses, the one that is measured in the middle.
CANDIDATES: Mapping[str, tuple[Scheme, ...]] = {
    "packed": tuple(Scheme(f"int{bits}", blocks=_GROUPS, fit="centred") for bits in (2, 3, 4, 5, 6, 8)),
    "compressed-tensors": tuple(
        Scheme(f"int{bits}", zero_point="none", anchor="signed", blocks=_GROUPS)
        for bits in (2, 3, 4, 5, 6, 8)
    ),
    "gguf": (
        Scheme("int4", zero_point="none", anchor="signed", blocks=_THIRTY_TWO),
        Scheme("int4", blocks=_THIRTY_TWO, fit="centred"),
        Scheme("int8", zero_point="none", blocks=_THIRTY_TWO),
    ),
}
_MEASURED = {"packed": 1, "compressed-tensors": 1, "gguf": 0}


@dataclass(frozen=True)
class Sensitivity:
    """One matrix: what each candidate stores and costs.

    `measured` is KL(as it is || rounded) in nats per token when the matrix alone is rounded by `choices[at]`; the other
    losses follow from it by the square of the weights' error, as they do where rounding is a small step from a minimum.
    """

    tensor: str
    """Its name in the checkpoint."""
    size: int
    """How many weights it has."""
    at: int
    """Which choice was measured."""
    measured: float
    choices: tuple[Choice, ...]


def candidates_for(format_: str) -> tuple[Scheme, ...]:
    """The schemes that a plan for `--format` chooses among."""
    if format_ not in CANDIDATES:
        raise SuperweightsError(
            f"There is no plan for the format {format_!r}.", hint=f"choose from {', '.join(CANDIDATES)}."
        )
    return CANDIDATES[format_]


def sensitivities(
    checkpoint: Checkpoint,
    tensors: Mapping[str, int],
    tokens: Tensor,
    format_: str = "packed",
    keep: Sequence[Address] = (),
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Sensitivity]:
    """What rounding each of `tensors` (name to axis of output channels) costs on `tokens` `[windows, length]`.

    The model is streamed in float32. What comes before a matrix is computed once for all, what comes after it once for
    each; several matrices go through the later blocks side by side. Where a model's blocks are no chain, or share their
    weights, it is in memory and runs once for each matrix. Weights in `keep` are held out, as a plan that keeps them
    will. Raises `SuperweightsError` for matrices that are not parameters of their own (stacked experts).
    """
    trials = Trials(checkpoint, tensors, candidates_for(format_), _MEASURED[format_], keep)
    with streaming(checkpoint, dtype="float32", device=device, resident=False) as model:
        check_next_token(model)
        names = {name: _parameter(model, checkpoint, name) for name in tensors}
        costs = divergences_in_blocks(model, names, trials.measured, tokens, progress)
    if costs is None:
        with streaming(checkpoint, dtype="float32", device=device, resident=True) as model:
            costs = divergences_alone(model, names, trials.measured, tokens, progress)
    return [trials.sensitivity(name, costs[name]) for name in tensors]


def check_plans(
    checkpoint: Checkpoint, plans: Sequence[Plan], tokens: Tensor, *, device: str = "auto", seed: int = 0
) -> list[Comparison]:
    """The model under each of `plans` beside the model as it is, on `tokens`; all are streamed, rounded while read."""
    with ExitStack() as stack:
        models = [
            stack.enter_context(streaming(each, dtype="float32", device=device, resident=False))
            for each in (checkpoint, *(rounded_checkpoint(checkpoint, plan) for plan in plans))
        ]
        return compare_all(models[0], models[1:], tokens, seed=seed)


class Trials:
    """The matrices of a checkpoint rounded by every candidate, each looked at once and then let go."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tensors: Mapping[str, int],
        schemes: Sequence[Scheme],
        at: int,
        keep: Sequence[Address],
    ):
        self._checkpoint, self._tensors, self._schemes, self._at = checkpoint, tensors, schemes, at
        self._keep = keep
        self._offers: dict[str, list[tuple[Scheme, int, float]]] = {}

    def measured(self, name: str) -> Tensor:
        """The matrix `name` rounded by the scheme that is measured, float32; the others are noted on the way."""
        schemes = [self._schemes[self._at]] if name in self._offers else self._schemes
        weight = self._checkpoint.read(name)
        offers, middle = _offers(
            weight, name, self._tensors[name], schemes, self._schemes[self._at], self._keep
        )
        self._offers.setdefault(name, offers)
        self._checkpoint.release([name])
        return middle

    def sensitivity(self, name: str, measured: float) -> Sensitivity:
        """What each candidate costs, where the one in the middle costs `measured`."""
        return _sensitivity(name, self._checkpoint, self._offers[name], self._at, measured)


def _offers(
    weight: Tensor,
    name: str,
    axis: int,
    schemes: Sequence[Scheme],
    measured: Scheme,
    keep: Sequence[Address],
) -> tuple[list[tuple[Scheme, int, float]], Tensor]:
    """Stored bits and squared error of every scheme on one matrix, and the matrix rounded by the `measured` one."""
    kept = [address.index for address in keep if address.tensor == name]
    offers, middle = [], torch.empty(0)
    for scheme in schemes:
        quantized = quantize_tensor(weight, scheme, kept, axis)
        dense = quantized.dequantize(torch.float32)
        offers.append((scheme, quantized.stored_bits.total, float((dense - weight.float()).square().sum())))
        if scheme == measured:
            middle = dense
    return offers, middle


def _sensitivity(
    name: str, checkpoint: Checkpoint, offers: Sequence[tuple[Scheme, int, float]], at: int, measured: float
) -> Sensitivity:
    unit = max(measured, 0.0) / offers[at][2] if offers[at][2] else 0.0
    choices = tuple(Choice(scheme, bits, unit * error) for scheme, bits, error in offers)
    return Sensitivity(name, checkpoint.tensors[name].size, at, measured, choices)


def _parameter(model: nn.Module, checkpoint: Checkpoint, name: str) -> str:
    """The parameter that is this tensor and nothing else."""
    shape = tuple(checkpoint.tensors[name].shape)
    target, index = layout_of(model).parameter_of(Address(name, (0,) * len(shape)))  # type: ignore[union-attr]
    found = dict(model.named_parameters(remove_duplicate=False)).get(target)
    if found is None or tuple(found.shape) != shape or any(index):
        raise SuperweightsError(
            f"{name} is fused with others when the model is loaded, and cannot be rounded alone here.",
            hint="leave stacked experts to one scheme for all: superweights quantize without --plan.",
        )
    return target
