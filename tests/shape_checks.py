"""Checks the shapes that annotations name, and nothing else of them: `make shapes` gives it to jaxtyping's hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import beartype

_SHAPES = ("Float[", "Int[", "Bool[")


def shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with the tensors that go in and come out checked; itself where it names no shape."""
    said = dict(function.__annotations__)
    named = {name: hint for name, hint in said.items() if any(shape in str(hint) for shape in _SHAPES)}
    if not named:
        return function
    function.__annotations__ = named
    try:
        return beartype(function)
    finally:
        function.__annotations__ = said
