"""A GGUF file as the source of another: metadata and tensors are copied."""

from __future__ import annotations

from typing import Any

import numpy as np

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.gguf_source import Piece
from superweights.quantization.plan import Plan

# Fields that tell of the source's tensors, and are written anew.
_OWN_FIELDS = ("general.architecture", "general.file_type", "general.quantization_version")


class Copied:
    """One GGUF file. Raises `SuperweightsError` for one of several parts."""

    def __init__(self, checkpoint: Checkpoint, plan: Plan):
        from gguf import GGUFReader

        from superweights.checkpoint.gguf import GgufStore

        assert checkpoint.path is not None, "a GGUF file is on this machine"
        self._reader, self._store = GGUFReader(checkpoint.path), GgufStore(checkpoint.path)
        if self._store.parts > 1:
            self.close()
            raise SuperweightsError(
                f"{checkpoint.name} is of {self._store.parts} parts, and one file is written from one file.",
                hint="join them first: llama-gguf-split --merge FIRST_PART OUT.",
            )
        self.architecture: str = self._reader.fields["general.architecture"].contents()
        names = {self._store.file_name(name): name for name in plan.schemes}
        self.pieces = [_piece(tensor, names.get(tensor.name)) for tensor in self._reader.tensors]

    def add_metadata(self, writer: Any) -> None:
        """Every field of the source but those that the writer makes itself, and those about its tensors' types."""
        from gguf import GGUFValueType

        for field in self._reader.fields.values():
            if field.name.startswith("GGUF.") or field.name in _OWN_FIELDS:
                continue
            kind = field.types[0]
            inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)

    def row_order(self, tensor: str) -> np.ndarray:
        """Which row of the file each row of the tensor is."""
        return self._store.row_order(tensor)

    def close(self) -> None:
        """Let the file go."""
        self._store.close()


def _piece(tensor: Any, name: str | None) -> Piece:
    weights = int(tensor.n_elements) if len(tensor.shape) > 1 else 0
    data, kind, size = tensor.data, tensor.tensor_type, int(tensor.n_bytes)
    return Piece(
        tensor.name, name, data.shape, data.dtype, kind, size, weights, lambda: np.ascontiguousarray(data)
    )
