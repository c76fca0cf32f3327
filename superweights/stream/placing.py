"""A device map, as transformers and accelerate write it: which blocks stay in memory, and which wait on the disk.

Everything computes on one device. A block that is mapped to it stays there; one mapped to `disk`, or to `cpu` beside an
accelerator, is read from the checkpoint each time it runs, as every block of a streamed model is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from superweights.errors import SuperweightsError
from superweights.stream.device import available_memory
from superweights.subject.blocks import find_blocks

AUTO = "auto"
AWAY = ("cpu", "disk")
# The share of the free memory that blocks may take; the rest is for activations and one block that comes and goes.
_SHARE = 0.7

DeviceMap = str | Path | Mapping[str, str | int] | None


def staying_blocks(model: nn.Module, asked: DeviceMap, device: torch.device) -> set[str]:
    """The blocks of a model without weights that stay in the memory of `device`.

    `asked` is `auto` (as many as fit, from the first one on), a mapping of module paths to devices, or a JSON file of
    one; the longest path that fits a module counts. Raises `SuperweightsError` for a map that names no module, leaves
    one out, cuts a block, computes on two devices, or leaves on the disk what is outside of the blocks.
    """
    blocks = find_blocks(model)
    if asked == AUTO:
        return _fitting(model, blocks, device)
    held = _read(asked)
    _check_paths(model, held, blocks)
    placed = {path: _device_for(path, held) for path in blocks}
    for name, _ in model.named_parameters():
        inside = any(name.startswith(f"{path}.") for path in blocks)
        if not inside and not _is_on(_device_for(name, held), device):
            raise SuperweightsError(
                f"The device map leaves {name} on {_device_for(name, held)}, and only blocks can be left.",
                hint=f"map what is outside of {', '.join(list(blocks)[:2])}, ... to {device}.",
            )
    for path, name in placed.items():
        if not _is_on(name, device) and name not in AWAY:
            raise SuperweightsError(
                f"The device map puts {path} on {name}, and everything is computed on {device}.",
                hint="several devices work together with --tensor-parallel, under torchrun.",
            )
    return {path for path, name in placed.items() if _is_on(name, device)}


def _fitting(model: nn.Module, blocks: Mapping[str, nn.Module], device: torch.device) -> set[str]:
    def size(module: nn.Module) -> int:
        return sum(p.numel() * p.element_size() for p in module.parameters())

    inside = {path: size(block) for path, block in blocks.items()}
    room = _SHARE * available_memory(device) - (size(model) - sum(inside.values()))
    staying: set[str] = set()
    for path, taken in inside.items():
        room -= taken
        if room < 0:
            break
        staying.add(path)
    return staying


def _read(asked: DeviceMap) -> dict[str, str]:
    """The map as it was given, its devices as words."""
    if isinstance(asked, str | Path):
        try:
            asked = json.loads(Path(asked).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            raise SuperweightsError(
                f"{asked} is no device map: {why}.",
                hint='give auto, or a JSON file such as {"": "cpu", "model.layers.3": "disk"}.',
            ) from error
    good = isinstance(asked, Mapping) and asked and all(type(v) in (str, int) for v in asked.values())
    if not isinstance(asked, Mapping) or not good:
        raise SuperweightsError(
            "A device map gives each path of a module a device.",
            hint='for example {"": "cpu", "model.layers.3": "disk"}.',
        )
    accelerator = torch.accelerator.current_accelerator(check_available=True) or "cuda"
    return {
        str(path): f"{accelerator}:{name}" if isinstance(name, int) else name for path, name in asked.items()
    }


def _check_paths(model: nn.Module, held: Mapping[str, str], blocks: Mapping[str, nn.Module]) -> None:
    known = {name for name, _ in model.named_modules()} | {name for name, _ in model.named_parameters()}
    for path in held:
        if path not in known:
            raise SuperweightsError(
                f"The device map names {path}, which the model does not have.",
                hint=f"its blocks are {', '.join(list(blocks)[:2])}, ...; the empty path is the whole model.",
            )
        cut = next((block for block in blocks if path.startswith(f"{block}.")), None)
        if cut is not None and held[path] != _device_for(cut, held):
            raise SuperweightsError(
                f"The device map cuts the block {cut} at {path}.", hint="map whole blocks."
            )


def _device_for(path: str, held: Mapping[str, str]) -> str:
    """The device of the longest path of the map that holds `path`."""
    fitting = [each for each in held if each in ("", path) or path.startswith(f"{each}.")]
    if not fitting:
        raise SuperweightsError(
            f"The device map leaves out {path}.", hint='add "" for everything that is not named.'
        )
    return held[max(fitting, key=len)]


def _is_on(name: str, device: torch.device) -> bool:
    if name in AWAY:
        return name == device.type
    try:
        asked = torch.device(name)
    except RuntimeError as error:
        raise SuperweightsError(
            f"There is no device {name!r}.", hint="a device map knows cpu, disk, and cuda:0 and the like."
        ) from error
    return asked.type == device.type and (asked.index or 0) == (device.index or 0)
