"""How a block of a model is called, and what it gives back: its hidden states among all else, found and replaced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from superweights.axes import Float


def hidden_of(args: tuple, kwargs: dict) -> Float[Tensor, ...]:
    """The hidden states that a block is called with: its first tensor, by convention `hidden_states`."""
    found = next((a for a in args if isinstance(a, Tensor)), kwargs.get("hidden_states"))
    if not isinstance(found, Tensor):
        found = next(v for v in kwargs.values() if isinstance(v, Tensor))
    return found


def with_hidden(
    args: tuple, kwargs: dict, hidden: Float[Tensor, ...], own: dict[int, Any] | None = None
) -> tuple[tuple, dict]:
    """The same call with other hidden states.

    With `own`, lists and dictionaries that blocks write into (shared keys and values) are replaced by copies kept there
    by the `id` of the original, so that this call does not overwrite what the model itself reads in a later block.
    """
    old = hidden_of(args, kwargs)

    def swap(value: Any) -> Any:
        if value is old:
            return hidden
        if own is not None and isinstance(value, dict | list) and not isinstance(value, torch.Size):
            return own.setdefault(id(value), value.copy())
        return value

    return tuple(swap(a) for a in args), {key: swap(value) for key, value in kwargs.items()}


def first_tensor(out: Any) -> Tensor:
    """What a block or layer puts out: the tensor, or the first one of a tuple."""
    return out if isinstance(out, Tensor) else next(part for part in out if isinstance(part, Tensor))


def like_output(out: Any, new: Tensor) -> Any:
    """`new` in the form in which a module returned `out`."""
    if isinstance(out, Tensor):
        return new
    first = first_tensor(out)
    parts = [new if part is first else part for part in out]
    return out._make(parts) if hasattr(out, "_make") else type(out)(parts)
