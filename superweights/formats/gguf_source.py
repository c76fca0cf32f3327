"""What a new GGUF file is made from: its tensors one by one, and what it says of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Piece:
    """A tensor as a GGUF file holds it where it is not rounded."""

    name: str
    """What the file calls it."""
    tensor: str | None
    """Its name in the checkpoint; None for one that no tensor of the checkpoint stands for."""
    shape: tuple[int, ...]
    """As numpy holds what is stored: types in blocks in bytes."""
    dtype: np.dtype
    """The same way."""
    kind: Any
    """Its type, of `gguf.GGMLQuantizationType`."""
    nbytes: int
    """How many bytes are stored."""
    weights: int
    """How many numbers of a matrix it holds; 0 for what is no matrix."""
    stored: Callable[[], np.ndarray]
    """Gives what is stored."""


class GgufSource(Protocol):
    """What the writer needs of a source."""

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the architecture."""
        ...

    @property
    def pieces(self) -> Sequence[Piece]:
        """The tensors, in the order of the file."""
        ...

    def add_metadata(self, writer: Any) -> None:
        """Give `writer`, a `gguf.GGUFWriter`, every field that does not tell of the tensors' types."""
        ...

    def row_order(self, tensor: str) -> np.ndarray:
        """Which row of the file each row of a tensor of the checkpoint is."""
        ...

    def close(self) -> None:
        """Let the files go."""
        ...
