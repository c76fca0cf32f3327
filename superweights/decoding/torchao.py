"""torchao: tensor subclasses, put together from their parts and decoded by the package itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from superweights.checkpoint import Checkpoint
from superweights.decoding.decoded import NEWER, Decoded, Format, Said
from superweights.errors import SuperweightsError


def torchao(checkpoint: Checkpoint, said: Said) -> Format:
    """The format of a checkpoint that says `quant_method: torchao`, as transformers saves it in safetensors."""
    said.known("torchao")
    metadata = _metadata(checkpoint)
    parts = {}
    for name, told in metadata.items():
        kind = json.loads(told)
        if kind.get("_type") != "Tensor":
            module, _, leaf = name.rpartition(".")
            parts[name] = tuple(f"{module}._{leaf}_{part}" for part in kind.get("_tensor_data_names", ()))

    def decode(name: str) -> Decoded:
        try:
            from torchao.prototype.safetensors.safetensors_support import (  # type: ignore[import-not-found]
                unflatten_tensor_state_dict,
            )
        except ImportError as error:
            raise SuperweightsError(
                f"{checkpoint.name} is quantized by torchao, which decodes it.",
                hint="pip install 'superweights[quantizers]'.",
            ) from error
        held = {part: checkpoint.read_stored(part) for part in parts[name]}
        made, left = unflatten_tensor_state_dict(
            held, {name: metadata[name], "tensor_names": json.dumps([name])}
        )
        if left or name not in made:
            raise SuperweightsError(
                f"{name} in {checkpoint.name} has parts that torchao does not know.", hint=NEWER
            )
        return Decoded(made[name].dequantize().to(torch.float32))

    return Format("torchao", parts, decode)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What the safetensors headers say of each tensor, all files together."""
    from safetensors import safe_open

    folder = checkpoint.path
    files = sorted(Path(folder).glob("*.safetensors")) if folder is not None and folder.is_dir() else []
    found: dict[str, str] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            told = opened.metadata() or {}
        found |= {
            name: text
            for name, text in told.items()
            if name not in ("tensor_names", "format") and "{" in text
        }
    if not found:
        raise SuperweightsError(
            f"The safetensors files of {checkpoint.name} do not say how torchao stored their tensors.",
            hint="download the folder whole; weights pickled by torchao cannot be read.",
        )
    return found
