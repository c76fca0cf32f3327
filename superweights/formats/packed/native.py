"""Products with packed weights by `products.c`, compiled by the machine's own compiler the first time they are wanted.

Where there is no compiler, nothing here is used, and torch's kernels are. The library is kept in the user's cache
(`$SUPERWEIGHTS_CACHE`), by its source, the compiler and the processor. `SUPERWEIGHTS_NATIVE=0` turns it off.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superweights.artefacts.cache import cache_folder
from superweights.quantization.tensor import Quantized

_SOURCE = Path(__file__).with_name("products.c")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC")
# Inputs of one output that are packed together, and rows up to which the product beats dequantizing and torch's own.
_TOGETHER, _FEW_ROWS = 64, 8
# The same for the bfloat16 product, where torch in float32 catches up sooner.
_FEW_ROWS_HALF = 4


@dataclass
class NativeInt4:
    """`codes` `[outputs, words]` of eight nibbles, `scales` and `offsets` `[outputs, groups]` float16 as stored.

    Products are taken in float32, whatever the dtype of the inputs: the only rounding is that of the codes.
    """

    codes: Tensor
    scales: Tensor
    offsets: Tensor
    group: int

    @classmethod
    def of(cls, quantized: Quantized) -> NativeInt4 | None:
        """From a matrix with float offsets in groups; None where groups or scales are not as the product takes them."""
        scheme, blocks = quantized.scheme, quantized.blocks
        outputs, inputs = quantized.shape
        group = scheme.blocks.size[0] if scheme.blocks.kind == "group" else inputs
        kinds = scheme.blocks.kind in ("group", "channel") and (group == 32 or group % _TOGETHER == 0)
        whole = kinds and inputs % group == 0
        if scheme.grid != "int4" or blocks.offsets is None or not whole or blocks.tensor_scale is not None:
            return None
        halves = [each.half() for each in (blocks.scales, blocks.offsets)]
        if not (torch.equal(halves[0].float(), blocks.scale()) and torch.equal(halves[1], blocks.offsets)):
            return None
        if library() is None:
            return None
        scales, offsets = (each.reshape(outputs, -1).contiguous() for each in halves)
        return cls(_words(quantized.codes.reshape(outputs, inputs)), scales, offsets, group)

    def takes(self, x: Tensor) -> bool:
        """Whether the product is the faster way."""
        return x.dtype in (torch.float32, torch.bfloat16, torch.float16) and len(x) <= _FEW_ROWS

    def multiply(self, x: Tensor) -> Tensor:
        """`x [rows, inputs]` times the transposed weights."""
        wide = x.float().contiguous()
        rows, inputs = wide.shape
        outputs = len(self.codes)
        y = torch.empty(rows, outputs)
        scratch = torch.empty(rows * (8 * self.codes.shape[1] + inputs // self.group))
        library().multiply_int4(  # type: ignore[union-attr]
            *(each.data_ptr() for each in (wide, scratch, self.codes, self.scales, self.offsets, y)),
            *(rows, inputs, outputs, self.group, torch.get_num_threads()),
        )
        return y if x.dtype == torch.float32 else y.to(x.dtype)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weights `[outputs, inputs]`."""
        outputs, inputs = len(self.codes), self.group * self.scales.shape[1]
        weight = torch.empty(outputs, inputs)
        library().dequantize_int4(  # type: ignore[union-attr]
            *(each.data_ptr() for each in (self.codes, self.scales, self.offsets, weight)),
            *(inputs, outputs, self.group, torch.get_num_threads()),
        )
        return weight if dtype == torch.float32 else weight.to(dtype)


def multiply_bfloat16(x: Tensor, weight: Tensor) -> Tensor | None:
    """float32 `x [rows, inputs]` times the transposed bfloat16 `weight`; None where torch is as fast or must do it."""
    rows, inputs = x.shape
    if x.dtype != torch.float32 or rows > _FEW_ROWS_HALF or inputs % 32 or library() is None:
        return None
    if weight.device.type != "cpu" or not weight.is_contiguous():
        return None
    x = x.contiguous()
    y, parted = torch.empty(rows, len(weight)), torch.empty_like(x)
    library().multiply_bfloat16(  # type: ignore[union-attr]
        *(each.data_ptr() for each in (x, parted, weight, y)),
        *(rows, inputs, len(weight), torch.get_num_threads()),
    )
    return y


@cache
def library() -> Any | None:
    """The compiled products, or None where they cannot be had here."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if os.environ.get("SUPERWEIGHTS_NATIVE") == "0" or compiler is None:
        return None
    try:
        loaded = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None
    pointer, whole = ctypes.c_void_p, ctypes.c_long
    loaded.multiply_int4.argtypes = [pointer] * 6 + [whole] * 4 + [ctypes.c_int]
    loaded.dequantize_int4.argtypes = [pointer] * 4 + [whole] * 3 + [ctypes.c_int]
    loaded.multiply_bfloat16.argtypes = [pointer] * 4 + [whole] * 3 + [ctypes.c_int]
    for name in ("multiply_int4", "dequantize_int4", "multiply_bfloat16"):
        getattr(loaded, name).restype = None
    return loaded


def _compiled(compiler: str) -> Path:
    """The shared library's path; compiled where it is not there yet, and moved into its place whole."""
    told = [_SOURCE.read_bytes(), repr(_FLAGS).encode(), compiler.encode(), _processor().encode()]
    name = hashlib.sha256(b"\0".join(told)).hexdigest()[:16]
    folder = cache_folder("native")
    to = folder / f"products-{name}.so"
    if not to.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / "products.so"
            command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            os.replace(made, to)
    return to


def _processor() -> str:
    """What the compiled code depends on: machine, and the abilities that Linux tells of its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {platform.processor()} {flags}"


def _words(codes: Tensor) -> Tensor:
    """Codes `[outputs, inputs]` as `products.c` reads them, int32 `[outputs, words]`; what is beyond them is 0."""
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[1] % _TOGETHER))
    outputs, inputs = codes.shape
    nibbles = codes.reshape(outputs, inputs // _TOGETHER, 8, 8).to(torch.int32)
    words = torch.zeros(outputs, inputs // _TOGETHER, 8, dtype=torch.int32)
    for place in range(8):
        words |= nibbles[:, :, place] << (4 * place)
    return words.reshape(outputs, -1)
