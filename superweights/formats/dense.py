"""A dense checkpoint with the rounding baked in: any program that reads the original reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from superweights.checkpoint import Checkpoint
from superweights.formats.writing import Written, rounded, write_folder, write_settings
from superweights.progress import Progress
from superweights.quantization.plan import Plan
from superweights.quantization.tensor import Quantized

_README = """# Rounded, and stored dense

The matrices of this checkpoint were rounded by superweights and written back in their original type, to measure
what rounding costs with any program. It is no smaller than the original. `super_weights_plan.json` says which
tensor was rounded how, and which weights were kept exactly.
"""
PLAN = "super_weights_plan.json"


def write_dense(
    checkpoint: Checkpoint, plan: Plan, to: Path, *, progress: Progress | None = None, **writing: int
) -> Written:
    """The folder `to`: the checkpoint with every tensor of `plan` replaced by its rounded values, in its own dtype."""
    plan.check(checkpoint)

    def settings(folder: Path) -> None:
        write_settings(checkpoint, folder, lambda config: None, _README)
        (folder / PLAN).write_text(plan.to_json(), encoding="utf-8")

    form = rounded("dense", "model", plan, _encode)
    return write_folder(checkpoint, Path(to), form, settings, progress=progress, **writing)


def _encode(name: str, quantized: Quantized) -> Mapping[str, torch.Tensor]:
    return {name: quantized.dequantize()}
