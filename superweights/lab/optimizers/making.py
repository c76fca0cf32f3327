"""`make_optimizer`: the optimizer that a spec names, over the parameters of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from superweights.errors import SuperweightsError
from superweights.lab.optimizers.spec import OptimizerSpec


def make_optimizer(spec: OptimizerSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of `spec` over the trainable parameters of `model`, in at most two groups.

    Weight decay is on the matrices of linear layers and embeddings, not on gains, biases, null logits, keys and
    values, lambda vectors and routers. The papers mostly do not say; LIMe's authors decay no router either.
    """
    if spec.name != "adamw":
        raise SuperweightsError(f"{spec.name} is not built yet.", hint="adamw is.")
    groups = _groups(spec, model)
    betas = (spec.beta1, spec.beta2)
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=betas, eps=spec.epsilon, fused=True)


def _groups(spec: OptimizerSpec, model: nn.Module) -> list[dict[str, Any]]:
    """Parameters with weight decay and without, by name; a group without parameters is left out."""
    matrices = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)
    }
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [(name, p) for name, p in named if id(p) in matrices]
    kept = [(name, p) for name, p in named if id(p) not in matrices]
    groups = ((decayed, spec.weight_decay), (kept, 0.0))
    return [{"params": held, "weight_decay": decay} for held, decay in groups if held]
