"""Each recipe run by its tool on a small model: what `superweights recipe` prints, pasted word for word.

    python benchmarks/recipes.py            # a row for each tool; the exit code is 1 where one rounds what it must not

A tool that is not installed says so. llama-quantize is not a Python package: its parser's rules stand in
tests/test_recipes.py.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.formats.recipes import TOOLS, Recipe, recipes, write_recipe

KEPT = "model.layers.1.mlp.down_proj"
ROUNDED = "model.layers.0.mlp.down_proj"


def small_model(folder: Path) -> Path:
    """An untied Llama with 192 inputs, which groups of 128 do not divide, and the embedded model's tokenizer."""
    with open_checkpoint() as embedded:
        embedded.tokenizer().save_pretrained(folder)
        vocabulary = embedded.config["vocab_size"]
    torch.manual_seed(0)
    sizes = {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes, **heads))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def exact(model: nn.Module, name: str, original: nn.Module) -> bool:
    """Whether the layer still holds the original's weight as an ordinary tensor."""
    if name in getattr(model, "said_rounded", ()):
        return False
    weight = getattr(model.get_submodule(name), "weight", None)
    plain = isinstance(weight, nn.Parameter) and type(weight.data) is torch.Tensor
    return plain and torch.equal(weight.float(), original.get_parameter(f"{name}.weight").float())


def torchao(told: Recipe, folder: Path, to: Path):
    from torchao.quantization import FqnToConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    names = {
        "FqnToConfig": FqnToConfig,
        "Int8WeightOnlyConfig": Int8WeightOnlyConfig,
        "TorchAoConfig": TorchAoConfig,
    }
    model = eval(told.text, {"AutoModelForCausalLM": AutoModelForCausalLM, "MODEL": str(folder), **names})
    model.save_pretrained(to)
    return AutoModelForCausalLM.from_pretrained(to, dtype="auto")


def bitsandbytes(told: Recipe, folder: Path, to: Path):
    from transformers import BitsAndBytesConfig

    config = eval(told.text, {"BitsAndBytesConfig": BitsAndBytesConfig})
    from_file = BitsAndBytesConfig.from_dict(json.loads(told.file))
    assert config.to_dict() == from_file.to_dict(), "the file says something else"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", quantization_config=config)
    model.save_pretrained(to)
    return AutoModelForCausalLM.from_pretrained(to, dtype="auto")


def llm_compressor(told: Recipe, folder: Path, to: Path):
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    ways = [eval(told.text, {"QuantizationModifier": QuantizationModifier}), str(to.with_suffix(".yaml"))]
    write_recipe((told,), Path(ways[1]))
    for way in ways:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        oneshot(model=model, recipe=way)
        named = model.named_modules()
        model.said_rounded = {
            n for n, module in named if getattr(module, "quantization_scheme", None) is not None
        }
        assert KEPT not in model.said_rounded
    return model


def gptqmodel(told: Recipe, folder: Path, to: Path):
    """Only its own matching: its quantizer does not start on two cores."""
    from gptqmodel import QuantizeConfig

    to.mkdir()
    write_recipe((told,), to / "quantize_config.json")
    ways = eval(told.text, {"QuantizeConfig": QuantizeConfig}), QuantizeConfig.from_pretrained(str(to))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model.said_rounded = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            left = [way.dynamic_get(name) is False for way in ways]
            assert left[0] == left[1], name
            if not left[0]:
                model.said_rounded.add(name)
    return model


def auto_round(told: Recipe, folder: Path, to: Path):
    from auto_round import AutoRound

    more = ", iters=0, disable_opt_rtn=True, device_map='cpu')"
    maker = eval(told.text[:-1] + more, {"AutoRound": AutoRound, "MODEL": str(folder)})
    maker.quantize_and_save(str(to), format="auto_round")
    return _read_back(folder, to, "qweight")


def mlx(told: Recipe, folder: Path, to: Path):
    from mlx_lm import convert

    def into(path: str, **settings) -> None:
        convert(path, mlx_path=str(to), **settings)

    eval(told.text, {"convert": into, "MODEL": str(folder)})
    return _read_back(folder, to, "scales")


def _read_back(folder: Path, to: Path, part: str):
    """The original model, and the layers that have this part in the written files: those that were rounded."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    held = {name for file in to.rglob("*.safetensors") for name in load_file(file)}
    model.said_rounded = {name for name, _ in model.named_modules() if f"{name}.{part}" in held}
    return model


RUN: dict[str, tuple[str, Callable]] = {
    "gptqmodel": ("gptqmodel", gptqmodel),
    "llm-compressor": ("llmcompressor", llm_compressor),
    "torchao": ("torchao", torchao),
    "bitsandbytes": ("bitsandbytes", bitsandbytes),
    "auto-round": ("auto-round", auto_round),
    "mlx": ("mlx-lm", mlx),
}


def main(only: list[str]) -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        source = small_model(Path(folder, "m"))
        with open_checkpoint(str(source)) as checkpoint:
            found = recipes(checkpoint, [Address(f"{KEPT}.weight", (5, 7))], tuple(TOOLS))
        original = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
        AutoTokenizer.from_pretrained(source)
        print("| tool | version | kept layer | a layer beside it | head |\n|---|---|---|---|---|")
        for told in found:
            package, run = RUN.get(told.tool, (None, None))
            if package is None or (only and told.tool not in only):
                continue
            try:
                version = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                print(f"| {told.tool} | not installed | | | |")
                continue
            model = run(told, source, Path(folder, told.tool))
            kept, beside = exact(model, KEPT, original), not exact(model, ROUNDED, original)
            head = "exact" if exact(model, "lm_head", original) else "rounded"
            failed += not (kept and beside)
            says = "exact" if kept else "ROUNDED", "rounded" if beside else "NOT ROUNDED"
            print(f"| {told.tool} | {version} | {says[0]} | {says[1]} | {head} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
