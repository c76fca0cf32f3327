"""The header of a safetensors file, read with our own checks: nothing it claims is believed unmeasured.

Format: 8 bytes, the header's length as a little-endian whole number; a JSON object of that length; then
the tensors' bytes, one after the other without holes. Source: the safetensors README, "Format".
We differ from its reader in the words only: every refusal names the file and what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from superweights.checkpoint.tensors import count
from superweights.errors import SuperweightsError

MAX_HEADER = 100_000_000
MAX_DIMS = 64
_LARGEST = 2**63 - 1
_POINTER = b"version https://git-lfs"

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}

DAMAGED = "the file may be damaged or half downloaded: fetch it again, and compare its size with the source."


@dataclass(frozen=True)
class Stored:
    """Where a tensor stands in a file: `start` and `stop` count bytes from the beginning of the file."""

    dtype: str
    """As the file spells it."""
    shape: tuple[int, ...]
    """As the file has it."""
    start: int
    stop: int


def read_header(read: Callable[[int, int], bytes], size: int, where: str) -> dict[str, Stored]:
    """The tensors of the safetensors file of `size` bytes that `read(first, last)` reads from.

    Raises `SuperweightsError` for anything but a whole and sound file. `where` names it in messages.
    """
    if size < 8:
        raise damaged(where, f"it has {size} bytes, and the length of its header alone takes 8")
    if read(0, min(size, len(_POINTER))) == _POINTER:
        raise SuperweightsError(f"{where} is a Git LFS pointer, not the weights.", hint="git lfs pull")
    length = int.from_bytes(read(0, 8), "little")
    if length > MAX_HEADER or 8 + length > size:
        raise damaged(where, f"its header claims {length:,} bytes in a file of {size:,}")
    entries = _parse(read(8, 8 + length), where)
    entries.pop("__metadata__", None)
    begin = 8 + length
    stored = {name: _check_entry(name, entry, begin, size, where) for name, entry in entries.items()}
    _check_layout(stored, begin, size, where)
    return stored


def damaged(where: str, why: str) -> SuperweightsError:
    """The error for a file whose content cannot be what it should be."""
    return SuperweightsError(f"{where} cannot be read: {why}.", hint=DAMAGED)


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text`. A name given twice is refused: which one would count is anybody's guess."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name appears twice")
        return found

    try:
        data = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise damaged(where, f"it is not valid JSON ({_short(error)})") from None
    if not isinstance(data, dict):
        raise damaged(where, f"it holds a JSON {type(data).__name__}, not an object")
    return data


def _parse(text: bytes, where: str) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise damaged(where, "its header does not begin with {, so it is no safetensors file")
    return parse_json(text, f"the header of {where}")


def _check_entry(name: str, entry: Any, begin: int, size: int, where: str) -> Stored:
    """The entry of one tensor, with its offsets counted from the beginning of the file."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise damaged(where, f"the entry of {name!r} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise SuperweightsError(
            f"{where} stores {name!r} as {dtype!r}, a number format that cannot be read here.",
            hint=f"known formats: {', '.join(DTYPES)}.",
        )
    if not _whole_numbers(shape) or len(shape) > MAX_DIMS or count(n or 1 for n in shape) > _LARGEST:
        raise damaged(where, f"the shape of {name!r} is impossible")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise damaged(where, f"the offsets of {name!r} are not two whole numbers")
    start, stop = (begin + offset for offset in offsets)
    if not begin <= start <= stop <= size:
        raise damaged(where, f"{name!r} ends at byte {stop:,} of a file of {size:,}")
    if stop - start != count(shape) * DTYPES[dtype].itemsize:
        raise damaged(where, f"{name!r} has {stop - start:,} bytes, which do not fit {dtype} {shape}")
    return Stored(dtype, tuple(shape), start, stop)


def _check_layout(stored: dict[str, Stored], begin: int, size: int, where: str) -> None:
    """Raise unless the tensors fill the file one after the other, without overlap, hole or rest."""
    at = begin
    for name, tensor in sorted(stored.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != at:
            raise damaged(
                where, f"{name!r} {'overlaps another tensor' if tensor.start < at else 'follows a hole'}"
            )
        at = tensor.stop
    if at != size:
        raise damaged(where, f"{size - at:,} bytes after the last tensor belong to nothing")


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n <= _LARGEST for n in values)


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
