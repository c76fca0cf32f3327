"""What an optimizer has gathered, carried over growth: continuing costs no restart.

The paper's own stages begin with a fresh optimizer. Carried moments are ours: old slots keep theirs, new slots begin
at zero, step counts go on. Right after exact growth the gradients of old weights are what they were, so the next step
moves them exactly as it would have without growth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.trainer_pt_utils import get_parameter_names

from superweights.errors import SuperweightsError

# The names that transformers' Trainer keeps free of weight decay; its optimizers hold the others first.
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def carry_moments(old: Optimizer, model: nn.Module, new: Optimizer, larger: nn.Module) -> None:
    """Give `new`, the optimizer of `larger`, the state that `old` has gathered on `model`.

    For optimizers whose state has the parameter's shape (Adam, AdamW, SGD); raises `SuperweightsError` for others, and
    where the two models are not the same up to slots.
    """
    theirs = dict(larger.named_parameters())
    for name, parameter in model.named_parameters():
        if name not in theirs:
            raise SuperweightsError(f"The grown model has no {name}.", hint="grow this very model.")
        if old.state.get(parameter):
            new.state[theirs[name]] = _carried(old.state[parameter], parameter, theirs[name], name)


def carried_state(state: dict[str, Any], model: nn.Module, larger: nn.Module) -> dict[str, Any]:
    """The `state_dict` of an optimizer on `model` as one on `larger`, in the order in which transformers' Trainer holds
    parameters: those with weight decay, then the others. Raises `SuperweightsError` for a state in another order."""
    names = _trainer_order(model)
    was, now = dict(model.named_parameters()), dict(larger.named_parameters())
    places = [place for group in state["param_groups"] for place in group["params"]]
    if len(places) != len(names):
        raise SuperweightsError(
            f"The optimizer knows {len(places)} parameters, the model has {len(names)}.",
            hint="restart the optimizer instead of carrying its state.",
        )
    held = state["state"]
    carried = {
        place: _carried(held[place], was[name], now[name], name)
        for place, name in zip(places, names, strict=True)
        if place in held
    }
    return {**state, "state": carried}


def _trainer_order(model: nn.Module) -> list[str]:
    decayed = set(get_parameter_names(model, [nn.LayerNorm], _NO_DECAY))
    names = [name for name, _ in model.named_parameters()]
    return [n for n in names if n in decayed] + [n for n in names if n not in decayed]


def _carried(held: dict[str, Any], was: Tensor, now: Tensor, name: str) -> dict[str, Any]:
    return {key: _padded(value, was, now, f"{key} of {name}") for key, value in held.items()}


def _padded(value: Any, was: Tensor, now: Tensor, what: str) -> Any:
    """A piece of optimizer state, its new elements zero; what is one number stays."""
    if not isinstance(value, Tensor):
        return value
    if value.numel() == 1 and was.numel() != 1:
        return value.clone()
    if value.shape != was.shape:
        raise SuperweightsError(
            f"{what} has the shape {list(value.shape)}, not its parameter's {list(was.shape)}.",
            hint="restart the optimizer instead of carrying its state.",
        )
    larger = torch.zeros(now.shape, dtype=value.dtype, device=value.device)
    larger[tuple(slice(0, n) for n in value.shape)] = value
    return larger
