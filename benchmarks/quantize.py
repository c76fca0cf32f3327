"""What rounding costs: perplexity, stored bits and time of schemes on the embedded model's linear maps.

    python benchmarks/quantize.py TEXT [--windows 4] [--only WORD]

Weights are rounded and multiplied back ("fake quantization"); the forward runs in bfloat16. Embedding and head
stay as they are. The model's weights lie on a grid of 32 already, so groups of 32 would be flattered.
"""

from __future__ import annotations

import argparse
import time

import torch

from superweights.checkpoint import open_checkpoint
from superweights.quantize import Blocks, Clip, Scheme, quantize_tensor
from superweights.score import perplexity
from superweights.stream import streaming
from superweights.text import windows

GROUPS = {"64": Blocks("group", (64,)), "128": Blocks("group", (128,)), "channel": Blocks("channel", ())}
SUPER_WEIGHTS = {"model.layers.11.mlp.down_proj": [(507, 1229)], "model.layers.2.mlp.down_proj": [(507, 90)]}


def schemes() -> dict[str, Scheme]:
    """The rows of the table by name."""
    rows = {}
    for size, blocks in GROUPS.items():
        for fit in ("centred", "half_quadratic", "range"):
            rows[f"int4 float {size} {fit}"] = Scheme("int4", blocks=blocks, fit=fit)
        for fit in ("least_squares", "range"):
            rows[f"int4 integer {size} {fit}"] = Scheme("int4", "integer", blocks, fit=fit)
            rows[f"nf4 {size} {fit}"] = Scheme("nf4", "none", blocks, fit=fit)
    rows["int4 tiles 512 z 6"] = Scheme("int4", blocks=Blocks("tile", (512, 512)), clip=Clip("z", 6))
    return rows


def main() -> None:
    """Print one row per scheme."""
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true", help="Keep the two super weights.")
    options = parser.parse_args()
    with open_checkpoint() as checkpoint, streaming(checkpoint, resident=True) as model:
        with open(options.text, encoding="utf-8") as file:
            rows = windows(checkpoint.tokenizer(), file.read(), 512, count=options.windows)
        linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layers" in n}
        originals = {n: m.weight.detach().clone() for n, m in linears.items()}
        model.to(torch.bfloat16)
        print(f"bfloat16 {perplexity(model, rows).value:.3f}", flush=True)
        for name, scheme in schemes().items():
            if options.only not in name:
                continue
            start, bits, number = time.process_time(), 0, 0
            for module, weight in originals.items():
                keep = SUPER_WEIGHTS.get(module, []) if options.keep else []
                quantized = quantize_tensor(weight, scheme, keep=keep)
                linears[module].weight.data.copy_(quantized.dequantize())
                bits, number = bits + quantized.stored_bits.total, number + weight.numel()
            took = time.process_time() - start
            score = perplexity(model, rows)
            print(f"{name:28} {score.value:10.3f}  {bits / number:.3f} bits  {took:.1f} CPU-s", flush=True)


if __name__ == "__main__":
    main()
