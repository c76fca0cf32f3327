"""A transformers model that is in memory already, as a checkpoint: the tensors that saving it would write."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from superweights.checkpoint.complaints import complaints
from superweights.checkpoint.header import DTYPES
from superweights.checkpoint.tensors import TensorInfo, Traffic
from superweights.errors import SuperweightsError

_SPELLED = {dtype: name for name, dtype in DTYPES.items()}
_SAVE = "save it with save_pretrained and give the folder."


def is_loaded(named: Any) -> bool:
    """Whether this is a transformers model; transformers is not imported to find out."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(named, transformers.PreTrainedModel)


class LoadedStore:
    """The tensors of a model in memory, under the names that `save_pretrained` gives them, tied ones once.

    The model itself is never written to: `read` gives a copy on the CPU, which is kept with its edits until `release`.
    Whatever is trained or edited in the model after it was opened is seen by the next `read`; fused experts, which
    saving takes apart, are copied when it is opened.
    """

    format = "memory"

    def __init__(self, model: Any):
        self.traffic = Traffic()
        self._held = tensors_to_save(model)
        self._read: dict[str, Tensor] = {}
        self.tensors: Mapping[str, TensorInfo] = {
            name: _info(name, held) for name, held in self._held.items()
        }

    def read(self, name: str) -> Tensor:
        if name not in self._read:
            self._read[name] = _copied(self._of(name)).contiguous()
        return self._read[name]

    def read_span(self, name: str, first: int, last: int) -> Tensor:
        held = self._read[name] if name in self._read else self._of(name)
        return _copied(held.reshape(-1)[first:last])

    def raw(self, name: str, first: int, last: int) -> bytes:
        """Of the model, whatever was written to what `read` gave out."""
        held = self._of(name)
        size = held.element_size()
        start = first // size
        part = _copied(held.reshape(-1)[start : -(-last // size)]).view(torch.uint8)
        return part[first - start * size : last - start * size].numpy().tobytes()

    def prefetch(self, names: Iterable[str]) -> None:
        """Nothing: they are here."""

    read_ahead = prefetch

    def release(self, names: Iterable[str]) -> None:
        for name in names:
            self._read.pop(name, None)

    def close(self) -> None:
        self._held, self._read = {}, {}

    def _of(self, name: str) -> Tensor:
        if name not in self._held:
            raise SuperweightsError("The checkpoint is closed.", hint="read inside its `with`.")
        return self._held[name]


class LoadedSettings:
    """The configuration of a model in memory, and the tokenizer that was given with it."""

    def __init__(self, model: Any, tokenizer: Any = None):
        self._model, self._tokenizer = model, tokenizer
        self.config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
        self.config["architectures"] = [type(model).__name__]

    def companion(self, file: str) -> dict[str, Any]:
        """How it generates, which is all that such a model has beside its configuration."""
        generation = getattr(self._model, "generation_config", None)
        if file != "generation_config.json" or generation is None:
            return {}
        return json.loads(generation.to_json_string())

    def model_config(self, trust_remote_code: bool) -> Any:
        """A copy: whoever builds another model from it changes a word or two."""
        return copy.deepcopy(self._model.config)

    def tokenizer(self, trust_remote_code: bool) -> Any:
        return self._tokenizer

    def processor(self, trust_remote_code: bool) -> None:
        return None


def tensors_to_save(model: Any) -> dict[str, Tensor]:
    """What `save_pretrained` would write of `model`, not copied. Raises for what cannot be told from memory."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    who = f"The loaded {type(model).__name__}"
    if getattr(model.config, "quantization_config", None) is not None:
        raise SuperweightsError(f"{who} is quantized.", hint="give the folder that it was loaded from.")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise SuperweightsError(f"{who} carries an adapter.", hint="merge or remove it first.")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise SuperweightsError(
            f"{who} is not wholly in memory.", hint="load it without offloading, or give its folder."
        )
    ignored = set(model._keys_to_ignore_on_save or ())
    held = {name: value for name, value in model.state_dict().items() if name not in ignored}
    with complaints(f"{who} cannot be taken apart as saving would", hint=_SAVE):
        held = remove_tied_weights_from_state_dict(held, model)
        held = revert_weight_conversion(model, held)
    strange = [name for name, value in held.items() if value.dtype not in _SPELLED]
    if strange:
        raise SuperweightsError(f"{who} holds {strange[0]} in {held[strange[0]].dtype}.", hint=_SAVE)
    return held


def _copied(held: Tensor) -> Tensor:
    return held.detach().to("cpu", copy=True)


def _info(name: str, held: Tensor) -> TensorInfo:
    return TensorInfo(name, tuple(held.shape), _SPELLED[held.dtype], held.nbytes, held.dtype)
