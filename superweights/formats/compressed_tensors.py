"""compressed-tensors, as transformers and vLLM read it by themselves: integers packed, precision module by module.

The format has no place for a single weight beside a packed matrix, so a matrix with a weight to keep stays whole as it
is stored (its module stands in `ignore`). The alternative, a LoRA adapter that puts the weight back, is
`superweights.quantization.adapter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.dense import PLAN
from superweights.formats.modules import loadable_packed, modules_of, other_linears
from superweights.formats.writing import Written, rounded, write_folder, write_settings
from superweights.progress import Progress
from superweights.quantization.grids import Integers, grid_of
from superweights.quantization.plan import Plan
from superweights.quantization.scheme import Scheme
from superweights.quantization.tensor import Quantized

_README = """# Rounded by superweights, stored as compressed-tensors

```python
from transformers import AutoModelForCausalLM  # pip install transformers compressed-tensors

model = AutoModelForCausalLM.from_pretrained(".")
```

Do not pass `CompressedTensorsConfig(dequantize=True)`: transformers 5.23 decodes all modules with one scheme then,
and silently gives wrong weights where a checkpoint has several. `super_weights_plan.json` says which tensor was rounded
how; modules that hold super weights are not rounded, and stand in `ignore`.
"""


def write_compressed_tensors(
    checkpoint: Checkpoint, plan: Plan, to: Path, *, progress: Progress | None = None, **writing: int
) -> Written:
    """The folder `to`: the checkpoint as pack-quantized compressed-tensors; matrices with kept weights as they are, and
    those that transformers cannot load in this form (`loadable_packed`).

    Raises `SuperweightsError` for what the format cannot say, or its readers cannot read: zero points and
    codebooks, blocks other than channels and whole groups, Conv1D and stacked experts, scales that the
    checkpoint's dtype cannot hold.
    Source: the package's own documentation and reader, compressed-tensors 0.20.
    """
    plan.check(checkpoint)
    packed = plan.without({address.tensor for address in plan.keep})
    if not packed.schemes:
        raise SuperweightsError(
            "Every planned matrix holds a weight to keep, so nothing would be rounded.",
            hint="compressed-tensors keeps such a matrix whole; use --format packed.",
        )
    for name, scheme in packed.schemes.items():
        _check(name, scheme, tuple(checkpoint.tensors[name].shape), plan.out_axes.get(name, 0))
    modules = modules_of(checkpoint, tuple(packed.schemes))
    loadable = loadable_packed(checkpoint, modules.values())
    if not loadable:
        raise SuperweightsError(
            f"transformers cannot load {checkpoint.name} with packed weights: its own initialisation asks for them.",
            hint="write --format packed, dense or gguf.",
        )
    modules = {name: module for name, module in modules.items() if module in loadable}
    packed = packed.without(packed.schemes.keys() - modules.keys())

    def encode(name: str, quantized: Quantized) -> Mapping[str, torch.Tensor]:
        return {f"{modules[name]}.{part}": tensor for part, tensor in _parts(name, quantized).items()}

    def settings(folder: Path) -> None:
        said = _quantization_config(packed, modules, other_linears(checkpoint, set(modules.values())))
        write_settings(checkpoint, folder, lambda config: config.update(quantization_config=said), _README)
        (folder / PLAN).write_text(packed.to_json(), encoding="utf-8")

    form = rounded("compressed-tensors", "model", packed, encode)
    return write_folder(checkpoint, Path(to), form, settings, progress=progress, **writing)


def _check(name: str, scheme: Scheme, shape: tuple[int, ...], out_axis: int) -> None:
    """Raise where the format has no word for this scheme on this matrix."""
    kind, size = scheme.blocks.kind, scheme.blocks.size
    integers = isinstance(grid_of(scheme), Integers) and not scheme.paper_compat
    wrong = {
        f"the grid {scheme.grid}": not integers,
        "a float zero point": integers and scheme.zero_point == "float",
        # The format has them; but transformers 5.23 with compressed-tensors 0.20 makes room for unpacked ones and
        # refuses the checkpoint ("size mismatch"), so what is written could not be read back.
        "integer zero points that transformers reads": integers and scheme.zero_point == "integer",
        f"blocks of kind {kind}": kind not in ("channel", "group"),
        f"groups of {size} in {shape[-1]} inputs": kind == "group" and shape[-1] % size[0] != 0,
        "a transposed matrix": out_axis != 0 or len(shape) != 2,
    }
    for what, is_so in wrong.items():
        if is_so:
            raise SuperweightsError(
                f"{name}: compressed-tensors cannot store {what}.",
                hint="use a symmetric integer grid (--zero-point none), by channel or in groups that divide the "
                "inputs; or --format packed.",
            )


def _parts(name: str, quantized: Quantized) -> dict[str, torch.Tensor]:
    """The stored tensors of one module, its codes packed by the package's own function."""
    try:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    except ImportError as error:
        raise SuperweightsError(
            "Writing compressed-tensors needs the package of that name.",
            hint="pip install 'superweights[formats]'.",
        ) from error
    scheme, (outputs, inputs) = quantized.scheme, quantized.shape
    codes = quantized.codes.reshape(outputs, inputs)
    scales = quantized.scales.reshape(outputs, -1)
    if not torch.equal(scales.to(quantized.dtype).float(), scales.float()):
        raise SuperweightsError(
            f"{name}: {scheme.scale_dtype} scales do not fit into {str(quantized.dtype)[6:]}, in which this "
            "format stores them.",
            hint=f"use scales of that dtype: Scheme(..., scale_dtype={str(quantized.dtype)[6:]!r}).",
        )
    return {
        "weight_packed": pack_to_int32(codes, scheme.bits),
        "weight_scale": scales.to(quantized.dtype),
        "weight_shape": torch.tensor([outputs, inputs]),
    }


def _quantization_config(plan: Plan, modules: Mapping[str, str], ignored: list[str]) -> dict[str, Any]:
    """What config.json says: a group for each scheme, by the names of its modules."""
    groups: dict[str, Any] = {}
    schemes = list(dict.fromkeys(plan.schemes.values()))
    for number, scheme in enumerate(schemes):
        named = [modules[name] for name, its in plan.schemes.items() if its == scheme]
        group = scheme.blocks.kind == "group"
        groups[f"group_{number}"] = {
            "targets": ["Linear"] if len(schemes) == 1 else named,
            "weights": {
                "num_bits": scheme.bits,
                "type": "int",
                "symmetric": True,
                "strategy": "group" if group else "channel",
                "group_size": scheme.blocks.size[0] if group else None,
            },
            "input_activations": None,
            "output_activations": None,
            "format": "pack-quantized",
        }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignored,
    }
