"""Adam in a basis that mixes all parameters: the global scope of Maes et al. 2410.19964."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from superweights.lab.optimizers.rotated_adam import adam_direction, check_names
from superweights.lab.optimizers.rotations import Rotation


class GlobalAdam(torch.optim.Optimizer):
    """All gradients as one vector, rotated; moments are kept in the first group's first parameter's state.

    A parameter without a gradient counts with zeros, since the vector has no holes. The learning rate is the first
    group's; another group's step is scaled by its own, after it is turned back.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        rotation_of: Callable[[int], Rotation],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._rotation = rotation_of(sum(p.numel() for p in self._parameters()))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every parameter."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = self._parameters()
        gradient = torch.cat([_gradient(p).flatten() for p in parameters])
        first = self.param_groups[0]
        direction = adam_direction(self.state[parameters[0]], self._rotation.into(gradient), first)
        steps = self._rotation.out_of(direction).split([p.numel() for p in parameters])
        groups = [group for group in self.param_groups for _ in group["params"]]
        for parameter, step, group in zip(parameters, steps, groups, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(step.view_as(parameter), alpha=group["lr"] / first["lr"])
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Moments and step as they were saved; raises where they belong to other parameters."""
        check_names(self, state_dict)
        super().load_state_dict(state_dict)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
