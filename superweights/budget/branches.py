"""What a model's predictions lose when one matrix is replaced, for many matrices at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.branch import Branch, Branching, branching
from superweights.progress import Progress, silent
from superweights.scoring import Variant, compare_all
from superweights.scoring.compare import kl_of_logits
from superweights.stream.blocks import find_blocks
from superweights.subject import device_of

# The hidden states of all branches together, in bytes; tokens of a batch, and those side by side in a block.
_HIDDEN_BYTES, _BATCH, _ABREAST = 1 << 27, 2048, 4096
# So many matrices share one pass of the model as it is, where each needs passes of its own.
_TOGETHER = 14
# What stands in a matrix's place, by its name.
Replacement = Callable[[str], Tensor]


def divergences_in_blocks(
    model: nn.Module,
    parameters: Mapping[str, str],
    replacement: Replacement,
    tokens: Tensor,
    progress: Progress | None = None,
) -> dict[str, float] | None:
    """KL(as it is || replaced) in nats per token for each of `parameters` (name to parameter of `model`), alone.

    Each runs from its own block on. None where the model's blocks are no chain, or a parameter stands in no block or
    in several.
    """
    blocks = list(find_blocks(model))
    places = {name: _blocks_of(model, parameter, blocks) for name, parameter in parameters.items()}
    if any(len(place) != 1 for place in places.values()):
        return None
    batches = tokens.to(device_of(model)).split(max(1, _BATCH // tokens.shape[1]))
    together = max(1, _HIDDEN_BYTES // (4 * batches[0].numel() * _width(model)))
    found: dict[str, float] = {}
    names = sorted(parameters, key=lambda name: blocks.index(places[name][0]))
    counted = _Count(progress or silent, len(names) * len(batches))
    for start in range(0, len(names), together):
        part = names[start : start + together]
        branches = [
            Branch(
                at=places[name][0],
                around=partial(_put, model, parameters[name], name, counted.of(replacement)),
            )
            for name in part
        ]
        sums = torch.zeros(len(part), dtype=torch.float64)
        with branching(model, branches, abreast=_ABREAST) as run:
            for batch in batches:
                run.pass_over(batch)
                if run.broken_at is not None or any(branch.apart for branch in branches):
                    return None
                sums += _costs(run, branches, batch, counted)
        predictions = tokens.shape[0] * (tokens.shape[1] - 1)
        found |= dict(zip(part, (sums / predictions).tolist(), strict=True))
    return found


def divergences_alone(
    model: nn.Module,
    parameters: Mapping[str, str],
    replacement: Replacement,
    tokens: Tensor,
    progress: Progress | None = None,
) -> dict[str, float]:
    """As `divergences_in_blocks`, for any model, by a whole pass for each parameter."""
    found: dict[str, float] = {}
    names = list(parameters)
    for start in range(0, len(names), _TOGETHER):
        part = names[start : start + _TOGETHER]
        variants = [
            Variant(model, partial(_put, model, parameters[name], name, replacement)) for name in part
        ]
        for name, compared in zip(part, compare_all(model, variants, tokens), strict=True):
            assert compared.kl is not None, "a model that predicts was asked for"
            found[name] = compared.kl.value
        if progress is not None:
            progress("sensitivity", len(found), len(names))
    return found


class _Count:
    """The work on each matrix and batch, told to a person: it is rounded, and its predictions are compared."""

    def __init__(self, progress: Progress, total: int):
        self._progress, self._total, self._rounded, self._compared = progress, total, 0, 0

    def of(self, replacement: Replacement) -> Replacement:
        """`replacement`, counted."""

        def counted(name: str) -> Tensor:
            self._rounded += 1
            self._progress("pass 1 of 2: each matrix rounded alone", self._rounded, self._total)
            return replacement(name)

        return counted

    def compared(self) -> None:
        """The predictions of one more are compared."""
        self._compared += 1
        self._progress("pass 2 of 2: predictions compared", self._compared, self._total)


def _costs(run: Branching, branches: Sequence[Branch], tokens: Tensor, counted: _Count) -> Tensor:
    """The KL of each branch `[branches]`, summed over all predictions; the model's own are made once for all."""
    sums = torch.zeros(len(branches), dtype=torch.float64)
    rows, length = tokens.shape
    for row in range(rows):
        here, at = slice(row, row + 1), slice(0, length - 1)
        log_p = functional.log_softmax(run.logits(None, here, at)[0].float(), -1)
        for number, branch in enumerate(branches):
            sums[number] += kl_of_logits(log_p, run.logits(branch, here, at)[0]).double().sum().cpu()
            if row == rows - 1:
                counted.compared()
    return sums


@contextmanager
def _put(model: nn.Module, parameter: str, name: str, replacement: Replacement) -> Iterator[None]:
    """`model` with the replacement of `name` in the place of its parameter, put back as it was."""
    held = model.get_parameter(parameter)
    before = held.data
    try:
        held.data = replacement(name).to(before.device, before.dtype)
        yield
    finally:
        held.data = before


def _blocks_of(model: nn.Module, parameter: str, blocks: Sequence[str]) -> list[str]:
    """The blocks that hold a parameter, under any of its names."""
    held = model.get_parameter(parameter)
    names = [name for name, each in model.named_parameters(remove_duplicate=False) if each is held]
    return [path for path in blocks if any(name.startswith(f"{path}.") for name in names)]


def _width(model: nn.Module) -> int:
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    return embedding.weight.shape[1]
