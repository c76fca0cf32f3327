"""Arguments that make other quantizers leave the matrices with super weights alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.modules import modules_of


@dataclass(frozen=True)
class Recipe:
    """What to give to `tool`: its `arguments` (a JSON value, or words of a command line), and `text` to paste."""

    tool: str
    modules: tuple[str, ...]
    arguments: dict | list[str]
    text: str


def recipe(checkpoint: Checkpoint, addresses: Sequence[Address], tool: str) -> Recipe:
    """The recipe for `tool` that keeps every matrix with one of `addresses` as it is.

    Raises `SuperweightsError` for a tool that is not in `TOOLS`, no address, one that the checkpoint lacks, and one
    that is no weight of a linear layer of its own (stacked experts, norm gains).
    """
    if tool not in TOOLS:
        raise SuperweightsError(f"There is no recipe for {tool!r}.", hint=f"choose from {', '.join(TOOLS)}.")
    if not addresses:
        raise SuperweightsError(
            "There is no weight to protect.", hint="superweights find names those that matter."
        )
    for address in addresses:
        checkpoint.element(address.tensor, address.index)
    tensors = tuple(dict.fromkeys(address.tensor for address in addresses))
    modules = tuple(modules_of(checkpoint, tensors).values())
    arguments, text = TOOLS[tool](checkpoint, tensors, modules)
    return Recipe(tool, modules, arguments, text)


def _llama_cpp(checkpoint: Checkpoint, tensors: tuple[str, ...], modules: tuple[str, ...]):
    """llama-quantize searches each regular expression in the tensor's name in the GGUF file."""
    words = []
    for name in _gguf_names(checkpoint, tensors):
        words += ["--tensor-type", f"^{re.escape(name)}$=q8_0"]
    quoted = " ".join(word if word.startswith("--") else f"'{word}'" for word in words)
    return words, f"llama-quantize {quoted} model-f16.gguf model-q4_k_m.gguf q4_k_m"


def _gguf_names(checkpoint: Checkpoint, tensors: tuple[str, ...]) -> list[str]:
    """What llama.cpp calls the tensors, by the gguf package's own table."""
    try:
        import gguf
    except ImportError as error:
        raise SuperweightsError(
            "The names of tensors in GGUF files come from the gguf package.",
            hint="pip install 'superweights[gguf]'.",
        ) from error
    model_type = str(checkpoint.model_config().model_type)
    known = {name.replace("-", "").replace("_", ""): arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    architecture = known.get(model_type.replace("-", "").replace("_", ""))
    blocks = getattr(checkpoint.model_config().get_text_config(), "num_hidden_layers", 0)
    names = []
    for tensor in tensors:
        table = gguf.get_tensor_name_map(architecture, blocks) if architecture is not None else None
        name = table.get_name(tensor, try_suffixes=(".weight",)) if table is not None else None
        if name is None:
            raise SuperweightsError(
                f"The gguf package knows no name for {tensor} of a {model_type!r} model.",
                hint="llama.cpp may not support this architecture.",
            )
        names.append(name)
    return names


def _gptqmodel(checkpoint: Checkpoint, tensors: tuple[str, ...], modules: tuple[str, ...]):
    """A key that begins with "-:" is a regular expression of modules to leave out."""
    dynamic = {f"-:^{re.escape(module)}$": {} for module in modules}
    return {"dynamic": dynamic}, f"QuantizeConfig(bits=4, group_size=128, dynamic={json.dumps(dynamic)})"


def _llm_compressor(checkpoint: Checkpoint, tensors: tuple[str, ...], modules: tuple[str, ...]):
    """Names without "re:" are compared whole."""
    ignore = ["lm_head", *modules]
    text = f'QuantizationModifier(targets="Linear", scheme="W4A16", ignore={json.dumps(ignore)})'
    return {"ignore": ignore}, text


def _torchao(checkpoint: Checkpoint, tensors: tuple[str, ...], modules: tuple[str, ...]):
    """A module whose config is None stays; "_default" is for all others."""
    listed = ", ".join(f'"{module}": None' for module in modules)
    text = f'quantize_(model, FqnToConfig({{{listed}, "_default": Int8WeightOnlyConfig()}}), filter_fn=None)'
    return {"fqn_to_config": dict.fromkeys(modules)}, text


def _bitsandbytes(checkpoint: Checkpoint, tensors: tuple[str, ...], modules: tuple[str, ...]):
    """Naming modules to skip replaces transformers' own list, so that the head has to be named too."""
    skip = [*modules, "lm_head"]
    text = f"BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules={json.dumps(skip)})"
    return {"llm_int8_skip_modules": skip}, text


def _mlx(checkpoint: Checkpoint, tensors: tuple[str, ...], modules: tuple[str, ...]):
    """mlx-lm asks a function for each module's path: False leaves it alone."""
    text = f"convert(path, quantize=True, quant_predicate=lambda path, module: path not in {json.dumps(modules)})"
    return {"leave": list(modules)}, text


TOOLS: dict[str, Callable[[Checkpoint, tuple[str, ...], tuple[str, ...]], tuple[dict | list[str], str]]] = {
    "llama.cpp": _llama_cpp,
    "gptqmodel": _gptqmodel,
    "llm-compressor": _llm_compressor,
    "torchao": _torchao,
    "bitsandbytes": _bitsandbytes,
    "mlx": _mlx,
}
