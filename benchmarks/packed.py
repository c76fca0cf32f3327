"""Decoding, prefill and memory of packed checkpoints, beside dense torch, torchao and llama.cpp.

    python benchmarks/packed.py [--tokens 48] [--prompt 256] [--rounds 3] [--only WORD] [--write]

The embedded model, quantized to int4 in groups of 64 and to int8 by channel with its known super weights kept
(packed, embeddings in bfloat16), and to Q4_1 in a GGUF file. All ways run in one process, in turns, on one prompt and
greedily; the best round counts, in CPU seconds of this process (run it with one thread). llama.cpp (the xllamacpp
package) tells seconds of the clock. Memory is measured in a process for each way: what is private to it after loading
and one short pass, above a tiny model, beside the bytes of the weight files (freed memory is given back first).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import superweights  # noqa: F401 - teaches transformers the packed format
from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.formats.dense import write_dense
from superweights.formats.embeddings import with_embeddings
from superweights.formats.gguf import write_gguf
from superweights.formats.packed.writing import write_packed
from superweights.index import look_up
from superweights.quantization import Blocks, Scheme
from superweights.quantization.plan import Plan
from superweights.stream import give_back_memory
from superweights.stream.linears import linear_tensors
from superweights.subject.text import embedded_prose

PAGE = Path(__file__).resolve().parent.parent / "docs" / "formats.md"
MARKS = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
WAYS = (
    "torch float32",
    "torch bfloat16",
    "torchao int8, bfloat16",
    "packed int4, float32",
    "packed int4, bfloat16",
    "packed int8, bfloat16",
    "llama.cpp Q4_1",
)
MADE = {"dense": WAYS[:3], "int4": WAYS[3:5], "int8": WAYS[5:6], "model.gguf": WAYS[6:]}
FOLDER_OF = {way: folder for folder, ways in MADE.items() for way in ways}
SCHEMES = {
    "int4": Scheme("int4", blocks=Blocks("group", (64,)), fit="centred"),
    "int8": Scheme("int8", zero_point="none", blocks=Blocks("channel", ())),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", default="", help="ways whose names match this pattern, beside torch float32"
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument(
        "--memory-of", nargs=2, metavar=("WAY", "FOLDER"), help="one way's memory, nothing else"
    )
    options = parser.parse_args()
    if options.memory_of:
        print(_memory_of(*options.memory_of))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompt = _make(folder, options.prompt)
        rows = _race(folder, prompt, options)
        for way, row in rows.items():
            row["memory"] = _measured_memory(way, folder)
            path = folder / FOLDER_OF[way]
            files = [path] if path.is_file() else list(path.glob("*.safetensors"))
            row["size"] = sum(file.stat().st_size for file in files)
    table = _table(rows, options)
    print(table)
    if options.write:
        _write(table)


def _make(folder: Path, length: int) -> list[int]:
    """The checkpoints to compare, and the prompt's tokens."""
    with open_checkpoint() as checkpoint:
        matrices = linear_tensors(checkpoint)
        keep: list[Address] = [
            match.address for match in look_up(checkpoint) if match.agreeing and match.address
        ]
        for name, scheme in SCHEMES.items():
            plan = with_embeddings(checkpoint, Plan.uniform(matrices, scheme, keep), "packed")
            write_packed(checkpoint, plan, folder / name)
        first = next(iter(matrices))
        write_dense(checkpoint, Plan({first: SCHEMES["int8"]}), folder / "dense")
        quarter = Scheme("int4", blocks=Blocks("group", (32,)), fit="centred")
        write_gguf(checkpoint, Plan.uniform(matrices, quarter, keep), folder / "model.gguf")
        return checkpoint.tokenizer()(embedded_prose().text).input_ids[:length]


def _load(way: str, folder: Path) -> Any:
    """The model of one way; raises ImportError where its library is missing."""
    path = folder / FOLDER_OF[way]
    if way.startswith("llama.cpp"):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 1024, 1, False, -1
        params.cpuparams.n_threads = torch.get_num_threads()
        return xllamacpp.Server(params)
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if way.endswith("float32") and "bfloat16" not in way else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
    if way.startswith("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(model, Int8WeightOnlyConfig())
    return model


@torch.no_grad()
def _times(way: str, model: Any, prompt: list[int], tokens: int) -> tuple[float, float]:
    """Tokens per second of reading the prompt, and of writing `tokens` more."""
    if way.startswith("llama.cpp"):
        asked = {
            "prompt": prompt,
            "n_predict": tokens,
            "temperature": 0.0,
            "cache_prompt": False,
            "ignore_eos": True,
        }
        said = model.handle_completions(asked)["timings"]
        return said["prompt_per_second"], said["predicted_per_second"]
    ids = torch.tensor([prompt])
    start = time.process_time()
    step = model(ids, use_cache=True, logits_to_keep=1)
    read = time.process_time()
    for _ in range(tokens):
        last = step.logits[:, -1:].argmax(-1)
        step = model(last, past_key_values=step.past_key_values, use_cache=True)
    return len(prompt) / (read - start), tokens / (time.process_time() - read)


def _race(folder: Path, prompt: list[int], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The best of the rounds for each way, all models in memory together."""
    models = {}
    for way in WAYS:
        if way != WAYS[0] and not re.search(options.only, way):
            continue
        try:
            models[way] = _load(way, folder)
        except ImportError as error:
            print(f"{way} is left out: {error}", file=sys.stderr)
    rows: dict[str, dict[str, float]] = {way: {"prefill": 0.0, "decode": 0.0} for way in models}
    for way, model in models.items():
        _times(way, model, prompt[:8], 2)
    for _ in range(options.rounds):
        for way, model in models.items():
            prefill, decode = _times(way, model, prompt, options.tokens)
            row = rows[way]
            row["prefill"], row["decode"] = max(row["prefill"], prefill), max(row["decode"], decode)
    return rows


def _memory_of(way: str, folder: str) -> int:
    """Private bytes after loading and one short pass, above the same with a tiny model: imports and code."""
    with tempfile.TemporaryDirectory() as name:
        _make_tiny(Path(name))
        if not way.startswith("llama.cpp"):
            _times(way, _load(way, Path(name)), [1, 2, 3, 4], 1)
        give_back_memory()
        before = _private()
        model = _load(way, Path(folder))
        _times(way, model, [1, 2, 3, 4], 1)
        give_back_memory()
        return _private() - before


def _make_tiny(folder: Path) -> None:
    """The same kinds of checkpoint of a model that takes no room; llama.cpp imports nothing, and gets none."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1}
    AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(folder / "dense")
    with open_checkpoint(str(folder / "dense")) as checkpoint:
        for name, scheme in SCHEMES.items():
            write_packed(checkpoint, Plan.uniform(linear_tensors(checkpoint), scheme), folder / name)


def _private() -> int:
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(found) for found in re.findall(r"Private_(?:Clean|Dirty):\s+(\d+)", rollup))


def _measured_memory(way: str, folder: Path) -> int:
    command = [sys.executable, __file__, "--memory-of", way, str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(out.split()[-1])


def _table(rows: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    base = rows[WAYS[0]]
    lines = [
        f"`python benchmarks/packed.py --tokens {options.tokens} --prompt {options.prompt}`: "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, best of {options.rounds} rounds; "
        "times are ratios to torch in float32.",
        "",
        "| way | decoding | tokens/s | prefill | weight files, MB | in memory, MB | memory / files |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for way, row in rows.items():
        lines.append(
            f"| {way} | {row['decode'] / base['decode']:.2f}x | {row['decode']:.1f} | "
            f"{row['prefill'] / base['prefill']:.2f}x | {row['size'] / 1e6:.0f} | {row['memory'] / 1e6:.0f} | "
            f"{row['memory'] / row['size']:.2f} |"
        )
    return "\n".join(lines)


def _write(table: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    begin, end = MARKS
    before, rest = page.split(begin)
    PAGE.write_text(f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
