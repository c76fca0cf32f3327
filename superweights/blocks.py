"""Which modules of a model are its blocks: a rule on the module graph, without a name in it."""

from __future__ import annotations

from torch import nn

# A list of modules that holds less than this share of the parameters is no list of blocks.
_MUCH = 0.05


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Path and module of every block: the elements of the outermost module lists that hold much of the model."""
    total = sum(p.numel() for p in model.parameters()) or 1
    blocks: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{b}.") for b in blocks):
            continue
        if sum(p.numel() for p in module.parameters()) >= _MUCH * total:
            blocks |= {f"{path}.{i}": element for i, element in enumerate(module)}
    return blocks
