"""What dropping buys and costs: quality, speed, weights and cache of pruned checkpoints beside the whole model.

    python benchmarks/prune.py TEXT [--rounds 3] [--write]

The embedded model without its 4, 8 and 12 most similar attentions, and as many MLPs and blocks, chosen on built-in
prose, sub-layers that carry a super weight or massive activation left in, each choice beside one drawn at random.
Perplexity on 8 windows of 512 tokens of TEXT. All checkpoints are written, loaded by transformers in float32, and run
in one process, in turns; the best round counts. Decoding: 32 tokens after 512; cache: keys and values after those.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import superweights  # noqa: F401 - teaches transformers the pruned model type
from superweights.checkpoint import open_checkpoint
from superweights.index import look_up
from superweights.interpretability import MassiveReduction, ask
from superweights.interpretability.redundancy import Redundancies, choose, choose_at_random
from superweights.pruning import Dropped, carriers, drop_effects, prune
from superweights.pruning.sublayers import sublayers_of
from superweights.stream import streaming
from superweights.subject.text import embedded_prose, windows

PAGE = Path(__file__).resolve().parent.parent / "docs" / "prune.md"
MARKS = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
COUNTS, PROMPT, TOKENS = (4, 8, 12), 512, 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    choices, base, effects, ids = _chosen(options.text)
    with tempfile.TemporaryDirectory() as name:
        models = _written(Path(name), choices)
        times = _race(models, ids, options.rounds)
    whole = times["nothing"]
    lines = [
        f"`python benchmarks/prune.py {options.text.name} --rounds {options.rounds}`: float32, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; perplexity {base} on 8 windows of 512; whole "
        f"model: prefill {whole['prefill']:.0f} and decoding {whole['decode']:.1f} tokens/s, cache "
        f"{whole['cache'] / 1e6:.1f} MB after {PROMPT + TOKENS} tokens.",
        "",
        "| dropped | perplexity | as many at random | weights | prefill | decoding | cache |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for label, (best, random) in effects.items():
        row = times[label]
        ratios = " | ".join(
            f"{row[key] / whole[key]:.2f}" for key in ("weights", "prefill", "decode", "cache")
        )
        lines.append(f"| {label} | {_number(best)} | {_number(random)} | {ratios} |")
    print("\n".join(lines))
    if options.write:
        _write("\n".join(lines))


def _chosen(text: Path) -> tuple[dict[str, Dropped], Any, dict[str, tuple[Any, Any]], torch.Tensor]:
    """What goes, by name; the perplexity of the whole model; perplexities without it, chosen and random; a prompt."""
    with open_checkpoint() as checkpoint, streaming(checkpoint, dtype="float32", resident=True) as model:
        tokenizer = checkpoint.tokenizer()
        prose = windows(tokenizer, embedded_prose(), 128, 32)
        found, massive = ask(model, prose, Redundancies(), MassiveReduction())
        known = [match.address for match in look_up(checkpoint) if match.agreeing and match.address]
        kept = set(carriers(model, sublayers_of(model, prose[:1]), known))
        kept |= {("mlp" if e.writer == "MLP" else "attention", e.layer) for e in massive.events}
        named = {f"{n} {kind}s": (kind, n) for kind in ("attention", "mlp", "block") for n in COUNTS}
        best = {label: choose(found, kind, n, kept) for label, (kind, n) in named.items()}
        drawn = [choose_at_random(found, kind, n, 0, kept) for kind, n in named.values()]
        rows = windows(tokenizer, text.read_text(encoding="utf-8"), 512, 8)
        base, effects = drop_effects(model, rows, [*best.values(), *drawn])
        half = len(best)
        pairs = zip(effects[:half], effects[half:], strict=True)
        return best, base, dict(zip(best, pairs, strict=True)), rows[:1, :PROMPT]


def _written(folder: Path, choices: dict[str, Dropped]) -> dict[str, Any]:
    """The whole model and every pruned one, as transformers loads their folders."""
    with open_checkpoint() as checkpoint:
        file = checkpoint.path
        assert file is not None
        whole = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        models = {"nothing": whole.eval()}
        for label, dropped in choices.items():
            to = prune(checkpoint, dropped, folder / label.replace(" ", "-")).folder
            models[label] = AutoModelForCausalLM.from_pretrained(to, dtype=torch.float32).eval()
    return models


@torch.no_grad()
def _race(models: dict[str, Any], ids: torch.Tensor, rounds: int) -> dict[str, dict[str, float]]:
    best: dict[str, dict[str, float]] = {label: {"prefill": 0.0, "decode": 0.0} for label in models}
    for _ in range(rounds):
        for label, model in models.items():
            start = time.perf_counter()
            out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            middle = time.perf_counter()
            token = out.logits[:, -1:].argmax(-1)
            for _ in range(TOKENS):
                out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1:].argmax(-1)
            end = time.perf_counter()
            row = best[label]
            row["prefill"] = max(row["prefill"], ids.shape[1] / (middle - start))
            row["decode"] = max(row["decode"], TOKENS / (end - middle))
            held = [layer for layer in out.past_key_values.layers if getattr(layer, "keys", None) is not None]
            row["cache"] = sum(t.nbytes for layer in held for t in (layer.keys, layer.values))
            row["weights"] = sum(p.nbytes for p in model.parameters())
    return best


def _number(effect: Any) -> str:
    error = effect.perplexity.standard_error
    return f"{effect.perplexity.value:,.4g} ± {error or 0:.2g}"


def _write(table: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0])
    PAGE.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
