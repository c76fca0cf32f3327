"""ggml's own quantizers and decoders, in C, out of the library that the xllamacpp package carries."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

import gguf
import numpy as np


class _Traits(ctypes.Structure):
    """The beginning of ggml.h's `struct ggml_type_traits`."""

    _fields_ = (
        *(
            ("type_name", ctypes.c_char_p),
            ("blck_size", ctypes.c_int64),
            ("blck_size_interleave", ctypes.c_int64),
        ),
        *(("type_size", ctypes.c_size_t), ("is_quantized", ctypes.c_bool)),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    found = importlib.util.find_spec("xllamacpp")
    assert found is not None, "pip install xllamacpp"
    assert found.origin is not None
    library = ctypes.CDLL(str(next(Path(found.origin).parent.glob("xllamacpp*.so"))))
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64),
        ctypes.c_void_p,
    )
    return library


def quantize(weight: np.ndarray, kind: gguf.GGMLQuantizationType, *, alike: bool = True) -> np.ndarray:
    """float32 `[rows, columns]` as ggml's own quantizer stores it, bytes `[rows, bytes of a row]`.

    `alike`: it is told that all inputs are equally important; False: nothing, as by `llama-quantize` without a matrix.
    """
    rows, columns = weight.shape
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    weight = np.ascontiguousarray(weight, np.float32)
    stored = np.zeros((rows, columns // per_block * size), np.uint8)
    # some types will not do without importances
    importance = np.ones(columns, np.float32)
    written = _library().ggml_quantize_chunk(
        *(
            kind.value,
            weight.ctypes.data,
            stored.ctypes.data,
            0,
            rows,
            columns,
            importance.ctypes.data if alike else None,
        )
    )
    assert written == stored.nbytes
    return stored


def dequantize(stored: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """What ggml makes of these bytes: float32 `[rows, columns]`."""
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    stored = np.ascontiguousarray(stored)
    values = np.empty((len(stored), stored.shape[1] // size * per_block), np.float32)
    _library().ggml_get_type_traits(kind.value).contents.to_float(
        stored.ctypes.data, values.ctypes.data, values.size
    )
    return values
