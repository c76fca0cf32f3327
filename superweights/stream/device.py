"""Where to compute, in which type, and how much memory there is."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError

_FLOATS = {"BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the accelerator where there is one, else the CPU."""
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:  # its message lists forty devices
        raise SuperweightsError(
            f"There is no device {name!r}.", hint="use auto, cpu, cuda, cuda:1 or mps."
        ) from error
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise SuperweightsError(
            f"The device {name!r} cannot be used: {str(error).splitlines()[0]}",
            hint="use auto, cpu, cuda, cuda:1 or mps.",
        ) from error
    return device


def choose_dtype(
    checkpoint: Checkpoint, dtype: torch.dtype | str | None, device: torch.device | None = None
) -> torch.dtype:
    """The type to compute in on `device` (None: the CPU): as asked, else the stored one, with two exceptions.

    Stored float16 is computed in float32, because super activations reach 7.8e5 (Gemma 3 12B, arXiv 2503.22329) and
    float16 ends at 65,504. Stored bfloat16 is computed in float32 where the processor has no arithmetic for it: there
    a product takes 4.5 times as long as in float32 (measured with AVX2), for half of the memory. Mixed checkpoints take
    their most common type.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in (None, "auto"):
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise SuperweightsError(
                f"{dtype!r} is not a floating-point type.", hint="use auto, float32, bfloat16 or float16."
            )
        return found
    held: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        held[info.dtype] = held.get(info.dtype, 0) + info.nbytes
    most = max(held, key=lambda kind: held[kind]) if held else "F32"
    stored = _FLOATS.get(most, torch.float32)
    slow = stored is torch.bfloat16 and (device is None or device.type == "cpu") and not has_bfloat16()
    return torch.float32 if slow else stored


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself, as far as torch's products make use of it."""
    return (
        bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False
    )


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            free = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return free["MemAvailable"]
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library would keep it.

    glibc serves blocks of up to 32 MB from its heap once such blocks have been freed, and a heap full of
    holes shrinks only when asked: weights and logits that come and go left up to 0.4 GB behind on a model of
    135 million parameters. Takes 0.3 ms; elsewhere there is nothing to do.
    """
    if _trim is not None:
        _trim(0)


def give_back_pages(tensor: torch.Tensor) -> None:
    """Let the system take the pages under `tensor` back, where they only mirror a file that is mapped.

    For a tensor that nobody will read again, inside a mapping that must stay. Nothing is lost: Linux drops pages that
    a file holds, and would read them again.
    """
    if _advise is None or tensor.device.type != "cpu":
        return
    page = os.sysconf("SC_PAGE_SIZE")
    start = -(-tensor.data_ptr() // page) * page
    length = (tensor.data_ptr() + tensor.nbytes) // page * page - start
    if length > 0:
        _advise(ctypes.c_void_p(start), ctypes.c_size_t(length), _PAGEOUT)


_PAGEOUT = 21  # MADV_PAGEOUT, Linux 5.4; an older kernel answers EINVAL and does nothing
_advise = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
