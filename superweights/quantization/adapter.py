"""A side-car as a standard LoRA adapter: k single weights are an update of rank at most k.

Source of the format: PEFT's LoRA, `W + (alpha / r) B A`. Row i of A picks input neuron k_i, column i of B feeds
output channel j_i with the weight's correction. Written in float32, with alpha = r so that nothing is scaled.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from superweights.artefacts.folder import new_folder
from superweights.artefacts.manifest import Work, digest_of
from superweights.artefacts.place import check_new
from superweights.errors import SuperweightsError
from superweights.quantization.attach import Correction, corrections, inputs_of
from superweights.quantization.sidecar import SideCar


def write_adapter(
    model: nn.Module, side_car: SideCar, to: Path, base: str | None = None
) -> tuple[Correction, ...]:
    """The corrections that were written to the folder `to` as a PEFT LoRA adapter over `model`.

    `model` is the quantized base: the adapter holds what *it* lacks, and fits no other quantization. `base` is
    the name that PEFT shall find in the configuration. All layers get the rank of the largest; unused rows are
    0. Raises `SuperweightsError` if `to` holds anything, or as `corrections` does.
    """
    to = Path(to)
    check_new(to, "folder")
    found = corrections(model, side_car)
    if not found:
        raise SuperweightsError("The side-car is empty.", hint="peel at least one weight.")
    if not any(each.delta for each in found):
        raise SuperweightsError(
            "The base has every weight of the side-car exactly.", hint="it needs no adapter."
        )
    modules = {c.module: [d for d in found if d.module == c.module] for c in found}
    rank = max(map(len, modules.values()))
    tensors = {}
    for name, together in modules.items():
        a, b = _factors(model.get_submodule(name), name, together, rank)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    config = json.dumps(_config(model, modules, rank, base), indent=2) + "\n"
    work = Work("adapter", side_car.fingerprint or "", digest_of(config, *map(repr, found)))
    with new_folder(to, work) as draft:
        save_file(tensors, draft.path / "adapter_model.safetensors", metadata={"format": "pt"})
        (draft.path / "adapter_config.json").write_text(config, encoding="utf-8")
    return found


def _factors(
    module: nn.Module, name: str, together: list[Correction], rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A `[rank, inputs]` and B `[outputs, rank]` of one layer."""
    inputs = inputs_of(module, name)
    outputs = getattr(module, "out_features", None) or getattr(module, "nf", None)
    assert isinstance(outputs, int), "corrections() has measured this layer"
    a, b = torch.zeros(rank, inputs), torch.zeros(outputs, rank)
    for row, correction in enumerate(together):
        a[row, correction.in_neuron] = 1
        b[correction.out_channel, row] = correction.delta
    return a, b


def _config(model: nn.Module, modules: dict[str, list[Correction]], rank: int, base: str | None) -> dict:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(modules),
        "fan_in_fan_out": any(hasattr(model.get_submodule(name), "nf") for name in modules),
        "inference_mode": True,
    }
