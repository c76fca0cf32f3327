"""Which modules of a model are its blocks, and in which towers they stand: rules on the module graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from superweights.errors import SuperweightsError

# A list of modules that holds less than this share of the parameters between embedding and head is no list of blocks.
_MUCH = 0.05


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Path and module of every block: the elements of the outermost module lists that hold much of their model.

    Their model is the innermost one with a config of its own, so that a small vision tower beside a large language
    model has blocks too. Embeddings and head do not count: in a small model with a large vocabulary they are nearly
    everything.
    """
    vocabulary = _vocabulary_parameters(model)
    blocks: dict[str, nn.Module] = {}
    sizes: dict[str, int] = {}
    models = [path for path, module in model.named_modules() if path == "" or hasattr(module, "config_class")]
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{b}.") for b in blocks):
            continue
        around = max((m for m in models if m == "" or path.startswith(f"{m}.")), key=len)
        if around not in sizes:
            sizes[around] = _size(model.get_submodule(around), vocabulary) or 1
        if _size(module, vocabulary) >= _MUCH * sizes[around]:
            blocks |= {f"{path}.{i}": element for i, element in enumerate(module)}
    return blocks


def stack_of(block: str) -> str:
    """The path of the list that a block stands in."""
    return block.rpartition(".")[0]


def towers_of(blocks: Iterable[str]) -> dict[str, str | None]:
    """The tower of each block: the first part of its path that tells its stack from another; None where there is one
    stack only.

    >>> towers_of(["model.encoder.layers.0", "model.decoder.layers.0"])
    {'model.encoder.layers.0': 'encoder', 'model.decoder.layers.0': 'decoder'}
    """
    paths = {block: stack_of(block).split(".") for block in blocks}
    stacks = {tuple(parts) for parts in paths.values()}
    if len(stacks) < 2:
        return dict.fromkeys(paths)
    shared = next(
        (i for i, parts in enumerate(zip(*stacks, strict=False)) if len(set(parts)) > 1),
        min(map(len, stacks)) - 1,
    )
    return {block: parts[shared] for block, parts in paths.items()}


def blocks_in(model: nn.Module, tower: str | None = None) -> dict[str, nn.Module]:
    """The blocks of one tower of `model`, by its name or by a part of it that fits one alone; all without a name.

    Raises `SuperweightsError` for a tower that the model does not have.
    """
    blocks = find_blocks(model)
    if tower is None:
        return blocks
    named = tower_named(blocks, tower, type(model).__name__)
    of = towers_of(blocks)
    return {path: block for path, block in blocks.items() if of[path] == named}


def tower_named(blocks: Iterable[str], asked: str, model: str) -> str:
    """The name of the tower that `asked` is, or is a part of. Raises `SuperweightsError` unless one fits."""
    names = [name for name in dict.fromkeys(towers_of(blocks).values()) if name is not None]
    fitting = [name for name in names if name == asked] or [name for name in names if asked in name]
    if len(fitting) != 1:
        raise SuperweightsError(
            f"{model} has no tower {asked!r}."
            if not fitting
            else f"Several towers of {model} are {asked!r}.",
            hint=f"its towers are {', '.join(names)}."
            if names
            else "it has one stack of blocks; leave --tower out.",
        )
    return fitting[0]


def _size(module: nn.Module, vocabulary: set[int]) -> int:
    return sum(p.numel() for p in module.parameters() if id(p) not in vocabulary)


def _vocabulary_parameters(model: nn.Module) -> set[int]:
    """The parameters that stand for words or positions one by one: of every embedding, and of the head."""
    modules: list[Any] = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    for ask in ("get_input_embeddings", "get_output_embeddings"):
        try:
            modules.append(getattr(model, ask, lambda: None)())
        except (NotImplementedError, AttributeError):  # transformers' way of saying that there is none
            continue
    return {id(p) for module in modules if isinstance(module, nn.Module) for p in module.parameters()}
