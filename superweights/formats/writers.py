"""The writers of all formats, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.compressed_tensors import write_compressed_tensors
from superweights.formats.dense import write_dense
from superweights.formats.gguf import write_gguf
from superweights.formats.gguf_folder import Folder
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


def check_form(form: str) -> None:
    """Raise `SuperweightsError` for a format that has no writer."""
    if form not in WRITERS:
        raise SuperweightsError(f"There is no format {form!r}.", hint=f"choose from {', '.join(WRITERS)}.")


def check_source(form: str, checkpoint: Checkpoint) -> None:
    """Raise `SuperweightsError` for a checkpoint that no file of `form` can be made of, before any work is done."""
    if form == "gguf" and checkpoint.format != "gguf":
        Folder(checkpoint).close()


def write_as(
    form: str, checkpoint: Checkpoint, plan: Plan, to: Path, progress: Progress | None = None
) -> Written:
    """`checkpoint` rounded by `plan` and written to `to` in the format `form`."""
    check_form(form)
    return WRITERS[form](checkpoint, plan, to, progress=progress)


def held_whole(form: str, plan: Plan) -> Plan:
    """The plan as `form` follows it: formats without a place for a single weight leave its whole matrix as it is."""
    whole = form in ("compressed-tensors", "gguf")
    return plan.without({address.tensor for address in plan.keep}) if whole else plan
