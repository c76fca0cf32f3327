"""A side-car as a LoRA adapter of llama.cpp's, over one GGUF file.

Source of the format: llama.cpp's `convert_lora_to_gguf.py` and `llama-adapter.cpp`: metadata `adapter.type` "lora" and
`adapter.lora.alpha`, and for a matrix its name with `.lora_a` `[rank, inputs]` and `.lora_b` `[outputs, rank]`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from superweights.artefacts.file import new_file
from superweights.artefacts.place import check_new
from superweights.checkpoint import Checkpoint
from superweights.checkpoint.gguf import GgufStore
from superweights.errors import SuperweightsError
from superweights.quantization.attach import LIKENESS
from superweights.quantization.sidecar import KeptWeight, SideCar


def write_gguf_adapter(base: Checkpoint, side_car: SideCar, to: Path) -> dict[str, float]:
    """Each weight of `side_car` and what the GGUF file `base` lacks of it, as written to the adapter `to`.

    Weights that the base has exactly get no place in it. Raises `SuperweightsError` for a base that is no GGUF file or
    holds other weights, for one that lacks nothing, and where `to` exists.
    """
    to = Path(to)
    if base.format != "gguf" or base.path is None:
        raise SuperweightsError(
            f"{base.name} is no GGUF file.", hint="give the file that llama.cpp shall load."
        )
    check_new(to, "file")
    lacking = {kept: kept.value - _held(base, kept) for kept in side_car.weights}
    by_tensor: dict[str, list[KeptWeight]] = {}
    for kept, delta in lacking.items():
        if delta:
            by_tensor.setdefault(kept.address.tensor, []).append(kept)
    if not by_tensor:
        raise SuperweightsError(
            "The base has every weight of the side-car exactly.", hint="it needs no adapter."
        )
    with new_file(to) as partial:
        _write(base, by_tensor, lacking, partial)
    return {str(kept.address): delta for kept, delta in lacking.items()}


def _held(base: Checkpoint, kept: KeptWeight) -> float:
    """What the base holds in the place of `kept`; raises where the matrix is not the one it was taken from."""
    held = base.element(kept.address.tensor, kept.address.index)
    column = base.read(kept.address.tensor).select(1 - kept.out_axis, kept.in_neuron)
    base.release([kept.address.tensor])
    alike = kept.likeness(column)
    if alike is not None and alike < LIKENESS:
        raise SuperweightsError(
            f"{kept.address.tensor} of {base.name} is not the matrix that the weight was taken from: its weights are "
            f"others (cosine {alike:.2f}).",
            hint="give a quantized form of the checkpoint that was peeled.",
        )
    return held


def _write(
    base: Checkpoint, by_tensor: dict[str, list[KeptWeight]], lacking: dict[KeptWeight, float], path: Path
) -> None:
    from gguf import GGUFReader, GGUFWriter

    assert base.path is not None, "checked by write_gguf_adapter"
    store = GgufStore(base.path)
    architecture = GGUFReader(base.path).fields["general.architecture"].contents()
    writer = GGUFWriter(path, arch=architecture)
    rank = max(map(len, by_tensor.values()))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    try:
        for tensor, weights in by_tensor.items():
            shape = base.tensors[tensor].shape
            out_axis = weights[0].out_axis
            # A transposed matrix (Conv1D) lies in the file the other way round, and no row is moved.
            rows = np.arange(shape[1]) if out_axis else store.row_order(tensor)
            a = np.zeros((rank, shape[1 - out_axis]), np.float32)
            b = np.zeros((shape[out_axis], rank), np.float32)
            for place, kept in enumerate(weights):
                a[place, kept.in_neuron] = 1
                b[rows[kept.out_channel], place] = lacking[kept]
            writer.add_tensor(f"{store.file_name(tensor)}.lora_a", a)
            writer.add_tensor(f"{store.file_name(tensor)}.lora_b", b)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
        store.close()
