"""How a block of a model is called: the same call with other hidden states, or with those of several versions."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from superweights.subject.calls import hidden_of


def repeated(args: tuple, kwargs: dict, old: Tensor, hidden: Tensor) -> tuple[list, dict]:
    """The same call for several times the rows, `hidden` in the place of `old`; TypeError where it is not clear
    which arguments have a row each."""
    rows = old.shape[0]
    times = hidden.shape[0] // rows

    def again(value: Any) -> Any:
        if value is old:
            return hidden
        if type(value) is tuple:
            return tuple(again(part) for part in value)
        if not isinstance(value, Tensor):
            if value is None or isinstance(value, bool | int | float | str):
                return value
            raise TypeError(f"{type(value)} may hold a batch")
        if value.dim() < 2 or value.shape[0] == 1:
            return value
        if value.shape[0] != rows:
            raise TypeError(f"{list(value.shape)} is no batch of {rows}")
        return value.repeat(times, *[1] * (value.dim() - 1))

    return [again(a) for a in args], {key: again(value) for key, value in kwargs.items()}


def one_row(args: tuple, kwargs: dict, row: int) -> tuple[list, dict] | None:
    """The same call for one row of the batch; None where it is not clear which arguments have a row each.

    Lists and dictionaries that a block writes into are such arguments.
    """
    rows = hidden_of(args, kwargs).shape[0]
    unclear = False

    def part_of(value: Any) -> Any:
        nonlocal unclear
        if type(value) is tuple:
            return tuple(part_of(part) for part in value)
        if not isinstance(value, Tensor):
            unclear |= not (value is None or isinstance(value, bool | int | float | str))
            return value
        if value.dim() < 2 or value.shape[0] == 1:
            return value
        unclear |= value.shape[0] != rows
        return value[row : row + 1]

    found = [part_of(a) for a in args], {key: part_of(value) for key, value in kwargs.items()}
    return None if unclear else found


def same(tensor: Tensor, other: Tensor | None) -> bool:
    return other is not None and (
        tensor is other or (tensor.data_ptr() == other.data_ptr() and tensor.shape == other.shape)
    )


def takes(model: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters
