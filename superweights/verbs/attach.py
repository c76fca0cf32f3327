"""`superweights.attach`: what a quantized base lacks of its super weights, as a LoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superweights.checkpoint import Checkpoint, opened_checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.lora import write_gguf_adapter
from superweights.quantization.adapter import write_adapter
from superweights.quantization.peel import read_side_car
from superweights.quantization.sidecar import SideCar
from superweights.stream import streaming
from superweights.subject import Source


@dataclass(frozen=True)
class Attached:
    """An adapter that was written."""

    to: str
    """The folder (PEFT), or the .gguf file (llama.cpp)."""
    lacking: dict[str, float]
    """By address: what the adapter adds to the base's number."""


def attach(base: Any, side_car: Path | str, to: Path | str) -> Attached:
    """The LoRA adapter written to `to`: what the quantized `base` lacks of the weights that `peel` wrote to `side_car`.

    For PEFT and vLLM a new folder; for a .gguf base a new .gguf file for llama.cpp. `base` as in `score`. Raises
    `SuperweightsError` for a side-car of another model.

    >>> attached = attach("smollm2-peeled-int4", "smollm2-peeled", "smollm2-adapter")     # doctest: +SKIP
    """
    taken_out, source = read_side_car(Path(side_car)), Source.of(base)
    with opened_checkpoint(source) as checkpoint:
        write = _for_llama_cpp if checkpoint.format == "gguf" else _for_peft
        return Attached(str(to), write(checkpoint, source, taken_out, Path(to)))


def _for_llama_cpp(checkpoint: Checkpoint, source: Source, side_car: SideCar, to: Path) -> dict[str, float]:
    if to.suffix != ".gguf":
        raise SuperweightsError(
            f"The base is a GGUF file, and {to} is no name for an adapter of llama.cpp's.",
            hint=f"give --to {to.with_suffix('.gguf')}.",
        )
    return write_gguf_adapter(checkpoint, side_car, to)


def _for_peft(checkpoint: Checkpoint, source: Source, side_car: SideCar, to: Path) -> dict[str, float]:
    with streaming(checkpoint, device=source.device, resident=True) as model:
        found = write_adapter(model, side_car, to, checkpoint.name)
    pairs = zip(side_car.weights, found, strict=True)
    return {str(kept.address): correction.delta for kept, correction in pairs}
