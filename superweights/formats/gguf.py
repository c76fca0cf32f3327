"""A GGUF file with a type for each tensor, for llama.cpp.

Ten of llama.cpp's types hold a rounded matrix of ours number by number, so that any fit may be used: Q8_0, Q4_0,
Q4_1, IQ4_NL and MXFP4 in blocks of 32 inputs, Q3_K, Q4_K, Q5_K, Q6_K and IQ4_XS in super-blocks of 256. Metadata and
tokenizer are those of a GGUF file, copied; a checkpoint in another format is first converted by llama.cpp's own
`convert_hf_to_gguf.py`. A matrix with a weight to keep, and every tensor that the plan does not round, stays byte for
byte as the file has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from superweights.artefacts.growing import Growing, growing_file
from superweights.artefacts.manifest import Work, digest_of, state_of
from superweights.artefacts.place import check_new
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.ggml_blocks import encode, type_of
from superweights.formats.writing import Written
from superweights.progress import Progress
from superweights.quantization.plan import Plan

# Fields that tell of the source's tensors, and are written anew.
_OWN_FIELDS = ("general.architecture", "general.file_type", "general.quantization_version")
# What the piece before the first tensor is called while the file grows; no tensor has such a name.
_HEAD = "the head of the file"


def write_gguf(checkpoint: Checkpoint, plan: Plan, to: Path, *, progress: Progress | None = None) -> Written:
    """The file `to`: the checkpoint, itself a GGUF file, with the tensors of `plan` in the type that holds them.

    Raises `SuperweightsError` for a checkpoint that is no GGUF file, and for schemes that are no type of llama.cpp's.
    """
    plan.check(checkpoint)
    to = Path(to)
    if checkpoint.format != "gguf" or checkpoint.path is None:
        raise SuperweightsError(
            f"{checkpoint.name} is no GGUF file, whose metadata and tokenizer a new one needs.",
            hint="convert it with llama.cpp's convert_hf_to_gguf.py first, and quantize the result.",
        )
    if plan.narrowed:
        raise SuperweightsError(
            "A GGUF file keeps what is not rounded byte for byte, and the plan narrows some of it.",
            hint="--embeddings keep, or int8 (Q8_0).",
        )
    check_new(to, "file")
    whole = {address.tensor for address in plan.keep}
    for name, scheme in plan.schemes.items():
        type_of(name, scheme, tuple(checkpoint.tensors[name].shape), plan.out_axes.get(name, 0))
    work = Work("gguf", checkpoint.fingerprint(), digest_of(plan.fingerprint()), state_of(checkpoint.path))
    with growing_file(to, work) as growing:
        _write(checkpoint, plan, whole, growing, progress)
    return Written(to, to.stat().st_size, checkpoint.path.stat().st_size)


def _write(
    checkpoint: Checkpoint, plan: Plan, whole: set[str], growing: Growing, progress: Progress | None
) -> None:
    from gguf import GGUFReader

    from superweights.checkpoint.gguf import GgufStore

    assert checkpoint.path is not None, "checked by write_gguf"
    reader, store = GGUFReader(checkpoint.path), GgufStore(checkpoint.path)
    if store.parts > 1:
        raise SuperweightsError(
            f"{checkpoint.name} is of {store.parts} parts, and one file is written from one file.",
            hint="join them first: llama-gguf-split --merge FIRST_PART OUT.",
        )
    names = {store.file_name(name): name for name in plan.schemes if name not in whole}
    try:
        head, alignment = _head(checkpoint, plan, reader, names, growing.scratch)
        if not growing.has(_HEAD):
            growing.add(_HEAD, head, bytes(-len(head) % alignment))
        for done, tensor in enumerate(reader.tensors, 1):
            if not growing.has(tensor.name):
                stored = _stored(checkpoint, plan, store, tensor, names.get(tensor.name))
                growing.add(tensor.name, stored.data, bytes(-stored.nbytes % alignment))
            if progress is not None:
                progress(tensor.name, done, len(reader.tensors))
    finally:
        store.close()


def _head(
    checkpoint: Checkpoint, plan: Plan, reader: Any, names: dict[str, str], scratch: Path
) -> tuple[bytes, int]:
    """What stands before the tensors' values, as the format's own library writes it, and the alignment of those."""
    from gguf import GGUFWriter

    writer = GGUFWriter(scratch, arch=reader.fields["general.architecture"].contents())
    try:
        weights: Counter[str] = Counter()
        for tensor in reader.tensors:
            shape, held_as, kind, nbytes = _described(tensor, plan, names, checkpoint)
            writer.add_tensor_info(tensor.name, shape, held_as, nbytes, raw_dtype=kind)
            weights[kind.name] += int(tensor.n_elements) if len(tensor.shape) > 1 else 0
        _copy_metadata(reader, writer, file_type(weights))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    head = scratch.read_bytes()
    scratch.unlink()
    return head, writer.data_alignment


def _stored(checkpoint: Checkpoint, plan: Plan, store: Any, tensor: Any, name: str | None) -> np.ndarray:
    """The bytes of a tensor of the source; rounded where the plan names it, by its name in the checkpoint."""
    if name is None:
        return np.ascontiguousarray(tensor.data)
    quantized = plan.round(name, checkpoint.read(name))
    checkpoint.release([name])
    raw = encode(quantized)
    stored = np.empty_like(raw)
    stored[store.row_order(name)] = raw  # row i of the tensor is row order[i] of the file
    return stored


def _described(tensor: Any, plan: Plan, names: dict[str, str], checkpoint: Checkpoint):
    """Shape and dtype as numpy holds it (types in blocks: in bytes), type and size of what is written for `tensor`."""
    from gguf import GGMLQuantizationType
    from gguf.constants import GGML_QUANT_SIZES

    name = names.get(tensor.name)
    if name is None:
        return tensor.data.shape, tensor.data.dtype, tensor.tensor_type, tensor.n_bytes
    shape = tuple(checkpoint.tensors[name].shape)
    kind = GGMLQuantizationType[type_of(name, plan.schemes[name], shape, 0)]
    elements, size = GGML_QUANT_SIZES[kind]
    row = shape[1] // elements * size
    return (shape[0], row), np.dtype(np.uint8), kind, shape[0] * row


def file_type(weights: Mapping[str, int]) -> int:
    """llama.cpp's number for a file (`general.file_type`) in which most `weights` have this type; 1024 where none fits.

    Types that llama.cpp spreads over a file by tables of its own (Q4_K_S, Q4_K_M) are named after the smallest.
    """
    from gguf import LlamaFileType

    most = max(weights, key=lambda kind: weights[kind])
    names = ("ALL_F32",) if most == "F32" else (f"MOSTLY_{most}", f"MOSTLY_{most}_S", f"MOSTLY_{most}_MOE")
    return next((LlamaFileType[name].value for name in names if name in LlamaFileType.__members__), 1024)


def _copy_metadata(reader: Any, writer: Any, kind_of_file: int) -> None:
    """Every field of the source but those that the writer makes itself, and those about the types of its tensors."""
    from gguf import GGML_QUANT_VERSION, GGUFValueType

    writer.add_file_type(kind_of_file)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in _OWN_FIELDS:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
