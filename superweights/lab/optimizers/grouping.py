"""What a model's parameters are to an optimizer: which are decayed, which learn faster, whose rows are tokens."""

from __future__ import annotations

from typing import Any

from torch import nn

from superweights.lab.optimizers.spec import OptimizerSpec
from superweights.lab.parts.lime import Router

Groups = list[dict[str, Any]]


def groups_of(spec: OptimizerSpec, model: nn.Module) -> Groups:
    """The trainable parameters in at most three groups: matrices of linear layers and embeddings (decayed), LIMe's
    routers (`router_rate` times the learning rate), and the rest. Each names its parameters in order."""
    matrices = weights_of(model, nn.Linear, nn.Embedding)
    routers = weights_of(model, Router)
    held: dict[str, list[tuple[str, nn.Parameter]]] = {"matrices": [], "routers": [], "rest": []}
    for name, parameter in model.named_parameters():
        kind = "matrices" if id(parameter) in matrices else "routers" if id(parameter) in routers else "rest"
        if parameter.requires_grad:
            held[kind].append((name, parameter))
    rates = {"routers": spec.router_rate * spec.learning_rate}
    return [
        {
            "params": [parameter for _, parameter in members],
            "parameter_names": [name for name, _ in members],
            "lr": rates.get(kind, spec.learning_rate),
            "weight_decay": spec.weight_decay if kind == "matrices" else 0.0,
        }
        for kind, members in held.items()
        if members
    ]


def split_by(groups: Groups, chosen: set[int], yes: dict[str, Any], no: dict[str, Any]) -> Groups:
    """Each group cut in two: the parameters whose ids are `chosen`, with the fields `yes`, and the others, with
    `no`."""
    cut: Groups = []
    for group in groups:
        named = list(zip(group["parameter_names"], group["params"], strict=True))
        for inside, fields in ((True, yes), (False, no)):
            held = [(name, p) for name, p in named if (id(p) in chosen) is inside]
            if held:
                names, params = [name for name, _ in held], [p for _, p in held]
                cut.append({**group, **fields, "params": params, "parameter_names": names})
    return cut


def weights_of(model: nn.Module, *kinds: type[nn.Module]) -> set[int]:
    """The ids of the weights of every module of these kinds."""
    return {id(module.weight) for module in model.modules() if isinstance(module, kinds)}


def token_rows(model: nn.Module) -> set[int]:
    """The ids of the matrices whose rows are tokens: embeddings and the head."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return weights_of(model, nn.Embedding) | ({id(head.weight)} if isinstance(head, nn.Linear) else set())
