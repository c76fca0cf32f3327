"""Folders of models, one file of which is changed, and what opens them: transformers, `open_checkpoint`, `attach`."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TENSOR = "model.layers.1.mlp.down_proj.weight"
# A row for each: its name, its bytes, the reader, and whether it is JSON.
Row = tuple[str, bytes, Callable[[bytes], str], bool]


def in_folder(folder: Path, name: str, read: Callable[[Path], Any]) -> Callable[[bytes], str]:
    """Read a folder with one of its files changed, which is put back."""
    whole = (folder / name).read_bytes()

    def reading(made: bytes) -> str:
        (folder / name).write_bytes(made)
        try:
            read(folder)
        finally:
            (folder / name).write_bytes(whole)
        return "same" if made == whole else ""

    return reading


def rows(folder: Path, source: Path, plan: Any) -> list[Row]:
    """Packed and compressed-tensors folders, opened as they are; and such a folder as the base of `attach`."""
    from transformers import AutoModelForCausalLM

    import superweights  # noqa: F401 - teaches transformers the packed form
    from superweights.artefacts.place import MANIFEST
    from superweights.checkpoint import open_checkpoint
    from superweights.errors import SuperweightsError
    from superweights.formats.compressed_tensors import write_compressed_tensors
    from superweights.formats.packed.writing import write_packed
    from superweights.quantization import Blocks, Scheme
    from superweights.quantization.peel import SIDE_CAR
    from superweights.quantization.plan import Plan
    from superweights.quantization.sidecar import SideCar, kept_weights
    from superweights.stream import streaming
    from superweights.verbs.attach import attach

    flat = Scheme("int4", zero_point="none", blocks=Blocks("group", (32,)))
    with open_checkpoint(source) as checkpoint:
        packed = write_packed(checkpoint, plan, folder / "packed").folder
        stored = write_compressed_tensors(
            checkpoint, Plan(dict.fromkeys(plan.schemes, flat)), folder / "stored"
        ).folder

    def plainly(where: Path) -> None:
        try:
            AutoModelForCausalLM.from_pretrained(where)
        except (OSError, RecursionError, ValueError) as error:
            # What is no JSON at all, or nested thousands deep, transformers' own reader refuses before it asks us.
            if any(
                "/superweights/" in frame.filename for frame in traceback.extract_tb(error.__traceback__)[1:]
            ):
                raise
            raise SuperweightsError("transformers refuses config.json.", hint="-") from error

    def opened(where: Path) -> None:
        with open_checkpoint(where) as checkpoint, streaming(checkpoint, resident=True):
            pass

    with open_checkpoint(source) as checkpoint:
        side_car = SideCar(kept_weights(TENSOR, checkpoint.read(TENSOR), [(5, 7)]))
        (folder / "taken").mkdir()
        (folder / "taken" / SIDE_CAR).write_text(side_car.to_json(), encoding="utf-8")

    def attached(where: Path) -> None:
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        attach(str(where), folder / "taken", folder / "adapter")

    # Without its manifest, as one that another program has written.
    shutil.copytree(stored, folder / "strange")
    (folder / "strange" / MANIFEST).unlink()
    beside = {
        "peft_type": "LORA",
        "r": 1,
        "target_modules": ["down_proj"],
        "base_model_name_or_path": str(stored),
    }
    shutil.copytree(folder / "strange", folder / "with adapter")
    (folder / "with adapter" / "adapter_config.json").write_text(json.dumps(beside), encoding="utf-8")
    return [
        (
            f"{form}, {name}",
            (where / name).read_bytes(),
            in_folder(where, name, read),
            name.endswith("json"),
        )
        for form, where, name, read in (
            ("packed, from_pretrained", packed, "config.json", plainly),
            ("packed, from_pretrained", packed, "superweights.safetensors", plainly),
            ("packed, from_pretrained", packed, MANIFEST, plainly),
            ("compressed-tensors, opened", stored, "config.json", opened),
            ("compressed-tensors, opened", stored, "model.safetensors", opened),
            ("attach, on compressed-tensors", stored, "config.json", attached),
            ("attach, on those of others", folder / "strange", "config.json", attached),
            ("attach, an adapter beside", folder / "with adapter", "adapter_config.json", attached),
        )
    ]
