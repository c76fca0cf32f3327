"""GGUF types with our fits beside ggml's own quantizers, in the mixture that llama.cpp calls Q4_K_M.

    PYTHONPATH=. python benchmarks/kquants.py TEXT [--windows 24] [--write]

The embedded model's weights lie on a 4-bit grid in blocks of 32, where types of 32 inputs are no test. So the model is
first taken off its grid without changing what it computes: each channel between two matrices is scaled by a number
between 0.8 and 1.25 on one side and by its inverse on the other (gains of norms; rows of `up_proj` and `v_proj`).
Types are llama.cpp's for `Q4_K_M` at these widths (576 is no multiple of 256: Q5_0 in the place of Q4_K, Q8_0 of
Q6_K). ggml's quantizers are those of the library that the xllamacpp package carries, without importances. Ours are the
same types by our fits, from the weights alone or for texts that the model writes itself. Bits are those of the blocks'
matrices; embedding and head stay as they are. float32, CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.quantization import Blocks, Scheme
from superweights.quantization.plan import Plan
from superweights.reconstruction import Sampling, remembered_samples, rounded_plan
from superweights.record import Score
from superweights.scoring import loss_per_window, perplexity_of
from superweights.scoring.loss import loss_change
from superweights.stream import streaming
from superweights.stream.linears import linear_tensors
from superweights.subject.text import windows
from tests import ggml

PAGE = Path(__file__).resolve().parent.parent / "docs" / "formats.md"
MARKS = "<!-- k-quants: begin -->", "<!-- k-quants: end -->"
GROUP = Blocks("group", (32,))
SIXTEEN = Blocks("group", (16,))


def schemes(fit: str) -> dict[str, Scheme]:
    """Our scheme for each type, by `centred` (and least squares where there is no offset) or `second_order`."""
    plain = fit if fit == "second_order" else "least_squares"
    return {
        "Q8_0": Scheme("int8", "none", GROUP, fit=plain),
        "Q5_0": Scheme("int5", "none", GROUP, fit=plain, anchor="signed"),
        "Q4_1": Scheme("int4", "float", GROUP, fit=fit),
        "Q4_K": Scheme("int4", "float", GROUP, fit=fit, scale_dtype="super"),
        "Q6_K": Scheme("int6", "none", SIXTEEN, fit=plain, anchor="signed", scale_dtype="super"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        with open_checkpoint() as checkpoint, streaming(checkpoint, dtype="float32", resident=True) as model:
            ids = windows(checkpoint.tokenizer(), asked.text.read_text(encoding="utf-8"), 512, asked.windows)
            own = remembered_samples(checkpoint, Sampling(asked.sequences))
            base = loss_per_window(model, ids)
            off_grid(model)
            assert torch.allclose(loss_per_window(model, ids[:1]), base[:1], atol=1e-4), "nothing has changed"
            model.save_pretrained(made)
        with open_checkpoint(made) as checkpoint:
            lines = list(table(checkpoint, base, ids, own, asked))
    if asked.write:
        page = PAGE.read_text(encoding="utf-8")
        head, tail = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
        PAGE.write_text("\n".join([head + MARKS[0], *lines, MARKS[1] + tail]), encoding="utf-8")


def table(
    checkpoint: Checkpoint, base: Tensor, ids: Tensor, own: Tensor, asked: argparse.Namespace
) -> Iterator[str]:
    """Its lines, printed as they come."""

    def said(*lines: str) -> Iterator[str]:
        print(*lines, sep="\n", flush=True)
        yield from lines

    yield from said(
        f"`python benchmarks/kquants.py {asked.text.name} --windows {asked.windows}`, torch {torch.__version__}, "
        f"{asked.sequences} texts of its own:",
        "",
        "| matrices | bits | perplexity | rise, nats |",
        "|---|--:|--:|--:|",
        f"| as they are | 32 | {_told(perplexity_of(base), '.2f')} | |",
    )
    for label, rounded in ways(checkpoint, own):
        held, number = 0.0, 0
        with streaming(checkpoint, dtype="float32", resident=True) as model:
            for name in linear_tensors(checkpoint):
                weight, bits = rounded(name, checkpoint.read(name).float())
                model.get_parameter(name).data = weight
                held, number = held + bits, number + weight.numel()
            losses = loss_per_window(model, ids)
        score, rise = _told(perplexity_of(losses), ".2f"), _told(loss_change(base, losses), "+.4f")
        yield from said(f"| {label} | {held / number:.3f} | {score} | {rise} |")


def _told(score: Score, form: str) -> str:
    return f"{score.value:{form}} ± {score.standard_error or 0:.2g}"


# A tensor's name and its weights in, what is stored of them and in how many bits out.
Rounded = Callable[[str, Tensor], tuple[Tensor, float]]


def ways(checkpoint: Checkpoint, own: Tensor) -> Iterator[tuple[str, Rounded]]:
    """What is compared: how it is called, and what it makes of a matrix."""
    yield "Q4_K_M, ggml's quantizers", by_ggml
    yield "the same types, our fits of the weights", by_plan(plan_of(checkpoint, q4_k_m, "centred"))
    for label, types in (("the same types", q4_k_m), ("Q4_1 in the place of Q5_0", smaller)):
        plan = rounded_plan(checkpoint, plan_of(checkpoint, types, "second_order"), own)
        yield f"{label}, for its own text", by_plan(plan)


def plan_of(checkpoint: Checkpoint, types: Callable[[str, int], str], fit: str) -> Plan:
    """The scheme of each matrix of the blocks."""
    by_type = schemes(fit)
    return Plan({name: by_type[types(name, shape[1])] for name, shape in shapes(checkpoint).items()})


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The shape of each matrix of the blocks."""
    return {name: tuple(checkpoint.tensors[name].shape) for name in linear_tensors(checkpoint)}


def by_plan(plan: Plan) -> Rounded:
    """As our writers round it."""

    def rounded(name: str, weight: Tensor) -> tuple[Tensor, float]:
        quantized = plan.round(name, weight)
        return quantized.dequantize(torch.float32), quantized.stored_bits.total

    return rounded


def by_ggml(name: str, weight: Tensor) -> tuple[Tensor, float]:
    """Through ggml's quantizer and back."""
    kind = gguf.GGMLQuantizationType[q4_k_m(name, weight.shape[1])]
    held = ggml.quantize(weight.numpy(), kind, alike=False)
    return torch.from_numpy(ggml.dequantize(held, kind)), 8 * held.nbytes


def q4_k_m(name: str, inputs: int) -> str:
    """llama.cpp's type for a block's matrix under Q4_K_M: more bits for values and down-projections of some layers."""
    layer, count = int(name.split(".")[2]), 30
    more = layer < count // 8 or layer >= 7 * count // 8 or (layer - count // 8) % 3 == 2
    kind = "Q6_K" if more and ("v_proj" in name or "down_proj" in name) else "Q4_K"
    return kind if inputs % 256 == 0 else {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}[kind]


def smaller(name: str, inputs: int) -> str:
    """The same with Q4_1 (5 bits) where Q5_0 (5.5) is."""
    kind = q4_k_m(name, inputs)
    return "Q4_1" if kind == "Q5_0" else kind


@torch.no_grad()
def off_grid(model: Any, seed: int = 0) -> None:
    """Scale the channels between two matrices on one side and back on the other; the function stays what it was."""
    random = torch.Generator().manual_seed(seed)

    def factors(count: int) -> Tensor:
        return torch.exp((torch.rand(count, generator=random) * 2 - 1) * torch.log(torch.tensor(1.25)))

    for block in model.model.layers:
        attention, mlp = block.self_attn, block.mlp
        for norm, readers in (
            (block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (block.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            scale = factors(len(norm.weight))
            norm.weight.data = norm.weight / scale
            for reader in readers:
                reader.weight.data = reader.weight * scale
        scale = factors(mlp.down_proj.in_features)
        mlp.up_proj.weight.data = mlp.up_proj.weight / scale[:, None]
        mlp.down_proj.weight.data = mlp.down_proj.weight * scale
        scale = factors(attention.v_proj.out_features)
        attention.v_proj.weight.data = attention.v_proj.weight / scale[:, None]
        heads = scale.reshape(-1, attention.head_dim)
        times = attention.o_proj.in_features // len(scale)
        attention.o_proj.weight.data = attention.o_proj.weight * heads.repeat_interleave(times, 0).flatten()


if __name__ == "__main__":
    main()
