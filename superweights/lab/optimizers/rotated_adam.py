"""AdamW whose moments live in another basis; its parameters, its decay and its clipping never do.

    g' = Q g,   m = b1 m + (1 - b1) g',   v = b2 v + (1 - b2) g'^2
    theta -= lr Q^T (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps),   decoupled decay on theta itself

(Kaul et al. 2410.17174, algorithm 1; section 3 of Maes et al. 2410.19964.) With a signed permutation for Q this is
torch's AdamW to the bit, which is tested. Saved are moments and steps: rotations are drawn again from seed and name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.lab.optimizers.rotations import Rotation

_NAMES = "parameter_names"  # of a group, in its order: whose moments are whose, on any machine


class RotatedAdam(torch.optim.Optimizer):
    """`rotation_of(name, parameter)` gives each parameter's basis; groups carry `parameter_names`."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        rotation_of: Callable[[str, Tensor], Rotation],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._rotation_of = rotation_of
        self._rotations: dict[str, Rotation] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for name, parameter in zip(group[_NAMES], group["params"], strict=True):
                if parameter.grad is not None:
                    self._step(group, parameter, self._rotation(name, parameter))
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Moments and steps as they were saved; raises where they belong to other parameters."""
        check_names(self, state_dict)
        super().load_state_dict(state_dict)

    def _rotation(self, name: str, parameter: Tensor) -> Rotation:
        if name not in self._rotations:
            self._rotations[name] = self._rotation_of(name, parameter)
        return self._rotations[name]

    def _step(self, group: dict[str, Any], parameter: Tensor, rotation: Rotation) -> None:
        assert parameter.grad is not None
        grad = rotation.into(parameter.grad)
        direction = adam_direction(self.state[parameter], grad, group)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(rotation.out_of(direction))


def adam_direction(state: dict[str, Any], grad: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Adam's step -lr m' / (sqrt(v') + eps) for a gradient, without decay; `state` keeps its moments and its step.

    It is torch's own fused step, taken from zero.
    """
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=grad.device)
        state["exp_avg"], state["exp_avg_sq"] = (
            torch.zeros_like(grad, memory_format=torch.contiguous_format) for _ in range(2)
        )
    direction = torch.zeros_like(state["exp_avg"])
    state["step"] += 1
    beta1, beta2 = group["betas"]
    torch.ops.aten._fused_adamw_(
        [direction], [grad.contiguous()], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
        lr=group["lr"], beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"],
        amsgrad=False, maximize=False,
    )  # fmt: skip
    return direction


def check_names(optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Raises unless a saved state's groups name the parameters that the optimizer's groups name."""
    saved = [group.get(_NAMES) for group in state_dict["param_groups"]]
    ours = [group.get(_NAMES) for group in optimizer.param_groups]
    if saved != ours:
        raise SuperweightsError(
            "This optimizer's state belongs to other parameters than the model has.",
            hint="resume with the architecture and optimizer that wrote the checkpoint.",
        )
