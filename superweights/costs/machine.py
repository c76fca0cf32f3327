"""How fast a machine multiplies and brings weights in, measured on the model's own shapes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from superweights.costs.shape import Shape
from superweights.errors import SuperweightsError
from superweights.stream.device import choose_device, has_bfloat16

# Rows of the product that is timed, how long it is timed, and how many numbers are brought in for a measurement.
_ROWS, _SECONDS, _NUMBERS = 1024, 0.3, 1 << 22


@dataclass(frozen=True)
class Machine:
    """What the time of a run is made of."""

    name: str
    """`cpu`, or the accelerator; how many of them."""
    devices: int
    """How many share the weights and the multiplications."""
    computed_bytes: int
    """Bytes of a number as it is computed with."""
    multiplications: float
    """A second, on one device."""
    touching: float
    """Numbers a second that pass through an elementwise function, on one device."""
    reading: float
    """Bytes of stored weights that one device is given a second, ready to compute with."""
    measured: bool
    """Whether the rates were measured here, or given."""
    program_bytes: int = 0
    """What the program itself takes where that is the same memory, on a CPU."""


def measured(shape: Shape, device: str = "cpu", devices: int = 1) -> Machine:
    """The rates of this machine, on a matrix of the model's own size; takes about a second.

    `reading` is the rate at which numbers in memory become numbers of the computed type: a disk or link that is slower
    than that is not known to it. Raises `SuperweightsError` for a device that is not there.
    """
    program = program_bytes()
    try:
        place = choose_device("auto" if device == "gpu" else device)
    except SuperweightsError:
        place = None
    if place is None or (device == "gpu" and place.type == "cpu"):
        raise SuperweightsError(
            f"There is no {device} here to measure.",
            hint="give its rates: --multiplications 4e14 --reading 5e10, for instance.",
        )
    stored = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}.get(shape.stored_bytes, torch.float32)
    slow = stored is torch.bfloat16 and place.type == "cpu" and not has_bfloat16()
    dtype = torch.float32 if slow else stored
    x = torch.randn(_ROWS, shape.width, device=place).to(dtype)
    matrix = torch.randn(shape.inner, shape.width, device=place).to(dtype)
    activations = torch.randn(_ROWS, shape.inner, device=place).to(dtype)
    numbers = torch.randn(_NUMBERS).to(stored)
    product = _ROWS * shape.inner * shape.width
    return Machine(
        name=place.type,
        devices=devices,
        computed_bytes=dtype.itemsize,
        multiplications=product / _seconds(lambda: functional.linear(x, matrix)),
        touching=activations.numel() / _seconds(lambda: functional.silu(activations)),
        reading=numbers.nbytes / _seconds(lambda: numbers.clone().to(place, dtype)),
        measured=True,
        program_bytes=program if place.type == "cpu" else 0,
    )


def _seconds(work: Callable[[], Tensor]) -> float:
    """The time of `work`, the median of what fits into a third of a second; CPU seconds where it runs there."""
    cpu = work().device.type == "cpu"
    clock = time.process_time if cpu else time.perf_counter
    found, until = [], time.perf_counter() + _SECONDS
    while len(found) < 3 or time.perf_counter() < until:
        start = clock()
        if not cpu:
            work().sum().item()  # waits for the device
        else:
            work()
        found.append(clock() - start)
    threads = torch.get_num_threads() if cpu else 1
    return max(sorted(found)[len(found) // 2] / threads, 1e-9)


def program_bytes() -> int:
    """What this very program takes with all that it has imported: a run begins with as much."""
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # elsewhere: the most that it ever took
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return resident * resource.getpagesize()
