"""A sweep of edits, beside the same number of separate evaluations.

    python benchmarks/sweep.py [--windows 2] [--window 512] [--rounds 3] [--write]

On the embedded model, in one process, in turns, in float32; the best round counts, in CPU seconds (other programs
on the machine then matter less). `separate` edits the weight, scores the windows with `superweights.scoring` and
puts the weight back, once for every point; `sweep` is what `superweights sweep` runs. Two grids:

scale    the 13 factors of the published curve (0 to 3) on the super weight of layer 11
ablate   32 weights removed one at a time: the largest of the down-projections, spread over all layers
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from superweights.address import Address
from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.editing import Edit, edited, scale, zero
from superweights.scoring import token_losses
from superweights.stream import streaming
from superweights.subject.text import embedded_prose, windows
from superweights.sweeps import SCALES
from superweights.sweeps.measure import Bench

PAGE = Path(__file__).resolve().parent.parent / "docs" / "sweep.md"
MARKS = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
KNOWN = Address("model.layers.11.mlp.down_proj.weight", (507, 1229))
ABLATED = 32

Versions = Sequence[tuple[Edit, ...]]


def largest(checkpoint: Checkpoint, count: int) -> list[Address]:
    """The largest weight of every down-projection, then the second largest of the first ones."""
    names = sorted(
        (name for name in checkpoint.tensors if name.endswith("mlp.down_proj.weight")),
        key=lambda name: int(re.findall(r"\d+", name)[0]),
    )
    found = []
    for rank in range(-(-count // len(names))):
        for name in names:
            weight = checkpoint.read(name)
            place = int(weight.abs().flatten().topk(rank + 1).indices[rank])
            found.append(Address(name, divmod(place, weight.shape[1])))
    return found[:count]


def separate(model: nn.Module, ids: Tensor, versions: Versions) -> Tensor:
    """The mean loss of every version, `[versions]`, each by an evaluation of its own."""
    losses = []
    for edits in versions:
        with edited(model, edits, verify=False):
            losses.append(token_losses(model, ids).double().mean())
    return torch.stack(losses)


def together(model: nn.Module, ids: Tensor, versions: Versions) -> Tensor:
    """The same, by the sweep."""
    return torch.tensor([sum(n.losses) / len(n.losses) for n in Bench(model, ids).measure(versions)])


def best(ways: dict[str, Callable[[], Tensor]], rounds: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The least CPU seconds of each way over the rounds, and what it gave."""
    seconds = dict.fromkeys(ways, float("inf"))
    given: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            given[name] = way()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds, given


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the table into docs/sweep.md")
    options = parser.parse_args()
    lines = [
        f"`python benchmarks/sweep.py --windows {options.windows} --window {options.window}`: "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, best of {options.rounds} rounds.",
        "",
        "| grid | points | separate, CPU s | sweep, CPU s | ratio | largest difference of the losses |",
        "|--|--:|--:|--:|--:|--:|",
    ]
    with open_checkpoint() as checkpoint, streaming(checkpoint) as model:
        ids = windows(checkpoint.tokenizer(), embedded_prose(), options.window, options.windows)
        grids: dict[str, Versions] = {
            "scale": [scale(KNOWN, factor) for factor in SCALES],
            "ablate": [zero(address) for address in largest(checkpoint, ABLATED)],
        }
        for name, versions in grids.items():
            ways = {
                "separate": lambda versions=versions: separate(model, ids, versions),
                "sweep": lambda versions=versions: together(model, ids, versions),
            }
            seconds, given = best(ways, options.rounds)
            off = (given["separate"] - given["sweep"]).abs().max().item()
            ratio = seconds["sweep"] / seconds["separate"]
            lines.append(
                f"| {name} | {len(versions)} | {seconds['separate']:.1f} | {seconds['sweep']:.1f} | "
                f"{ratio:.2f} | {off:.1e} nats |"
            )
            print(lines[-1], flush=True)
    section = "\n".join(lines)
    print(section)
    if options.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        PAGE.write_text(f"{before}{MARKS[0]}\n{section}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
