"""What rounding costs: perplexity, stored bits and time of schemes on the embedded model's linear maps.

    python benchmarks/quantize.py TEXT [--windows 24] [--only WORD] [--write]

Every scheme twice: with nothing kept, and with the known super weights held out and kept exactly. Weights are rounded
and multiplied back; the forward runs in float32; embedding and head stay as they are. Perplexity has its standard
error over windows, the rise of the loss over the unrounded model the error of the paired difference. Time is CPU
seconds of rounding all matrices; HQQ's own library (where installed) rounds the same ones. The model's weights lie on
a grid of 32 already, so groups of 32 would be flattered.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from superweights.checkpoint import open_checkpoint
from superweights.index import look_up
from superweights.quantization import Blocks, Clip, Scheme, quantize_tensor
from superweights.scoring import loss_per_window, perplexity_of
from superweights.scoring.loss import loss_change
from superweights.stream import streaming
from superweights.stream.linears import linear_tensors
from superweights.subject.text import windows

PAGE = Path(__file__).resolve().parent.parent / "docs" / "quantize.md"
MARKS = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
GROUPS = {
    "group 64": Blocks("group", (64,)),
    "run 128": Blocks("run", (128,)),  # 128 does not divide 576 inputs: groups would be padded
    "channel": Blocks("channel", ()),
}
LARGE = {
    "run 1,024": Blocks("run", (1024,)),
    "tile 512x512": Blocks("tile", (512, 512)),
    "tensor": Blocks("tensor", ()),
}

# A matrix and its kept indices in, the rounded matrix and its stored bits out.
Round = Callable[[Tensor, list[tuple[int, ...]]], tuple[Tensor, int]]


def ways() -> dict[str, Round]:
    """The rows of the table by name."""
    rows: dict[str, Round] = {}
    for size, blocks in GROUPS.items():
        rows[f"int4 {size}, HQQ's library"] = hqq(blocks)
        for fit in ("half_quadratic", "centred", "range"):
            rows[f"int4 {size}, {fit}"] = ours(Scheme("int4", blocks=blocks, fit=fit))
        rows[f"int4 {size}, range, whole zero point"] = ours(
            Scheme("int4", zero_point="integer", blocks=blocks)
        )
        rows[f"int4 {size}, symmetric, signed"] = ours(
            Scheme("int4", zero_point="none", anchor="signed", blocks=blocks)
        )
        rows[f"nf4 {size}"] = ours(Scheme("nf4", zero_point="none", blocks=blocks))
        rows[f"nf4 {size}, least squares"] = ours(
            Scheme("nf4", zero_point="none", blocks=blocks, fit="least_squares")
        )
    rows["int3 group 64, centred"] = ours(Scheme("int3", blocks=GROUPS["group 64"], fit="centred"))
    rows["int8 channel, symmetric"] = ours(Scheme("int8", zero_point="none", blocks=GROUPS["channel"]))
    for size, blocks in LARGE.items():
        # 0 must lie on a grid this coarse, or every small weight moves by the same amount
        whole = Scheme("int4", zero_point="integer", blocks=blocks)
        rows[f"int4 {size}, whole zero point"] = ours(whole)
        rows[f"int4 {size}, whole zero point, clipped at z 6"] = ours(replace(whole, clip=Clip("z", 6)))
        rows[f"int4 {size}, whole zero point, clipped at z 12"] = ours(replace(whole, clip=Clip("z", 12)))
    rows["int4 tile 512x512, float zero point"] = ours(Scheme("int4", blocks=LARGE["tile 512x512"]))
    return rows


def ours(scheme: Scheme) -> Round:
    def rounded(weight: Tensor, keep: list[tuple[int, ...]]) -> tuple[Tensor, int]:
        quantized = quantize_tensor(weight, scheme, keep)
        return quantized.dequantize(), quantized.stored_bits.total

    return rounded


def hqq(blocks: Blocks) -> Round:
    """HQQ's own rounding; it has no kept weights, so those are put back afterwards, and cost it nothing here."""

    def rounded(weight: Tensor, keep: list[tuple[int, ...]]) -> tuple[Tensor, int]:
        from hqq.core.quantize import Quantizer

        size = blocks.size[0] if blocks.size else weight.shape[1]
        codes, meta = Quantizer.quantize(
            weight.float(), nbits=4, group_size=size, axis=1, round_zero=True, device="cpu", bitpack=False
        )
        dense = Quantizer.dequantize(codes, meta).reshape(weight.shape).clone()
        for index in keep:
            dense[index] = weight[index]
        return dense, 4 * weight.numel() + 32 * meta["scale"].numel()

    return rounded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument(
        "--only", default="", help="rows whose names match this pattern; others stay as they are"
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    lines = []
    with open_checkpoint() as checkpoint, streaming(checkpoint, dtype="float32", resident=True) as model:
        text = options.text.read_text(encoding="utf-8")
        rows = windows(checkpoint.tokenizer(), text, 512, options.windows)
        matrices = {name: model.get_parameter(name) for name in linear_tensors(checkpoint)}
        originals = {name: parameter.detach().clone() for name, parameter in matrices.items()}
        kept: dict[str, list[tuple[int, ...]]] = {}
        for match in look_up(checkpoint):
            if match.agreeing and match.address and match.known.verdict in ("critical", "partial"):
                kept.setdefault(match.address.tensor, []).append(match.address.index)
        base = loss_per_window(model, rows)
        lines += header(options, base, kept)
        print("\n".join(lines), flush=True)
        for name, way in ways().items():
            if re.search(options.only, name):
                line = row(name, way, model, matrices, originals, kept, rows, base)
                lines += [line] if line else []
                print(line, flush=True)
    if options.write:
        write(lines, list(ways()))


def header(options: argparse.Namespace, base: Tensor, kept: Mapping[str, list]) -> list[str]:
    score, four = perplexity_of(base), perplexity_of(base[:4])
    number = sum(map(len, kept.values()))
    return [
        f"`python benchmarks/quantize.py {options.text.name} --windows {options.windows}`: float32, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; unrounded {score.value:.2f} ± "
        f"{score.standard_error or 0:.2g} on {len(base)} windows, {four.value:.2f} on the first four. {number} super "
        "weights kept.",
        "",
        "| scheme | bits | 4 windows | all windows | rise, nats | 4, kept | all, kept | rise, kept | CPU s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]


def row(
    name: str,
    way: Round,
    model: nn.Module,
    matrices: Mapping[str, nn.Parameter],
    originals: Mapping[str, Tensor],
    kept: Mapping[str, list],
    rows: Tensor,
    base: Tensor,
) -> str:
    cells = []
    number = sum(weight.numel() for weight in originals.values())
    seconds = bits = 0.0
    for keep in ({}, kept):
        bits, start = 0, time.process_time()
        try:
            for tensor, weight in originals.items():
                dense, stored = way(weight, keep.get(tensor, []))
                matrices[tensor].data.copy_(dense)
                bits += stored
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            return ""
        seconds = seconds or time.process_time() - start
        losses = loss_per_window(model, rows)
        score, rise = perplexity_of(losses), loss_change(base, losses)
        cells += [
            f"{perplexity_of(losses[:4]).value:,.4g}",
            f"{score.value:,.4g} ± {score.standard_error or 0:.2g}",
        ]
        cells += [f"{rise.value:+.3f} ± {rise.standard_error or 0:.2g}"]
    return f"| {name} | {bits / number:.2f} | {' | '.join(cells)} | {seconds:.1f} |"


def write(lines: list[str], order: list[str]) -> None:
    """Put the rows into the page, beside those that were not measured this time, in the order of `ways`."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = MARKS
    before, rest = page.split(begin)
    held, after = rest.split(end)
    rows = {
        line.split("|")[1].strip(): line for line in [*held.splitlines(), *lines] if line.startswith("| ")
    }
    head = [line for line in lines if not line.startswith("| ")] + [rows.pop("scheme")]
    rule = head.index("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    head.insert(rule, head.pop())
    table = [*head, *(rows[name] for name in order if name in rows)]
    PAGE.write_text(f"{before}{begin}\n" + "\n".join(table) + f"\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
