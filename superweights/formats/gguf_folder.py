"""A transformers folder as the source of a GGUF file, where llama.cpp calls its architecture `llama`.

Every name is asked of its owner: those of tensors and fields of the gguf package, the order of the rows of queries and
keys of transformers' own reader of GGUF files, the stretching of rotary angles of transformers, the tokens of the
tokenizer, and the name of its pre-tokenizer of llama.cpp.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from superweights.checkpoint import Checkpoint
from superweights.checkpoint.complaints import complaints
from superweights.errors import SuperweightsError
from superweights.formats.gguf_pre import pre_tokenizer
from superweights.formats.gguf_source import Piece
from superweights.formats.gguf_vocabulary import CONVERT, vocabulary_of

# transformers' architectures whose files llama.cpp calls `llama`, by what they compute.
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
_KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Folder:
    """A folder of that architecture, with its tokenizer. Raises `SuperweightsError` for any other."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint, self._config = checkpoint, _config_of(checkpoint)
        try:
            from gguf import MODEL_ARCH, MODEL_ARCH_NAMES
        except ImportError as error:
            raise SuperweightsError(
                "GGUF files are written by the gguf package.", hint="pip install 'superweights[gguf]'."
            ) from error
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

        self.architecture: str = MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA]
        self._processor = TENSOR_PROCESSORS[self.architecture](config=self._config.to_dict())
        self._names = _names_of(checkpoint, self._config)
        self.pieces = [self._piece(tensor, name) for tensor, name in self._names.items()]
        factors = _rotary_factors(self._config)
        if factors is not None:
            self.pieces.append(_vector("rope_freqs.weight", factors))
        tokenizer = checkpoint.tokenizer()
        self._vocabulary = vocabulary_of(tokenizer, self._config.vocab_size, checkpoint.name)
        self._pre = pre_tokenizer(self._vocabulary, tokenizer, checkpoint.name)

    def add_metadata(self, writer: Any) -> None:
        """What the configuration and the tokenizer say."""
        config = self._config
        # A name that is an architecture's (`mistral`) would be taken for it by transformers' reader.
        writer.add_name(f"{self._checkpoint.name.rstrip('/').rpartition('/')[2]}, quantized")
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        width = _head_width(config)
        for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
            add(width)
        writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        self._vocabulary.add_to(writer, self._pre)

    def row_order(self, tensor: str) -> np.ndarray:
        """Which row of the file each row of the tensor is: transformers' reader is given their numbers."""
        numbers = np.arange(self._checkpoint.tensors[tensor].shape[0])
        return self._processor.process(numbers.reshape(-1, 1), self._names[tensor]).weights[:, 0]

    def close(self) -> None:
        """The checkpoint is whoever's opened it."""

    def _piece(self, tensor: str, name: str) -> Piece:
        from gguf import GGMLQuantizationType

        info = self._checkpoint.tensors[tensor]
        shape = tuple(info.shape)
        matrix = len(shape) > 1
        # llama.cpp multiplies by vectors in float32 alone.
        kind = _KINDS.get(info.torch_dtype) if matrix or info.torch_dtype not in _KINDS else "F32"
        if kind is None:
            raise SuperweightsError(
                f"{tensor} in {self._checkpoint.name} is stored as {info.dtype}, for which GGUF has no type here.",
                hint=CONVERT,
            )
        held_as = np.dtype(np.float32 if kind == "F32" else np.float16)
        count = int(np.prod(shape))
        stored = partial(self._stored, tensor, kind)
        size = count * held_as.itemsize
        weights = count if matrix else 0
        return Piece(name, tensor, shape, held_as, GGMLQuantizationType[kind], size, weights, stored)

    def _stored(self, tensor: str, kind: str) -> np.ndarray:
        """The tensor's numbers in the order of the file; two bytes each are two bytes, whatever they mean."""
        weight = self._checkpoint.read(tensor)
        held = weight.float() if kind == "F32" else weight.view(torch.int16)
        values = held.numpy()
        stored = np.empty_like(values)
        stored[self.row_order(tensor)] = values
        self._checkpoint.release([tensor])
        return stored


def _config_of(checkpoint: Checkpoint) -> Any:
    """The configuration. Raises for an architecture that is not llama.cpp's `llama`, or not all of it."""
    told = checkpoint.config.get("architectures")
    named = str(told[0]) if isinstance(told, list) and len(told) == 1 else "of no named architecture"
    if named not in ARCHITECTURES:
        raise SuperweightsError(
            f"{checkpoint.name} is {named}, and a GGUF file is made only of {' and '.join(ARCHITECTURES)}.",
            hint=CONVERT,
        )
    config = checkpoint.model_config()
    window = getattr(config, "sliding_window", None)
    kind = config.rope_parameters.get("rope_type", "default")
    lacks = {
        f"a sliding window of {window}": window is not None and window < config.max_position_embeddings,
        f"the activation {config.hidden_act}": config.hidden_act != "silu",
        "biases": getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False),
        f"rotary angles of the type {kind}": kind not in ("default", "llama3"),
        "rotary angles in a part of each head": config.rope_parameters.get("partial_rotary_factor", 1) != 1,
    }
    for lack, true in lacks.items():
        if true:
            raise SuperweightsError(
                f"{checkpoint.name} is {named} with {lack}, of which no GGUF file is made here.", hint=CONVERT
            )
    return config


def _head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _names_of(checkpoint: Checkpoint, config: Any) -> dict[str, str]:
    """Every parameter of the model to its name in the file. Raises where the checkpoint or gguf's table lacks one."""
    from gguf import MODEL_ARCH, get_tensor_name_map
    from transformers import AutoModelForCausalLM

    with complaints(f"transformers cannot build the model of {checkpoint.name}"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    table = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    found = {}
    for tensor, parameter in model.named_parameters():  # tied ones once, under the name of the first
        name = table.get_name(tensor, try_suffixes=(".weight",))
        if name is None:
            raise SuperweightsError(
                f"The gguf package knows no name for {tensor} of {checkpoint.name} in a file of llama.cpp's.",
                hint="if its tables were asked for other architectures in this process, start a new one; else "
                f"{CONVERT}",
            )
        info = checkpoint.tensors.get(tensor)
        if info is None or tuple(info.shape) != tuple(parameter.shape):
            held = "no tensor" if info is None else f"a tensor of the shape {list(info.shape)}"
            raise SuperweightsError(
                f"{checkpoint.name} has {held} for {tensor}, where its config.json asks for {list(parameter.shape)}.",
                hint="download the checkpoint again.",
            )
        found[tensor] = name
    return found


def _rotary_factors(config: Any) -> np.ndarray | None:
    """By how much each rotary angle is slower than without stretching, which llama.cpp divides by; None for nothing."""
    kind = config.rope_parameters.get("rope_type", "default")
    if kind == "default":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    width = _head_width(config)
    stretched, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    places = torch.arange(0, width, 2, dtype=torch.int64).float() / width
    return ((1.0 / config.rope_parameters["rope_theta"] ** places) / stretched).numpy()


def _vector(name: str, values: np.ndarray) -> Piece:
    from gguf import GGMLQuantizationType

    values = np.ascontiguousarray(values, np.float32)
    kind = GGMLQuantizationType.F32
    return Piece(name, None, values.shape, values.dtype, kind, values.nbytes, 0, lambda: values)
