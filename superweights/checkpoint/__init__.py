"""Checkpoints: names and shapes first, bytes on demand, from a folder, a GGUF file or the hub."""

from __future__ import annotations

from superweights.checkpoint.checkpoint import Checkpoint
from superweights.checkpoint.opening import open_checkpoint, opened_checkpoint
from superweights.checkpoint.tensors import TensorInfo, Traffic

__all__ = ["Checkpoint", "TensorInfo", "Traffic", "open_checkpoint", "opened_checkpoint"]
