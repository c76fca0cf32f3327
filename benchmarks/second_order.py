"""What rounding for a model's own text gains: perplexity of the embedded model, on texts that chose nothing.

    python benchmarks/second_order.py TEXT [--only WORD] [--sequences 32] [--write]

int4 with a float zero point, groups of 64 and runs of 128; known super weights kept, embedding and head as they are;
float32. Each scheme rounded by weights alone (`centred`), for text that the model writes itself, and, beside it, for
text of the same file (its windows from the 24th on, which nothing else looks at). Scored: the first 24 windows of
512 tokens, the last 8 of the file, 8 of the prose that Python carries.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.index import look_up
from superweights.quantization import Blocks, Scheme
from superweights.quantization.plan import Plan
from superweights.reconstruction import Sampling, remembered_samples, rounded_plan
from superweights.scoring import loss_per_window, perplexity_of
from superweights.scoring.loss import loss_change
from superweights.stream import streaming
from superweights.stream.linears import linear_tensors
from superweights.subject.text import embedded_prose, windows

PAGE = Path(__file__).resolve().parent.parent / "docs" / "quantize.md"
MARKS = "<!-- second order: begin -->", "<!-- second order: end -->"
BLOCKS = {"group 64": Blocks("group", (64,)), "run 128": Blocks("run", (128,))}
CALIBRATIONS = ("weights alone (centred)", "its own text", "text of the same file")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--only", default="", help="rows whose names match this pattern")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    with open_checkpoint() as checkpoint:
        tokenizer = checkpoint.tokenizer()
        every = windows(tokenizer, options.text.read_text(encoding="utf-8"), 512)
        prose = windows(tokenizer, embedded_prose().text, 512, 8)
        scored = torch.cat([every[:24], every[-8:], prose])
        table = [*_head(options), *_rows(checkpoint, every, scored, options)]
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(MARKS[0])
        held = {
            line.split("|")[1].strip(): line for line in rest.split(MARKS[1])[0].splitlines() if "|" in line
        }
        held |= {line.split("|")[1].strip(): line for line in table if "|" in line}
        body = "\n".join([*table[:2], *held.values()])
        PAGE.write_text(f"{before}{MARKS[0]}\n{body}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8")


def _head(options: argparse.Namespace) -> list[str]:
    head = [
        f"`python benchmarks/second_order.py {options.text.name}`: float32, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; {options.sequences} sequences of 256 tokens.",
        "",
        "| rounded | bits | 24 windows | rise, nats | last 8 windows | rise | prose | rise | CPU s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(head), flush=True)
    return head


def _rows(
    checkpoint: Checkpoint, every: Tensor, scored: Tensor, options: argparse.Namespace
) -> Iterator[str]:
    keep = [
        match.address
        for match in look_up(checkpoint)
        if match.agreeing and match.address and match.known.verdict in ("critical", "partial")
    ]
    with streaming(checkpoint, dtype="float32", resident=True) as model:
        base = loss_per_window(model, scored)
    yield _row("not at all", None, base, base, 0.0)
    for name, blocks in BLOCKS.items():
        for calibration in CALIBRATIONS:
            if not re.search(options.only, f"int4 {name}, {calibration}"):
                continue
            start = time.process_time()
            plan = _plan(checkpoint, blocks, calibration, keep, every, options.sequences)
            seconds = time.process_time() - start
            losses, bits = _losses(checkpoint, plan, scored)
            yield _row(f"int4 {name}, {calibration}", bits, base, losses, seconds)


def _plan(
    checkpoint: Checkpoint, blocks: Blocks, calibration: str, keep, every: Tensor, sequences: int
) -> Plan:
    plain = calibration == CALIBRATIONS[0]
    scheme = Scheme("int4", blocks=blocks, fit="centred" if plain else "second_order")
    plan = Plan.uniform(linear_tensors(checkpoint), scheme, keep)
    if plain:
        return plan
    if calibration == CALIBRATIONS[1]:
        return rounded_plan(checkpoint, plan, remembered_samples(checkpoint, Sampling(sequences)))
    return rounded_plan(checkpoint, plan, every[24 : 24 + sequences // 2].reshape(-1, 256))


def _losses(checkpoint: Checkpoint, plan: Plan, scored: Tensor) -> tuple[Tensor, float]:
    """The loss of each window with the rounded matrices, and all stored bits over the number of weights."""
    bits = number = 0
    with streaming(checkpoint, dtype="float32", resident=True) as model:
        for name in plan.schemes:
            quantized = plan.round(name, checkpoint.read(name))
            model.get_parameter(name).data = quantized.dequantize(torch.float32)
            bits, number = bits + quantized.stored_bits.total, number + quantized.shape.numel()
        return loss_per_window(model, scored), bits / number


def _row(name: str, bits: float | None, base: Tensor, losses: Tensor, seconds: float) -> str:
    cells = [name, "" if bits is None else f"{bits:.2f}"]
    for part in (slice(0, 24), slice(24, 32), slice(32, 40)):
        score, rise = perplexity_of(losses[part]), loss_change(base[part], losses[part])
        cells += [f"{score.value:.2f} ± {score.standard_error or 0:.2g}"]
        cells += ["" if bits is None else f"{rise.value:+.3f} ± {rise.standard_error or 0:.2g}"]
    line = f"| {' | '.join([*cells, f'{seconds:.0f}'])} |"
    print(line, flush=True)
    return line


if __name__ == "__main__":
    main()
