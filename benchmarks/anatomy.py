"""What the one-pass questions of anatomy cost, beside the plain forward and beside keeping everything.

    python benchmarks/anatomy.py short              time: 32 windows of 64 tokens of the embedded prose
    python benchmarks/anatomy.py long               time: 8 windows of 512 tokens
    python benchmarks/anatomy.py memory             memory on one window of 512, 1,024 and 4,096 tokens
    ... --write                                     and into docs/anatomy.md
    ... --lens DIR                                  TransformerLens too, installed in DIR (pip install --target)

Model: the embedded one. Time: processor time of one pass, the ways in turns in one process, `--repeat` times;
the table has the median of the ratios to the plain forward of the same round.
  plain      transformers, eager attention, output_attentions and output_hidden_states, each batch dropped
  sdpa       transformers as it is opened: no weights to see
  kept       as plain, and everything kept, as a person does who analyses afterwards
  lens       TransformerLens: run_with_cache, kept
  four       massive, sinks, contributions and kurtosis, answered in one pass
  anatomy    every question that one pass answers, answered in one pass (`superweights anatomy all`)

Memory: the high-water mark of resident memory over what the loaded model holds, each way in a process of its
own. What would not fit (`--limit` GB for the attention weights alone) is not run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
PAGE = HERE.parent.parent / "docs" / "anatomy.md"
WAYS = ("plain", "sdpa", "kept", "lens", "four", "anatomy")
SHAPES = {"short": (32, 64), "long": (8, 512)}
LENGTHS = (512, 1024, 4096)


def batched(model: Any, ids: Any, size: int, keep: bool, eager: bool = True) -> list[Any]:
    """transformers' own forward, batch by batch, with all hidden states and attention weights."""
    import torch

    model.set_attn_implementation("eager" if eager else "sdpa")
    held = []
    with torch.no_grad():
        for batch in ids.split(size):
            out = model(input_ids=batch, use_cache=False, logits_to_keep=1,
                        output_attentions=eager, output_hidden_states=eager)  # fmt: skip
            if keep:
                held.append(out)
    model.set_attn_implementation("sdpa")
    return held


def lens_of(model: Any, tokenizer: Any, folder: Path) -> Any:
    """The same weights as TransformerLens wraps them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(folder), device="cpu")


def ways(checkpoint: Any, model: Any, ids: Any, lens: Any) -> dict[str, Callable[[], Any]]:
    """Each way, as something to call."""
    import torch

    from superweights.interpretability import (
        ContributionReduction,
        Kurtosis,
        MassiveReduction,
        SinkReduction,
        Study,
        ask,
    )
    from superweights.interpretability.questions import answer_all

    size = max(1, 2048 // ids.shape[1])
    found: dict[str, Callable[[], Any]] = {
        "plain": lambda: batched(model, ids, size, keep=False),
        "sdpa": lambda: batched(model, ids, size, keep=False, eager=False),
        "kept": lambda: batched(model, ids, size, keep=True),
        "four": lambda: ask(
            model, ids, MassiveReduction(), SinkReduction(), ContributionReduction(), Kurtosis()
        ),
        "anatomy": lambda: answer_all(Study(model, ids, checkpoint.tokenizer())),
    }
    if lens is not None:

        def cached() -> list[Any]:
            with torch.no_grad():
                return [lens.run_with_cache(batch) for batch in ids.split(size)]

        found["lens"] = cached
    return found


def opened(tokens: int, windows: int):
    """The embedded model and the windows, for the length of a `with`."""
    from contextlib import contextmanager

    from superweights.checkpoint import open_checkpoint
    from superweights.stream import streaming
    from superweights.subject.text import embedded_prose
    from superweights.subject.text import windows as cut

    @contextmanager
    def inside():
        with open_checkpoint() as checkpoint, streaming(checkpoint, resident=True) as model:
            yield checkpoint, model, cut(checkpoint.tokenizer(), embedded_prose(), tokens, windows)

    return inside()


def measure_time(args: argparse.Namespace) -> dict[str, Any]:
    windows, tokens = SHAPES[args.part]
    with (
        opened(tokens, windows) as (checkpoint, model, ids),
        tempfile.TemporaryDirectory() as folder,
    ):
        lens = lens_of(model, checkpoint.tokenizer(), Path(folder)) if args.lens else None
        found = ways(checkpoint, model, ids, lens)
        found["anatomy"]()  # sites are told once for each model
        rounds = []
        for _ in range(args.repeat):
            took = {}
            for name, way in found.items():
                start = time.process_time()
                way()
                took[name] = time.process_time() - start
            rounds.append(took)
    ratios = {name: statistics.median(each[name] / each["plain"] for each in rounds) for name in found}
    return {"ratios": ratios, "plain_seconds": statistics.median(each["plain"] for each in rounds)}


def measure_memory(args: argparse.Namespace) -> dict[str, Any]:
    with opened(args.tokens, 1) as (checkpoint, model, ids), tempfile.TemporaryDirectory() as folder:
        lens = lens_of(model, checkpoint.tokenizer(), Path(folder)) if args.way == "lens" else None
        way = ways(checkpoint, model, ids, lens)[args.way]
        start = time.process_time()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = _status("VmRSS")
        way()
        peak = _status("VmHWM")
    return {"bytes": (peak - before) * 1024, "seconds": time.process_time() - start}


def _status(field: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0])


def own_process(args: argparse.Namespace, way: str, tokens: int) -> dict[str, Any]:
    command = [sys.executable, str(HERE), "memory", "--way", way, "--tokens", str(tokens)]
    if args.lens:
        command += ["--lens", args.lens]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*SHAPES, "memory"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=3.0)
    parser.add_argument("--lens")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--way", choices=WAYS, help="measure this way alone, here")
    args = parser.parse_args()
    if args.lens:
        sys.path.insert(0, args.lens)
    if args.way:
        print(json.dumps(measure_memory(args)))
        return
    table = memory_table(args) if args.part == "memory" else time_table(args)
    print(table)
    if args.write:
        begin, end = f"<!-- {args.part}: begin -->", f"<!-- {args.part}: end -->"
        head, _, rest = PAGE.read_text().partition(begin)
        PAGE.write_text(f"{head}{begin}\n{table}\n{end}{rest.partition(end)[2]}")


def time_table(args: argparse.Namespace) -> str:
    """The ratios as Markdown."""
    timed = measure_time(args)
    windows, tokens = SHAPES[args.part]
    lines = [f"| {windows} windows of {tokens} tokens | processor time, plain = 1 |", "|---|---|"]
    lines += [f"| {way} | {timed['ratios'][way]:.2f} |" for way in WAYS if way in timed["ratios"]]
    return "\n".join(lines)


def memory_table(args: argparse.Namespace) -> str:
    """The high-water marks as Markdown."""
    lines = [
        f"| beyond the model, MB | {' | '.join(f'{each:,} tokens' for each in LENGTHS)} |",
        f"|---|{'---|' * len(LENGTHS)}",
    ]
    for way in WAYS:
        if way == "lens" and not args.lens:
            continue
        cells = []
        for tokens in LENGTHS:
            weights = 30 * 9 * tokens**2 * 4 / 1e9
            if way in ("plain", "kept", "lens") and weights > args.limit:
                cells.append(f"not run: {weights:.1f} GB of weights alone")
            else:
                cells.append(f"{own_process(args, way, tokens)['bytes'] / 1e6:,.0f}")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
