"""A packed checkpoint written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from superweights.checkpoint import Checkpoint
from superweights.formats.dense import PLAN
from superweights.formats.modules import modules_of
from superweights.formats.packed.config import INNER, MODEL_TYPE, STEM, WEIGHTS
from superweights.formats.packed.packing import pack
from superweights.formats.packed.stacking import stacked_pieces
from superweights.formats.writing import Written, rounded, write_folder, write_settings
from superweights.progress import Progress
from superweights.quantization.plan import Plan
from superweights.quantization.tensor import Quantized

_README = """# A model packed by superweights

```python
import superweights  # pip install superweights
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".", dtype="bfloat16")
```

Without `import superweights` transformers does not know this model type and says so. For programs that read no
plug-ins (vLLM, plain transformers), write the checkpoint with `superweights quantize --format compressed-tensors`.
"""


def write_packed(
    checkpoint: Checkpoint,
    plan: Plan,
    to: Path,
    *,
    progress: Progress | None = None,
    **writing: int,
) -> Written:
    """The folder `to`: the checkpoint with every tensor of `plan` packed to the bit, its kept weights beside it.

    Raises `SuperweightsError` where a planned tensor is neither the weight of one Linear, Conv1D or Embedding nor a
    part of stacked experts.
    """
    plan.check(checkpoint)
    stacked = stacked_pieces(checkpoint, tuple(plan.schemes))
    modules = modules_of(checkpoint, tuple(name for name in plan.schemes if name not in stacked))
    places = modules | {name: place.module for name, place in stacked.items()}

    def encode(name: str, quantized: Quantized) -> Mapping[str, torch.Tensor]:
        return {f"{places[name]}.{part}": tensor for part, tensor in pack(quantized).items()}

    def settings(folder: Path) -> None:
        layers = _layers(checkpoint, plan, places, folder)
        experts: dict[str, list[dict[str, Any]]] = {}
        for place in stacked.values():  # in the order of their numbers
            experts.setdefault(place.parameter, []).append(layers.pop(place.module) | asdict(place.piece))
        write_settings(
            checkpoint, folder, lambda config: _mark(config, plan, layers, experts, folder), _README
        )
        (folder / PLAN).write_text(plan.to_json(), encoding="utf-8")

    form = rounded("packed", STEM, plan, encode)
    return write_folder(checkpoint, Path(to), form, settings, progress=progress, **writing)


def _layers(
    checkpoint: Checkpoint, plan: Plan, modules: Mapping[str, str], folder: Path
) -> dict[str, dict[str, Any]]:
    """What config.json says of each packed layer, read off the files just written."""
    schemes = list(dict.fromkeys(plan.schemes.values()))
    layers = {}
    for name, module in modules.items():
        info = checkpoint.tensors[name]
        layers[module] = {
            "scheme": schemes.index(plan.schemes[name]),
            "shape": list(info.shape),
            "out_axis": plan.out_axes.get(name, 0),
            "dtype": _spelling(info.torch_dtype),
            "parts": {},
        }
    for path in sorted(folder.glob(f"{STEM}*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no dictionary
                module, _, part = name.rpartition(".")
                if module in layers and part != "bias":
                    tensor = file.get_tensor(name)
                    layers[module]["parts"][part] = [_spelling(tensor.dtype), list(tensor.shape)]
    return layers


def _mark(
    config: dict[str, Any],
    plan: Plan,
    layers: dict[str, dict[str, Any]],
    experts: dict[str, list[dict[str, Any]]],
    folder: Path,
) -> None:
    """Make the model's config that of a packed checkpoint."""
    config[INNER], config["model_type"] = config["model_type"], MODEL_TYPE
    index = f"{STEM}.safetensors.index.json"
    config[WEIGHTS] = index if (folder / index).exists() else f"{STEM}.safetensors"
    config["quantization_config"] = {
        "quant_method": "superweights",
        "version": 2 if experts else 1,
        "schemes": [json.loads(scheme.to_json()) for scheme in dict.fromkeys(plan.schemes.values())],
        "layers": layers,
        **({"experts": experts} if experts else {}),
    }


def _spelling(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
