"""The writers of all formats, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.compressed_tensors import write_compressed_tensors
from superweights.formats.dense import write_dense
from superweights.formats.gguf import write_gguf
from superweights.formats.packed.writing import write_packed
from superweights.formats.writing import Written
from superweights.progress import Progress
from superweights.quantization.plan import Plan

WRITERS: dict[str, Callable[..., Written]] = {
    "packed": write_packed,
    "dense": write_dense,
    "compressed-tensors": write_compressed_tensors,
    "gguf": write_gguf,
}
RESTS = ("float32", "bfloat16", "float16")


def check_form(form: str, rest: str | None = None) -> None:
    """Raise `SuperweightsError` for a format that has no writer, and for a `rest` that it cannot have."""
    if form not in WRITERS:
        raise SuperweightsError(f"There is no format {form!r}.", hint=f"choose from {', '.join(WRITERS)}.")
    if rest is not None and (rest not in RESTS or form != "packed"):
        raise SuperweightsError(
            f"--rest {rest} is not possible with --format {form}.",
            hint=f"{', '.join(RESTS)} with --format packed; the other formats keep what is not rounded as stored.",
        )


def write_as(
    form: str,
    checkpoint: Checkpoint,
    plan: Plan,
    to: Path,
    rest: str | None = None,
    progress: Progress | None = None,
) -> Written:
    """`checkpoint` rounded by `plan` and written to `to` in the format `form`; `rest` as `check_form` allows it."""
    check_form(form, rest)
    how: dict[str, Any] = {} if rest is None else {"rest": getattr(torch, rest)}
    return WRITERS[form](checkpoint, plan, to, progress=progress, **how)
