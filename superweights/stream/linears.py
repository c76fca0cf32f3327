"""Which tensors of a checkpoint are the matrices of its blocks: told from the model's graph, not from names."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.stream.skeleton import Skeleton
from superweights.subject.blocks import find_blocks

# What configs call the number of experts, which is the width of a router's output.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def linear_tensors(checkpoint: Checkpoint) -> dict[str, int]:
    """The checkpoint's names of all matrices that linear layers inside blocks multiply with, in its order, and
    the axis of their output channels: 0 for Linear, 1 for Conv1D, 1 or 2 for stacked experts.

    Embeddings, head, norms and routers are not among them, nor are convolutions and recurrences. Raises
    `SuperweightsError` for an architecture without any, and for a checkpoint whose matrices are quantized already.
    """
    if checkpoint.config.get("quantization_config"):
        raise SuperweightsError(
            f"{checkpoint.name} is quantized already: its matrices are not stored as such.",
            hint="give the original checkpoint.",
        )
    skeleton = Skeleton(checkpoint, torch.float32, torch.device("cpu"))
    model = skeleton.model
    axes: dict[str, int] = {}
    for path, block in find_blocks(model).items():
        for name, module in block.named_modules(prefix=path):
            axes |= _matrices_of(name, module, _experts(model))
    found = {}
    for name, target in skeleton.targets.items():
        axis, stored = axes.get(target), checkpoint.tensors[name].shape
        if axis is None or len(stored) < 2:
            continue
        # One matrix per expert in the file, stacked on loading: each is stored as a Linear's.
        found[name] = 0 if len(stored) == 2 and target in skeleton.converters else axis
    if not found:
        raise SuperweightsError(
            f"{checkpoint.name} has no linear layers inside blocks, so there is nothing to quantize.",
            hint="superweights quantizes the matrices of transformer blocks.",
        )
    return found


def embedding_tensors(checkpoint: Checkpoint) -> dict[str, bool]:
    """The checkpoint's names of embeddings and of the head, in its order, and whether each is the table of tokens or a
    head of its own (not one tied to the table). Raises `SuperweightsError` for what is no causal language model.
    """
    skeleton = Skeleton(checkpoint, torch.float32, torch.device("cpu"))
    model = skeleton.model
    ends = set()
    for ask in (model.get_input_embeddings, model.get_output_embeddings):
        with suppress(NotImplementedError, AttributeError):  # transformers' way of saying that there is none
            ends.add(id(ask()))
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    found = {
        f"{path}.weight": id(module) in ends and f"{path}.weight" not in tied
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding) or (isinstance(module, nn.Linear) and id(module) in ends)
    }
    return {
        name: found[target]
        for name, target in skeleton.targets.items()
        if target in found and target not in skeleton.converters
    }


def _matrices_of(path: str, module: nn.Module, experts: set[int]) -> dict[str, int]:
    """The parameters of `module` itself that are such matrices, with the axis of their outputs."""
    if isinstance(module, nn.Linear):
        return {} if module.out_features in experts else {f"{path}.weight": 0}
    if isinstance(module, Conv1D):
        return {f"{path}.weight": 1}
    if hasattr(module, "is_transposed"):  # transformers' mark of stacked experts
        stacked = [name for name, p in module.named_parameters(recurse=False) if p.dim() == 3]
        return {f"{path}.{name}": 2 if module.is_transposed else 1 for name in stacked}
    return {}


def _experts(model: nn.Module) -> set[int]:
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    return {n for name in _EXPERTS if isinstance(n := getattr(config, name, None), int) and n > 1}
