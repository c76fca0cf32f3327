"""The scheme that a grid gets where nothing else is said: what was best for it without data, in each format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import bfloat16, float16

from superweights.checkpoint import Checkpoint
from superweights.quantization.scheme import INTEGERS, STANDARD_GROUPS, Blocks, Clip, Scheme


@dataclass(frozen=True)
class Rounding:
    """How matrices are rounded; what is None is chosen for the grid and the format."""

    grid: str = "int4"
    """int2 to int8, nf4, nf3, fp8_e4m3, fp8_e5m2, mxfp4, nvfp4."""
    group: int | None = None
    """Inputs that share a scale; 0: all of an output channel; None: 64 (gguf: 32), or the grid's own."""
    zero_point: str | None = None
    """none (symmetric), integer or float."""
    fit: str | None = None
    """range, centred, half_quadratic, least_squares, mse or second_order."""
    clip_z: float | None = None
    """Clip at so many standard deviations first."""

    def scheme(self, checkpoint: Checkpoint, form: str) -> Scheme:
        """The scheme for `checkpoint`, written in the format `form`. Errors as `Scheme`."""
        integer = self.grid in INTEGERS
        plain = form == "compressed-tensors" or (form == "gguf" and self.grid == "int8")
        zero: Any = self.zero_point or ("none" if not integer or plain else "float")
        anchor: Any = "signed" if integer and zero == "none" and self.grid != "int8" else "absolute"
        how: Any = self.fit or ("centred" if integer and zero == "float" else "range")
        usual = 32 if form == "gguf" else 64
        size = STANDARD_GROUPS.get(self.grid, usual if self.group is None else self.group)
        return Scheme(
            self.grid,
            zero_point=zero,
            blocks=Blocks("group", (size,)) if size else Blocks("channel", ()),
            clip=Clip("z", self.clip_z) if self.clip_z is not None else Clip(),
            fit=how,
            anchor=anchor,
            scale_dtype=self._scales(checkpoint, form),
        )

    def _scales(self, checkpoint: Checkpoint, form: str) -> Any:
        """The type of the scales: compressed-tensors computes in that of the checkpoint."""
        stored = {info.torch_dtype for info in checkpoint.tensors.values()}
        if form == "compressed-tensors" and float16 not in stored and bfloat16 in stored:
            return "bfloat16"
        return "float32" if self.grid.startswith("fp8") else "float16"
