"""What is known of a model that was opened here: where the checkpoint's scalars are in it, and how its weights come.

The room that opens a model announces it; everyone else asks. Nothing is hung on the model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import nn

from superweights.address import Layout, SameNames


class WeightStream(Protocol):
    """How the weights of a streamed model come and go: block by block, as it runs."""

    blocks: dict[str, nn.Module]
    """Each block's path and module."""
    on_load: list[Callable[[str, nn.Parameter], None]]
    """Told the name and the parameter each time a streamed parameter has been read, before it is used."""

    def asleep(self) -> AbstractContextManager[None]:
        """Blocks that are called inside the `with` are not read."""
        ...


@dataclass(frozen=True, eq=False)
class _Known:
    layout: Layout | None
    stream: Any


_ANNOUNCED: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def announce(model: nn.Module, layout: Layout | None = None, stream: WeightStream | None = None) -> None:
    """Remember, as long as `model` lives, where its scalars are and (while it is streamed) how its weights come."""
    _ANNOUNCED[model] = _Known(layout, stream)


def layout_of(model: nn.Module) -> Layout:
    """Where the checkpoint's scalars are in `model`; a model opened elsewhere keeps its own names."""
    known = _ANNOUNCED.get(model)
    return SameNames() if known is None or known.layout is None else known.layout


def stream_of(model: nn.Module) -> Any:
    """The `WeightStream` of a model whose weights come block by block; None where they stay in memory."""
    known = _ANNOUNCED.get(model)
    return None if known is None else known.stream


def is_streamed(model: nn.Module) -> bool:
    """Whether the model's weights come block by block, and are read again for every batch."""
    return stream_of(model) is not None
