"""A GGUF file with a type for each tensor, for llama.cpp.

Twelve of llama.cpp's types hold a rounded matrix of ours number by number, so that any fit may be used: Q8_0, Q4_0,
Q4_1, Q5_0, Q5_1, IQ4_NL and MXFP4 in blocks of 32 inputs, Q3_K, Q4_K, Q5_K, Q6_K and IQ4_XS in super-blocks of 256.
Metadata and tokenizer are those of a GGUF file, copied, or made of a transformers folder where llama.cpp calls its
architecture `llama` (`superweights.formats.gguf_folder`). A matrix with a weight to keep, and every tensor that the
plan does not round, stays as the source has it.
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
from superweights.formats.gguf_copied import Copied
from superweights.formats.gguf_folder import Folder
from superweights.formats.gguf_source import GgufSource, Piece
from superweights.formats.writing import Written
from superweights.progress import Progress
from superweights.quantization.plan import Plan

# What the piece before the first tensor is called while the file grows; no tensor has such a name.
_HEAD = "the head of the file"


def write_gguf(checkpoint: Checkpoint, plan: Plan, to: Path, *, progress: Progress | None = None) -> Written:
    """The file `to`: the checkpoint with the tensors of `plan` in the type that holds them.

    Raises `SuperweightsError` for a checkpoint that is neither a GGUF file nor a folder that one can be made of, and
    for schemes that are no type of llama.cpp's.
    """
    plan.check(checkpoint)
    to = Path(to)
    if plan.narrowed:
        raise SuperweightsError(
            "A GGUF file keeps what is not rounded byte for byte, and the plan narrows some of it.",
            hint="--embeddings keep, or int8 (Q8_0).",
        )
    check_new(to, "file")
    for name, scheme in plan.schemes.items():
        type_of(name, scheme, tuple(checkpoint.tensors[name].shape), plan.out_axes.get(name, 0))
    work = Work("gguf", checkpoint.fingerprint(), digest_of(plan.fingerprint()), state_of(checkpoint.path))
    copied = checkpoint.format == "gguf"
    source: GgufSource = Copied(checkpoint, plan) if copied else Folder(checkpoint)
    try:
        with growing_file(to, work) as growing:
            _write(checkpoint, plan, source, growing, progress)
    finally:
        source.close()
    original = sum(info.nbytes for info in checkpoint.tensors.values())
    if copied and checkpoint.path is not None:
        original = checkpoint.path.stat().st_size
    return Written(to, to.stat().st_size, original)


def _write(
    checkpoint: Checkpoint, plan: Plan, source: GgufSource, growing: Growing, progress: Progress | None
) -> None:
    whole = {address.tensor for address in plan.keep}
    rounded = {
        piece.name: piece.tensor
        for piece in source.pieces
        if piece.tensor is not None and piece.tensor in plan.schemes and piece.tensor not in whole
    }
    head, alignment = _head(checkpoint, plan, source, rounded, growing.scratch)
    if not growing.has(_HEAD):
        growing.add(_HEAD, head, bytes(-len(head) % alignment))
    for done, piece in enumerate(source.pieces, 1):
        if not growing.has(piece.name):
            name = rounded.get(piece.name)
            stored = piece.stored() if name is None else _rounded(checkpoint, plan, source, name)
            growing.add(piece.name, stored.data, bytes(-stored.nbytes % alignment))
        if progress is not None:
            progress(piece.name, done, len(source.pieces))


def _head(
    checkpoint: Checkpoint, plan: Plan, source: GgufSource, rounded: Mapping[str, str], scratch: Path
) -> tuple[bytes, int]:
    """What stands before the tensors' values, as the format's own library writes it, and the alignment of those."""
    from gguf import GGML_QUANT_VERSION, GGUFWriter

    writer = GGUFWriter(scratch, arch=source.architecture)
    try:
        weights: Counter[str] = Counter()
        for piece in source.pieces:
            shape, held_as, kind, nbytes = _described(piece, plan, rounded.get(piece.name), checkpoint)
            writer.add_tensor_info(piece.name, shape, held_as, nbytes, raw_dtype=kind)
            weights[kind.name] += piece.weights
        writer.add_file_type(file_type(weights))
        writer.add_quantization_version(GGML_QUANT_VERSION)
        source.add_metadata(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    head = scratch.read_bytes()
    scratch.unlink()
    return head, writer.data_alignment


def _rounded(checkpoint: Checkpoint, plan: Plan, source: GgufSource, name: str) -> np.ndarray:
    """The bytes of a tensor that the plan names, by its name in the checkpoint."""
    quantized = plan.round(name, checkpoint.read(name))
    checkpoint.release([name])
    raw = encode(quantized)
    stored = np.empty_like(raw)
    stored[source.row_order(name)] = raw  # row i of the tensor is row order[i] of the file
    return stored


def _described(
    piece: Piece, plan: Plan, name: str | None, checkpoint: Checkpoint
) -> tuple[tuple[int, ...], np.dtype, Any, int]:
    """Shape and dtype as numpy holds it (types in blocks: in bytes), type and size of what is written for `piece`."""
    from gguf import GGMLQuantizationType
    from gguf.constants import GGML_QUANT_SIZES

    if name is None:
        return piece.shape, piece.dtype, piece.kind, piece.nbytes
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
