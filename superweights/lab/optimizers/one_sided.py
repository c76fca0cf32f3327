"""Adam in the eigenbasis of one side of the gradients: one-sided Shampoo, in SOAP's form.

For W [m, n], C = EMA of G G^T on the shorter side (beta2), Q its eigenvectors: moments of Q^T G, the step turned back
(SOAP, Vyas et al. 2409.11321, run with one preconditioner, which its section 6 calls one-sided). Every `every` steps
Q becomes the Q of C Q, one power iteration, and the first moment follows it; the second stays as it is, as in SOAP.
Vectors, and matrices whose shorter side is longer than `largest`, are plain Adam's.

Where we differ from SOAP's code: columns keep their order and sign instead of being sorted; the first step is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from superweights.lab.optimizers.rotated_adam import adam_direction, check_names


class OneSided(torch.optim.Optimizer):
    """See the module's first lines; `every` and `largest` as in `OptimizerSpec`."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        every: int,
        largest: int,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0}
        super().__init__(groups, {**defaults, "every": every, "largest": largest})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(group, parameter)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Moments, covariances and bases as they were saved; raises where they belong to other parameters."""
        check_names(self, state_dict)
        super().load_state_dict(state_dict)

    def _step(self, group: dict[str, Any], parameter: Tensor) -> None:
        assert parameter.grad is not None
        state, gradient = self.state[parameter], parameter.grad
        turned = parameter.ndim == 2 and min(parameter.shape) <= group["largest"]
        # rows are the shorter side
        flipped = turned and parameter.shape[0] > parameter.shape[1]
        gradient = gradient.T if flipped else gradient
        moments = state.setdefault("moments", {})
        if turned:
            _follow(state, moments, gradient, group)
            gradient = state["basis"].T @ gradient
        step = adam_direction(moments, gradient, group)
        if turned:
            step = state["basis"] @ step
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(step.T if flipped else step)


def _follow(state: dict[str, Any], moments: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> None:
    """The covariance takes the gradient in; now and then the basis and the first moment turn with it."""
    seen = gradient @ gradient.T
    if "covariance" not in state:
        state["covariance"] = seen
        state["basis"] = torch.linalg.eigh(seen.double())[1].to(seen.dtype).contiguous()
        return
    state["covariance"].lerp_(seen, 1 - group["betas"][1])
    if int(moments["step"]) % group["every"]:
        return
    q, r = torch.linalg.qr(state["covariance"] @ state["basis"])
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
    turned = q * signs
    moments["exp_avg"] = turned.T @ (state["basis"] @ moments["exp_avg"])
    state["basis"] = turned
