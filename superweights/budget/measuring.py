"""What rounding one matrix alone costs, and what a whole plan does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from superweights.address import Address
from superweights.budget.allotting import Choice
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.progress import Progress
from superweights.quantization.plan import Plan
from superweights.quantization.scheme import Blocks, Scheme
from superweights.quantization.tensor import quantize_tensor
from superweights.scoring import Comparison, Variant, compare, compare_all
from superweights.scoring.loss import check_head
from superweights.stream import streaming
from superweights.subject import layout_of

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

# So many matrices share one pass of the model as it is.
_TOGETHER = 14


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

    The model is in memory in float32 and runs once for each matrix. Weights in `keep` are held out, as a plan that
    keeps them will. Raises `SuperweightsError` for matrices that are not parameters of their own (stacked experts).
    """
    schemes, at = candidates_for(format_), _MEASURED[format_]
    found = []
    with streaming(checkpoint, dtype="float32", device=device, resident=True) as model:
        check_head(model)
        names = {name: _parameter(model, checkpoint, name) for name in tensors}
        for start in range(0, len(names), _TOGETHER):
            part = list(names)[start : start + _TOGETHER]
            rounded = {name: _offers(checkpoint, name, tensors[name], schemes, at, keep) for name in part}
            changes = [{names[name]: rounded[name][1]} for name in part]
            variants = [Variant(model, partial(_replaced, model, change)) for change in changes]
            for name, compared in zip(part, compare_all(model, variants, tokens), strict=True):
                offers = rounded[name][0]
                found.append(_sensitivity(name, checkpoint, offers, at, _divergence(compared)))
            if progress is not None:
                progress("sensitivity", len(found), len(names))
    return found


def check_plan(
    checkpoint: Checkpoint, plan: Plan, tokens: Tensor, *, device: str = "auto", seed: int = 0
) -> Comparison:
    """The model under `plan` beside the model as it is, on `tokens`."""
    with streaming(checkpoint, dtype="float32", device=device, resident=True) as model:
        rounded = {}
        for name in plan.schemes:
            parameter = _parameter(model, checkpoint, name)
            rounded[parameter] = plan.round(name, checkpoint.read(name)).dequantize(torch.float32)
        return compare(model, Variant(model, lambda: _replaced(model, rounded)), tokens, seed=seed)


def _divergence(compared: Comparison) -> float:
    assert compared.kl is not None, "a model that predicts was asked for"
    return compared.kl.value


def _offers(
    checkpoint: Checkpoint, name: str, axis: int, schemes: Sequence[Scheme], at: int, keep: Sequence[Address]
) -> tuple[list[tuple[Scheme, int, float]], Tensor]:
    """Stored bits and squared error of every scheme on one matrix, and the matrix rounded by the measured one."""
    weight = checkpoint.read(name)
    kept = [address.index for address in keep if address.tensor == name]
    offers, middle = [], torch.empty(0)
    for place, scheme in enumerate(schemes):
        quantized = quantize_tensor(weight, scheme, kept, axis)
        dense = quantized.dequantize(torch.float32)
        offers.append((scheme, quantized.stored_bits.total, float((dense - weight.float()).square().sum())))
        if place == at:
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


@contextmanager
def _replaced(model: nn.Module, rounded: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with these parameters' values, put back as they were."""
    parameters = {name: model.get_parameter(name) for name in rounded}
    before = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, values in rounded.items():
            parameters[name].data = values.to(before[name].device)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = before[name]
