"""A GGUF file as a checkpoint: transformers' names and values, dequantized tensor by tensor on demand.

The names and the small rearrangements (llama's interleaved heads, GPT-2's transposes, norms stored plus
one) are transformers' own tables, so a tensor read here is bit-equal to the parameter that
`from_pretrained(gguf_file=...)` loads. Values are float32 whatever the file holds, as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.quants import dequantize

from superweights.checkpoint.gguf_header import Block, read_gguf_header
from superweights.checkpoint.gguf_settings import GgufSettings
from superweights.checkpoint.header import damaged
from superweights.checkpoint.mapped import MappedFile
from superweights.checkpoint.settings import complaints
from superweights.checkpoint.tensors import TensorInfo, Traffic, count
from superweights.errors import SuperweightsError

_SAFETENSORS = "open the original safetensors checkpoint instead."


class GgufStore:
    """The tensors of one GGUF file under transformers' names."""

    format = "gguf"

    def __init__(self, path: Path):
        self.path, self.traffic = path, Traffic()
        self._file = MappedFile(path)
        try:
            self._header = read_gguf_header(self._file.view(), str(path))
        except SuperweightsError:
            self._file.close()
            raise
        self.settings = GgufSettings(path, self._header, self._file.view())

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        config = self.settings.model_config(False)
        with complaints(f"transformers cannot build the model of {self.path}", hint=_SAFETENSORS):
            model = _blank_model(config)
            found = _names_of(model, self._processor, set(self._header.blocks))
        _check_complete(model, found, str(self.path))
        self._stored = {name: stored for stored, name in found.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return {name: self._info(name, shapes[name]) for name in shapes if name in self._stored}

    def _info(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        block = self._header.blocks[self._stored[name]]
        if count(shape) != count(block.shape):
            raise damaged(
                str(self.path), f"{name!r} should have the shape {list(shape)}, not {list(block.shape)}"
            )
        return TensorInfo(name, shape, block.kind.name, block.stop - block.start, torch.float32)

    @cached_property
    def _processor(self) -> Any:
        """transformers' own rearrangement of this architecture's tensors."""
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

        kind = TENSOR_PROCESSORS.get(self._header.architecture, TensorProcessor)
        return kind(config=self.settings.config)

    def _block(self, name: str) -> Block:
        return self._header.blocks[self._stored[name]]

    def read(self, name: str) -> torch.Tensor:
        info, block = self.tensors[name], self._block(name)
        values = self._dequantized(name, block, 0, count(block.shape[:-1]))
        values = self._rearranged(name, values.reshape(block.shape))
        return torch.from_numpy(np.ascontiguousarray(values)).reshape(info.shape)

    def read_span(self, name: str, first: int, last: int) -> torch.Tensor:
        return self.read(name).reshape(-1)[first:last]

    def _dequantized(self, name: str, block: Block, first: int, last: int) -> np.ndarray:
        """Rows `first` to `last` of the stored tensor, where a row is its fastest dimension."""
        rows = count(block.shape[:-1])
        width = (block.stop - block.start) // rows if rows else 0
        raw = self._file.tensor(torch.uint8, (last - first, width), block.start + first * width).numpy()
        with complaints(f"{name!r} in {self.path} is stored as {block.kind.name}, which cannot be read"):
            return dequantize(raw, block.kind)

    def _rearranged(self, name: str, values: np.ndarray) -> np.ndarray:
        with complaints(f"{name!r} in {self.path} does not fit its model"):
            result = self._processor.process(
                weights=values,
                name=self._stored[name],
                tensor_key_mapping={},
                parsed_parameters={"tensors": {}},
            )
        return result.weights

    def raw(self, name: str, first: int, last: int) -> bytes:
        start = self._block(name).start
        return self._file.from_disk(start + first, start + last)

    def prefetch(self, names: Iterable[str]) -> None:
        for name in names:
            self._file.will_need(self._block(name).start, self._block(name).stop)

    def release(self, names: Iterable[str]) -> None:
        for name in names:
            self._file.drop(self._block(name).start, self._block(name).stop)

    def close(self) -> None:
        self._file.close()


def _blank_model(config: Any) -> Any:
    """The model without memory for its weights: it knows every parameter's name and shape."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


class _Outside:
    """A module as transformers' name finder sees it, without its inside: it would walk every submodule."""

    def __init__(self, module: Any, config: Any):
        self.config, self._names = config, list(module.state_dict())

    def state_dict(self) -> list[str]:
        return self._names

    def named_children(self) -> tuple[()]:
        return ()


def _names_of(model: Any, processor: Any, stored: set[str]) -> dict[str, str]:
    """The file's tensor name to transformers' parameter name.

    transformers looks at the model and then at every module inside it, because some files name their
    tensors from the model without its head. Each look costs tens of milliseconds, so we stop at the first
    module that leaves no parameter without a name.
    """
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    wanted = set(dict(model.named_parameters()))
    found: dict[str, str] = {}
    for prefix, module in [("", model), *((f"{name}.", child) for name, child in model.named_children())]:
        names = get_gguf_hf_weights_map(_Outside(module, model.config), processor, qual_name=prefix)
        found = {**{key: value for key, value in names.items() if key in stored}, **found}
        if wanted <= set(found.values()):
            break
    return found


def _check_complete(model: Any, found: Mapping[str, str], where: str) -> None:
    """Raise unless every parameter has exactly one tensor: fused experts have two, unknown names none."""
    names = list(found.values())
    several = next((name for name in names if names.count(name) > 1), None)
    if several is not None:
        raise SuperweightsError(
            f"{where} stores {several!r} in several pieces, which cannot be read one by one.",
            hint=_SAFETENSORS,
        )
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    missing = [name for name, _ in model.named_parameters() if name not in set(names) and name not in tied]
    if missing:
        raise SuperweightsError(
            f"{where} has no tensor for {missing[0]!r} ({len(missing)} parameters in all).", hint=_SAFETENSORS
        )
