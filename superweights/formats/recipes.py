"""Arguments that make other quantizers leave the matrices with super weights alone.

Each tool stands for itself: one that cannot have a recipe says why, and costs the others nothing. What is printed has
been run by the tools (benchmarks/recipes.py), or checked against their parser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from superweights.address import Address
from superweights.artefacts.file import write_text
from superweights.artefacts.place import check_new
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.formats.gguf_names import gguf_names
from superweights.stream.skeleton import Skeleton

# Group sizes that quantizers have kernels for, the usual one first.
_GROUPS = (128, 64, 32, 16)


@dataclass(frozen=True)
class Recipe:
    """What to give to `tool`: its `arguments` (a JSON value, or words of a command line), and `text` to paste.

    `modules` are what it leaves alone, as the tool calls them. `file` is the text of a file that the tool reads instead
    (None where it reads none), `notes` what to beware of.
    """

    tool: str
    modules: tuple[str, ...]
    arguments: dict | list[str]
    text: str
    file: str | None = None
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What a person is shown."""
        return [self.text, *self.notes]


@dataclass(frozen=True)
class NoRecipe:
    """Why there is none for `tool`, and what to do."""

    tool: str
    reason: str
    """A sentence."""
    hint: str
    """What to do instead."""

    def lines(self) -> list[str]:
        """What a person is shown."""
        return [f"none: {self.reason}", self.hint]


@dataclass(frozen=True)
class _Spared:
    """What is to be left alone: tensors of the checkpoint, and the linear layers that they are the weights of."""

    checkpoint: Checkpoint
    tensors: tuple[str, ...]
    modules: tuple[str, ...]
    inside: tuple[str, ...]
    widths: tuple[int, ...]
    head: str

    @property
    def group(self) -> int | None:
        """The usual group size that divides the inputs of every linear layer; None where none does."""
        return next((size for size in _GROUPS if all(width % size == 0 for width in self.widths)), None)

    def whole(self, tool: str) -> None:
        """Raise where a tensor is one of several experts that are stacked into one parameter."""
        if self.inside:
            raise SuperweightsError(
                f"{self.inside[0]} is not the weight of one linear layer of its own, and {tool} is told by those.",
                hint="the recipe for llama.cpp names the tensor; leave stacked experts and gains out for the others.",
            )


def recipes(
    checkpoint: Checkpoint, addresses: Sequence[Address], tools: Sequence[str], notes: Sequence[str] = ()
) -> tuple[Recipe | NoRecipe, ...]:
    """The recipe of each of `tools` that keeps every matrix with one of `addresses` as it is, or why it has none.

    `notes` are added to those of each. Raises `SuperweightsError` for a tool that is not in `TOOLS`, no address, and
    one that the checkpoint lacks.
    """
    for tool in tools:
        if tool not in TOOLS:
            raise SuperweightsError(
                f"There is no recipe for {tool!r}.", hint=f"choose from {', '.join(TOOLS)}."
            )
    spared = _spared(checkpoint, addresses)
    found: list[Recipe | NoRecipe] = []
    for tool in tools:
        try:
            made = TOOLS[tool](spared)
            found.append(replace(made, notes=(*made.notes, *notes)))
        except SuperweightsError as error:
            found.append(NoRecipe(tool, error.message, error.hint))
    return tuple(found)


def recipe(checkpoint: Checkpoint, addresses: Sequence[Address], tool: str) -> Recipe:
    """The recipe for one tool. Raises `SuperweightsError` where it has none."""
    (found,) = recipes(checkpoint, addresses, (tool,))
    if isinstance(found, NoRecipe):
        raise SuperweightsError(f"{tool}: {found.reason}", hint=found.hint)
    return found


def write_recipe(found: Sequence[Recipe | NoRecipe], to: Path) -> None:
    """The file `to` that the one tool of `found` reads. Raises where there are several, or it reads none."""
    if len(found) != 1:
        raise SuperweightsError(
            "--to writes the file of one tool.", hint=f"name it with --for: {', '.join(TOOLS)}."
        )
    (only,) = found
    if isinstance(only, NoRecipe):
        raise SuperweightsError(f"{only.tool}: {only.reason}", hint=only.hint)
    if only.file is None:
        raise SuperweightsError(
            f"{only.tool} reads no such file.", hint="paste what is printed without --to."
        )
    check_new(to, "file")
    write_text(to, only.file)


def _spared(checkpoint: Checkpoint, addresses: Sequence[Address]) -> _Spared:
    if not addresses:
        raise SuperweightsError(
            "There is no weight to protect.", hint="superweights find names those that matter."
        )
    for address in addresses:
        checkpoint.check(address)
    tensors = tuple(dict.fromkeys(address.tensor for address in addresses))
    skeleton = Skeleton(checkpoint, torch.float32, torch.device("cpu"))
    linears = {
        name: module for name, module in skeleton.model.named_modules() if isinstance(module, nn.Linear)
    }
    conv1d = {name for name, module in skeleton.model.named_modules() if type(module).__name__ == "Conv1D"}
    modules, inside = [], []
    for tensor in tensors:
        target = skeleton.targets.get(tensor, "")
        module = target.removesuffix(".weight")
        own = (
            target not in skeleton.converters and (module in linears or module in conv1d) and module != target
        )
        (modules if own else inside).append(module if own else tensor)
    head = skeleton.model.get_output_embeddings()
    widths = {module.in_features for module in linears.values() if module is not head}
    named = next((name for name, module in linears.items() if module is head), "lm_head")
    return _Spared(checkpoint, tensors, tuple(modules), tuple(inside), tuple(sorted(widths)), named)


def _llama_cpp(spared: _Spared) -> Recipe:
    """llama-quantize searches each regular expression in the tensor's name in the GGUF file."""
    names = gguf_names(spared.checkpoint, spared.tensors)
    types = [f"^{re.escape(name)}$=q8_0" for name in names]
    words = [word for each in types for word in ("--tensor-type", each)]
    quoted = " ".join(word if word.startswith("--") else f"'{word}'" for word in words)
    notes = ["llama.cpp ignores an override that is the same as the type given for the whole file."]
    if any("_exps" in name for name in names):
        notes.append(
            "GGUF stacks the experts of a layer: all of them are kept, since single ones cannot be typed."
        )
    text = f"llama-quantize {quoted} model-f16.gguf model-q4_k_m.gguf q4_k_m"
    return Recipe("llama.cpp", tuple(names), words, text, "\n".join(types) + "\n", tuple(notes))


def _gptqmodel(spared: _Spared) -> Recipe:
    """A key that begins with "-:" is a regular expression of modules to leave out."""
    spared.whole("gptqmodel")
    settings = {
        **{"bits": 4, "group_size": _divides(spared), "sym": True},
        "dynamic": {f"-:^{re.escape(module)}$": {} for module in spared.modules},
    }
    said = ", ".join(f"{name}={_python(value)}" for name, value in settings.items())
    return Recipe(
        *(
            "gptqmodel",
            spared.modules,
            {"dynamic": settings["dynamic"]},
            f"QuantizeConfig({said})",
            _json(settings),
        ),
        ("The file is quantize_config.json: QuantizeConfig.from_pretrained(FOLDER) reads it.",),
    )


def _llm_compressor(spared: _Spared) -> Recipe:
    """Names without "re:" are compared whole. Its scheme W4A16 has groups of 128, and refuses widths that these do not
    divide; then the same scheme is written out with a group that does."""
    spared.whole("llm-compressor")
    size = _divides(spared)
    ignore = [spared.head, *spared.modules]
    if size == 128:
        scheme: dict = {"targets": "Linear", "scheme": "W4A16"}
    else:
        weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": size}
        scheme = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
    settings = {**scheme, "ignore": ignore}
    said = ", ".join(f"{name}={_python(value)}" for name, value in settings.items())
    file = f"default_stage:\n  default_modifiers:\n    QuantizationModifier: {json.dumps(settings)}\n"
    return Recipe(
        *("llm-compressor", spared.modules, {"ignore": ignore}, f"QuantizationModifier({said})", file),
        ("The file is a recipe: oneshot(model=MODEL, recipe='FILE.yaml').",),
    )


def _torchao(spared: _Spared) -> Recipe:
    """A module whose config is None stays; "_default" is for all others. Through transformers the head stays, too, and
    the model can be saved; torchao's own `quantize_` rounds an untied head, and what it makes cannot be saved."""
    spared.whole("torchao")
    listed = ", ".join(f'"{module}": None' for module in spared.modules)
    config = f'TorchAoConfig(FqnToConfig({{{listed}, "_default": Int8WeightOnlyConfig()}}))'
    text = f'AutoModelForCausalLM.from_pretrained(MODEL, dtype="auto", quantization_config={config})'
    return Recipe("torchao", spared.modules, {"fqn_to_config": dict.fromkeys(spared.modules)}, text)


def _bitsandbytes(spared: _Spared) -> Recipe:
    """Naming modules to skip replaces transformers' own list, so that the head has to be named too."""
    spared.whole("bitsandbytes")
    settings = {
        **{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "llm_int8_skip_modules": [*spared.modules, spared.head],
    }
    said = ", ".join(f"{name}={_python(value)}" for name, value in settings.items())
    arguments = {"llm_int8_skip_modules": settings["llm_int8_skip_modules"]}
    return Recipe(
        *("bitsandbytes", spared.modules, arguments, f"BitsAndBytesConfig({said})", _json(settings)),
        ("The file: BitsAndBytesConfig.from_dict(json.load(open('FILE'))). Its own default is fp4.",),
    )


def _auto_round(spared: _Spared) -> Recipe:
    """16 bits leave a layer alone."""
    spared.whole("auto-round")
    layers = {module: {"bits": 16} for module in spared.modules}
    text = (
        f'AutoRound(MODEL, scheme="W4A16", group_size={_divides(spared)}, layer_config={json.dumps(layers)})'
    )
    return Recipe("auto-round", spared.modules, {"layer_config": layers}, text)


def _mlx(spared: _Spared) -> Recipe:
    """mlx-lm asks a function for each module's path: False leaves it alone."""
    spared.whole("mlx")
    named = json.dumps(list(spared.modules))
    text = f"convert(MODEL, quantize=True, quant_predicate=lambda path, module: path not in {named})"
    notes = ("mlx-lm rounds the head and the embedding as well, unless the function says False for them.",)
    return Recipe("mlx", spared.modules, {"leave": list(spared.modules)}, text, None, notes)


def _divides(spared: _Spared) -> int:
    if spared.group is None:
        widths = ", ".join(map(str, spared.widths))
        raise SuperweightsError(
            f"No group of {', '.join(map(str, _GROUPS))} divides layers of {widths} inputs.",
            hint="give the tool a scheme by channel.",
        )
    return spared.group


def _python(value: object) -> str:
    """The value as Python writes it, with the quotes of JSON."""
    return (
        json.dumps(value).replace(": true", ": True") if isinstance(value, dict | list | str) else repr(value)
    )


def _json(settings: dict) -> str:
    return json.dumps(settings, indent=2) + "\n"


TOOLS: dict[str, Callable[[_Spared], Recipe]] = {
    "llama.cpp": _llama_cpp,
    "gptqmodel": _gptqmodel,
    "llm-compressor": _llm_compressor,
    "torchao": _torchao,
    "bitsandbytes": _bitsandbytes,
    "auto-round": _auto_round,
    "mlx": _mlx,
}
