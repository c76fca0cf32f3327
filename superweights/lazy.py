"""Names that are imported when they are asked for, so that a room costs nothing until it is entered."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def found(package: str, homes: Mapping[str, str], name: str) -> Any:
    """`name` from the module of `package` where `homes` says that it lives: the body of a room's `__getattr__`.

    Raises `AttributeError` for any other name, as Python does.
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(import_module(f"{package}.{homes[name]}"), name)
