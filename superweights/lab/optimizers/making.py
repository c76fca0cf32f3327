"""`make_optimizer`: the optimizer that a spec names, over the parameters of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.lab.optimizers.decoupled_sgd import DecoupledSGD
from superweights.lab.optimizers.global_adam import GlobalAdam
from superweights.lab.optimizers.grouping import Groups, groups_of, split_by, token_rows, weights_of
from superweights.lab.optimizers.one_sided import OneSided
from superweights.lab.optimizers.rotated_adam import RotatedAdam
from superweights.lab.optimizers.rotations import (
    Axes,
    Blocks,
    Dense,
    Identity,
    Rotation,
    SignedPermutation,
    haar,
)
from superweights.lab.optimizers.spec import OptimizerSpec
from superweights.lab.seeding import seed_of


def make_optimizer(spec: OptimizerSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of `spec` over the trainable parameters of `model`.

    Matrices of linear layers and embeddings are decayed; gains, biases, null logits, keys and values, lambda vectors
    and LIMe's routers are not (the papers mostly do not say; LIMe's authors decay no router either). Each group names
    its parameters (`parameter_names`), and our own optimizers refuse a saved state that belongs to other names.

    Raises `SuperweightsError` where SOAP or Muon is asked for and pytorch-optimizer is not installed, and for a dense
    rotation of a large parameter.
    """
    return _MAKERS[spec.name](spec, model, groups_of(spec, model))


def _adamw(spec: OptimizerSpec, model: nn.Module, groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, **_adam(spec), fused=True)


def _sgd(spec: OptimizerSpec, model: nn.Module, groups: Groups) -> torch.optim.Optimizer:
    return DecoupledSGD(groups, lr=spec.learning_rate, momentum=spec.momentum)


def _rotated(spec: OptimizerSpec, model: nn.Module, groups: Groups) -> torch.optim.Optimizer:
    if spec.rotation == "global":
        seed = seed_of(spec.seed, "global")
        return GlobalAdam(groups, lambda size: Blocks(size, spec.block, seed, seed + 1), **_adam(spec))
    tokens, embeddings = token_rows(model), weights_of(model, nn.Embedding)

    def rotation_of(name: str, parameter: Tensor) -> Rotation:
        return rotation(spec, name, parameter, id(parameter) in tokens, id(parameter) in embeddings)

    return RotatedAdam(groups, rotation_of, **_adam(spec))


def rotation(
    spec: OptimizerSpec, name: str, parameter: Tensor, tokens: bool = False, embedding: bool = False
) -> Rotation:
    """The basis of one parameter, drawn from the spec's seed and `name`: others may come and go, it stays.

    `tokens`: its rows are a vocabulary and are not mixed with each other; `embedding`: its rows are inputs, its
    columns outputs. A single number has nothing to turn.

    The scopes "in" and "out" say which axis is turned: G R and R G for G [out, in]. Maes et al. call G R, which mixes
    the weights of one output neuron, output-wise.
    """
    size, seed = parameter.numel(), seed_of(spec.seed, name)
    if size == 1:
        return Identity()
    if spec.rotation == "signed_permutation":
        return SignedPermutation(size, seed)
    if spec.rotation == "dense":
        return Dense(size, seed, name)
    if spec.rotation in ("block", "flat"):
        return Blocks(size, min(spec.block, size), seed, seed_of(spec.seed, "block"))
    outputs = 1 if embedding else 0
    turned = {"in": {1 - outputs}, "out": {outputs}}.get(spec.rotation, {0, 1})

    def matrix(axis: int) -> Tensor | None:
        length = parameter.shape[axis]
        kept = axis not in turned or (tokens and axis == 0) or not 1 < length <= spec.largest_rotated
        return None if kept else haar(length, seed_of(spec.seed, f"{name}/{axis}"))

    if parameter.ndim == 2:
        return Axes(matrix(0), matrix(1))
    return Axes(haar(size, seed)) if parameter.ndim == 1 and size <= spec.largest_rotated else Identity()


def _one_sided(spec: OptimizerSpec, model: nn.Module, groups: Groups) -> torch.optim.Optimizer:
    return OneSided(groups, **_adam(spec), every=spec.every, largest=spec.largest_rotated)


def _soap(spec: OptimizerSpec, model: nn.Module, groups: Groups) -> torch.optim.Optimizer:
    longest = max(max(p.shape) for p in model.parameters() if id(p) not in token_rows(model))
    # the vocabulary's axis has no covariance: eigenvectors of thousands of tokens, of which a batch shows few
    return _library().SOAP(
        groups,
        **_adam(spec),
        precondition_frequency=spec.every,
        max_precondition_dim=min(spec.largest_rotated, longest),
    )


def _muon(spec: OptimizerSpec, model: nn.Module, groups: Groups) -> torch.optim.Optimizer:
    outside = token_rows(model)
    inside = {id(p) for p in model.parameters() if p.ndim == 2 and id(p) not in outside}
    # one learning rate for both: the step of an orthogonal update is scaled to Adam's (Moonlight, 2502.16982)
    yes = {"use_muon": True, "use_adjusted_lr": True, "momentum": spec.momentum}
    no = {"use_muon": False, "betas": (spec.beta1, spec.beta2), "eps": spec.epsilon}
    return _library().Muon(split_by(groups, inside, yes, no))


def _library() -> Any:
    try:
        import pytorch_optimizer
    except ImportError as error:
        raise SuperweightsError(
            "SOAP and Muon come from pytorch-optimizer, which is not installed.",
            hint="pip install 'superweights[lab]'.",
        ) from error
    return pytorch_optimizer


def _adam(spec: OptimizerSpec) -> dict[str, Any]:
    return {"lr": spec.learning_rate, "betas": (spec.beta1, spec.beta2), "eps": spec.epsilon}


_MAKERS: Mapping[str, Callable[[OptimizerSpec, nn.Module, Groups], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "sgd": _sgd,
    "orthoadam": _rotated,
    "rotated_adam": _rotated,
    "shampoo": _one_sided,
    "soap": _soap,
    "muon": _muon,
}
