"""Which modules of a model are its blocks: a rule on the module graph, without a name in it."""

from __future__ import annotations

from typing import Any

from torch import nn

# A list of modules that holds less than this share of the parameters between embedding and head is no list of blocks.
_MUCH = 0.05


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Path and module of every block: the elements of the outermost module lists that hold much of the model.

    Embeddings and head do not count: in a small model with a large vocabulary they are nearly everything.
    """
    vocabulary = _vocabulary_parameters(model)
    total = sum(p.numel() for p in model.parameters() if id(p) not in vocabulary) or 1
    blocks: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{b}.") for b in blocks):
            continue
        if sum(p.numel() for p in module.parameters() if id(p) not in vocabulary) >= _MUCH * total:
            blocks |= {f"{path}.{i}": element for i, element in enumerate(module)}
    return blocks


def _vocabulary_parameters(model: nn.Module) -> set[int]:
    """The parameters that stand for words or positions one by one: of every embedding, and of the head."""
    modules: list[Any] = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    for ask in ("get_input_embeddings", "get_output_embeddings"):
        try:
            modules.append(getattr(model, ask, lambda: None)())
        except (NotImplementedError, AttributeError):  # transformers' way of saying that there is none
            continue
    return {id(p) for module in modules if isinstance(module, nn.Module) for p in module.parameters()}
