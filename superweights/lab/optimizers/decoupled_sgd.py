"""SGD with momentum whose weight decay acts on the weights themselves, as AdamW's does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class DecoupledSGD(torch.optim.SGD):
    """torch's SGD, but for the decay: `theta *= 1 - lr * weight_decay`, where torch's goes through the momentum."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step."""
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = 0.0
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * decay)
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay
