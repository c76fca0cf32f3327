"""`superweights.estimate`: what a run would take, from the config alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from superweights.costs import Estimate, Machine, measured, price, shape_of
from superweights.costs.machine import program_bytes
from superweights.errors import SuperweightsError

__all__ = ["Estimate", "estimate"]


def estimate(
    model: str | Path,
    command: str = "find",
    *,
    on: str = "cpu",
    multiplications: float | None = None,
    reading: float | None = None,
    windows: int | None = None,
    window: int | None = None,
) -> Estimate:
    """What `command` (score, ablate, find, find --quick) would read, multiply, hold and take for `model`.

    `model` is a folder with a config.json, that file, or any name of a checkpoint; no weight is read. `on` is `cpu`,
    `gpu` or a number of accelerators that share the model. Rates are measured here in about a second, on a matrix of
    the model's size; `multiplications` and `reading`, a second and device, replace them, for a machine that is
    elsewhere (what is done number by number is then not counted).
    `windows` of `window` tokens replace the command's own (of `score` and `ablate`).

    >>> estimate("org/llama-70b", on="8", multiplications=4e14, reading=5e10).seconds    # doctest: +SKIP
    """
    shape = shape_of(model)
    device, devices = _where(on)
    if multiplications is not None and reading is not None:
        computed = 4 if device == "cpu" else shape.stored_bytes
        machine = Machine(
            device,
            devices,
            computed,
            multiplications,
            math.inf,
            reading,
            False,
            program_bytes() if device == "cpu" else 0,
        )
    else:
        machine = measured(shape, device, devices)
        machine = replace(
            machine,
            multiplications=multiplications or machine.multiplications,
            reading=reading or machine.reading,
        )
    found = price(shape, machine, command)
    if windows is None and window is None:
        return found
    if found.work.searches:
        raise SuperweightsError(
            f"{command} chooses its windows itself.", hint="leave --windows and --window out, or price score."
        )
    count, held = windows or found.work.windows, found.work
    edited = count if held.edited else 0
    work = replace(held, windows=count, edited=edited, at_once=count, tokens=window or held.tokens)
    return price(shape, machine, command, work)


def _where(on: str) -> tuple[str, int]:
    """The kind of device, and how many."""
    if on in ("cpu", "gpu"):
        return on, 1
    if on.isdigit() and int(on) > 0:
        return "gpu", int(on)
    raise SuperweightsError(f"There is no machine {on!r}.", hint="--on cpu, --on gpu or a number of GPUs.")
