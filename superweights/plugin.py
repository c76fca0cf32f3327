"""`import superweights` teaches transformers to read packed, pruned and lab checkpoints, without importing it.

The standard library alone is used here: where transformers' table of configs is imported already, our configs are
put into it; where it is not, a finder waits for that module and does so right after it has run.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TABLE = "transformers.models.auto.configuration_auto"


def teach_transformers() -> None:
    """Register our configs now, or as soon as transformers' table of configs is imported."""
    table = sys.modules.get(_TABLE)
    if table is not None and hasattr(table, "AutoConfig"):
        _register(table)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _register(table: Any) -> None:
    from superweights.formats.packed.config import PackedModelConfig
    from superweights.lab.byte_latent.opening import SavedByteLatentConfig
    from superweights.lab.concepts.config import ConceptConfig
    from superweights.lab.models.opening import SavedLabConfig
    from superweights.lab.tokenformer.config import TokenFormerConfig
    from superweights.pruning.config import PrunedModelConfig

    ours = (PackedModelConfig, PrunedModelConfig, SavedLabConfig, TokenFormerConfig, SavedByteLatentConfig)
    for config in (*ours, ConceptConfig):
        table.AutoConfig.register(config.model_type, config, exist_ok=True)


class _Waiting(MetaPathFinder):
    """Finds nothing itself; it lets the others find the table, and asks to be told when it has run."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader)
        return spec


class _Then(Loader):
    """The module's own loader, and our registration after it."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
