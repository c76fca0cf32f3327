"""What stands in a model where a sub-layer was: modules without weights, and the places left in the cache.

A pruned checkpoint's config.json names each module that is gone, so that loading needs no knowledge of the
architecture and no pass of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError

VERSION = 1


class Absent(nn.Module):
    """Answers for a module that is gone: with zeros where its output was added to the residual stream (`adds`), else
    with its own input. `answers` 0 is the tensor itself, n a tuple of n with the tensor first and None after it.
    """

    def __init__(self, adds: bool, answers: int):
        super().__init__()
        self.adds, self.answers = adds, answers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        stream = next(each for each in given if isinstance(each, Tensor))
        said = torch.zeros_like(stream) if self.adds else stream
        return said if not self.answers else (said, *[None] * (self.answers - 1))

    def extra_repr(self) -> str:
        return "zeros" if self.adds else "its input"


@dataclass(frozen=True)
class Gaps:
    """The modules of a model that are gone: `modules[path] = (adds, answers)`, as `Absent` takes them; and where the
    attentions that stay keep their keys and values: `cache[path]` is the `layer_idx` of the module at `path`.

    A model asks layer 0 of its cache how many tokens it has read; were that one empty, cached decoding would silently
    go wrong. So the attentions of a kind (full, sliding) take the first places of their kind.
    """

    modules: Mapping[str, tuple[bool, int]] = field(default_factory=dict)
    cache: Mapping[str, int] = field(default_factory=dict)

    def apply(self, model: nn.Module) -> None:
        """Put an `Absent` in the place of each module, and number the attentions anew."""
        for path, (adds, answers) in self.modules.items():
            parent, leaf = _holder(model, path)
            setattr(parent, leaf, Absent(adds, answers))
        for path, place in self.cache.items():
            parent, leaf = _holder(model, path)
            getattr(parent, leaf).layer_idx = place

    def joined(self, other: Gaps) -> Gaps:
        """These gaps and `other`'s, whose numbering of the cache counts."""
        modules = {**self.modules, **other.modules}
        cache = {**self.cache, **other.cache}
        return Gaps(modules, {path: at for path, at in cache.items() if not _inside(path, modules)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads back."""
        modules = {path: [adds, answers] for path, (adds, answers) in self.modules.items()}
        return {"version": VERSION, "modules": modules, "cache": dict(self.cache)}

    @classmethod
    def from_dict(cls, held: Any) -> Gaps:
        """The gaps that a config.json names. Raises `SuperweightsError` for anything else."""
        try:
            version = int(held["version"])
            modules = {str(path): (bool(adds), int(n)) for path, (adds, n) in held["modules"].items()}
            gaps = cls(modules, {str(path): int(at) for path, at in held["cache"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SuperweightsError(
                "config.json does not say which sub-layers this pruned checkpoint lacks.",
                hint="download it again; superweights prune writes it.",
            ) from error
        if version > VERSION:
            raise SuperweightsError(
                f"This checkpoint was pruned in version {version}, and this superweights reads up to {VERSION}.",
                hint="pip install --upgrade superweights.",
            )
        return gaps


def _inside(path: str, modules: Mapping[str, Any]) -> bool:
    return any(path == gone or path.startswith(f"{gone}.") for gone in modules)


def _holder(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds the one at `path`, and its name there."""
    parent, _, leaf = path.rpartition(".")
    try:
        model.get_submodule(path)
        return model.get_submodule(parent), leaf
    except AttributeError as error:
        raise SuperweightsError(
            f"config.json leaves out {path}, which {type(model).__name__} does not have.",
            hint="it belongs to another checkpoint, or to another version of transformers.",
        ) from error
