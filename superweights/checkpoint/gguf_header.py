"""The header of a GGUF file: settings, and where each tensor stands. Long lists of words are stepped over.

Format: the magic, a version, two counts, key-value pairs, tensor descriptions, then the data at the next
aligned address. Source: ggml's docs/gguf.md. The `gguf` package reads every word of the vocabulary in
Python, which takes seconds; nothing here needs them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from superweights.checkpoint.header import damaged
from superweights.checkpoint.tensors import count
from superweights.errors import SuperweightsError

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4
# Which part of how many a file is, and the tensors of all (llama.cpp, `llama-gguf-split`).
_NUMBER, _PARTS, _TENSORS = "split.no", "split.count", "split.tensors.count"
_LONG = 64  # lists longer than this are counted, not kept


@dataclass(frozen=True)
class Block:
    """A tensor of a GGUF file, its shape in torch's order; `start`, `stop` count from the start of its `part`."""

    kind: GGMLQuantizationType
    """How its numbers are stored."""
    shape: tuple[int, ...]
    start: int
    stop: int
    part: int = 0
    """Which file of several it stands in."""


@dataclass(frozen=True)
class Long:
    """A list too long to keep: how many items it has."""

    items: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself. `spans` holds the bytes of each setting: key, type and value."""

    values: Mapping[str, Any]
    """The settings, by key."""
    spans: Mapping[str, tuple[int, int]]
    blocks: Mapping[str, Block]
    """The tensors, by name."""

    @property
    def architecture(self) -> str:
        return self.values["general.architecture"]

    @property
    def parts(self) -> int:
        """Of how many files the checkpoint is."""
        parts = self.values.get(_PARTS, 1)
        return parts if type(parts) is int and parts > 1 else 1

    def joined(self, others: Sequence[Header], where: str) -> Header:
        """This header, the first part's, with the tensors of all parts. Raises unless they are parts of one whole."""
        blocks = dict(self.blocks)
        for number, other in enumerate(others, 1):
            told = {_NUMBER: number, _PARTS: self.parts}
            if any(other.values.get(name) != value for name, value in told.items()):
                raise damaged(where, f"its part {number + 1} is a part of something else")
            twice = blocks.keys() & other.blocks.keys()
            if twice:
                raise damaged(where, f"{min(twice)!r} stands in two of its parts")
            blocks |= {name: replace(block, part=number) for name, block in other.blocks.items()}
        whole = self.values.get(_TENSORS, len(blocks))
        if len(blocks) != whole:
            raise damaged(where, f"its parts hold {len(blocks)} tensors, and it claims {whole}")
        return replace(self, blocks=blocks)


def read_gguf_header(data: memoryview, where: str) -> Header:
    """The header in `data`, a whole GGUF file. Raises `SuperweightsError` unless all of it makes sense."""
    if data[:4] != b"GGUF":
        raise damaged(where, "it does not begin with GGUF, so it is no GGUF file")
    cursor = _Cursor(data, 4, where)
    version = cursor.number("<I")
    if version not in (2, 3):
        raise SuperweightsError(
            f"{where} is GGUF version {version}, and only 2 and 3 in little-endian order can be read.",
            hint="convert it again with a current llama.cpp.",
        )
    tensors, pairs = cursor.number("<Q"), cursor.number("<Q")
    cursor.expect(tensors * 24 + pairs * 13, "tensors and settings")
    values, spans = _read_pairs(cursor, pairs)
    _check_settings(values, where)
    blocks = _read_blocks(cursor, tensors, values.get("general.alignment", 32))
    return Header(values, spans, blocks)


class _Cursor:
    """A place in the file. Every step is checked against the file's end before it is made."""

    def __init__(self, data: memoryview, at: int, where: str):
        self.data, self.at, self.where = data, at, where

    def expect(self, size: int, what: str) -> None:
        if size > len(self.data) - self.at:
            raise damaged(
                self.where, f"its header claims {size:,} bytes of {what}, more than the file has left"
            )

    def number(self, form: str) -> Any:
        self.expect(struct.calcsize(form), "numbers")
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        size = self.number("<Q")
        self.expect(size, "text")
        raw = bytes(self.data[self.at : self.at + size])
        self.at += size
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise damaged(self.where, "a name in its header is not valid UTF-8") from None

    def skip_texts(self, items: int) -> None:
        unpack, data, at, end = struct.Struct("<Q").unpack_from, self.data, self.at, len(self.data) - 8
        for _ in range(items):
            if at > end:
                break
            at += 8 + unpack(data, at)[0]
        if at > len(data):
            raise damaged(self.where, "a list of words in its header runs past the end of the file")
        self.at = at


def _read_pairs(cursor: _Cursor, pairs: int) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    values: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(pairs):
        start = cursor.at
        key = cursor.text()
        if key in values:
            raise damaged(cursor.where, f"the setting {key!r} appears twice")
        values[key] = _read_value(cursor, cursor.number("<I"))
        spans[key] = start, cursor.at
    return values, spans


def _read_value(cursor: _Cursor, kind: int) -> Any:
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        return cursor.text()
    if kind != _ARRAY:
        raise damaged(cursor.where, f"a setting has the unknown type {kind}")
    item, items = cursor.number("<I"), cursor.number("<Q")
    if item not in _SCALARS and item != _STRING:
        raise damaged(cursor.where, f"a list holds items of type {item}")
    width = 8 if item == _STRING else struct.calcsize(_SCALARS[item])
    cursor.expect(items * width, "a list")
    if items <= _LONG:
        return [_read_value(cursor, item) for _ in range(items)]
    if item == _STRING:
        cursor.skip_texts(items)
    else:
        cursor.at += items * width
    return Long(items)


def _check_settings(values: Mapping[str, Any], where: str) -> None:
    architecture, alignment = values.get("general.architecture"), values.get("general.alignment", 32)
    later_part = (
        type(number := values.get(_NUMBER)) is int and number > 0
    )  # only the first has all the settings
    if not later_part and (not isinstance(architecture, str) or not architecture):
        raise damaged(where, "it does not say which architecture it holds")
    if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        raise damaged(where, f"its alignment is {alignment!r}, which is no small power of two")


def _read_blocks(cursor: _Cursor, tensors: int, alignment: int) -> dict[str, Block]:
    """Every tensor, once all the descriptions are read and the beginning of the data is known."""
    described = [_describe(cursor) for _ in range(tensors)]
    begin = -(-cursor.at // alignment) * alignment
    blocks: dict[str, Block] = {}
    for name, kind, shape, offset, nbytes in described:
        if name in blocks:
            raise damaged(cursor.where, f"{name!r} appears twice")
        if offset % alignment or begin + offset + nbytes > len(cursor.data):
            raise damaged(cursor.where, f"{name!r} does not lie within the file")
        blocks[name] = Block(kind, shape, begin + offset, begin + offset + nbytes)
    ends = 0
    for name, block in sorted(blocks.items(), key=lambda item: item[1].start):
        if block.start < ends:
            raise damaged(cursor.where, f"{name!r} overlaps another tensor")
        ends = block.stop
    return blocks


def _describe(cursor: _Cursor) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int, int]:
    """Name, kind, shape (torch's order), offset and size in bytes of the tensor at the cursor."""
    name, dims = cursor.text(), cursor.number("<I")
    if dims > _MAX_DIMS:
        raise damaged(cursor.where, f"{name!r} has {dims} dimensions, and {_MAX_DIMS} is the most")
    shape = tuple(reversed([cursor.number("<Q") for _ in range(dims)]))
    number, offset = cursor.number("<I"), cursor.number("<Q")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise SuperweightsError(
            f"{cursor.where} stores {name!r} in the unknown format {number}.",
            hint="a newer gguf package may know it: pip install -U gguf.",
        ) from None
    per_block, width = GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % per_block:
        raise damaged(cursor.where, f"the shape of {name!r} does not fit {kind.name}")
    return name, kind, shape, offset, count(shape) // per_block * width
