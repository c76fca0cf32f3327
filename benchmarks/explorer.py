"""The first new token after a slider move, beside loading the model, changing the weight and generating.

    python benchmarks/explorer.py [--rounds 5]

The embedded model, its strongest known super weight, greedy, wall-clock seconds, in turns; the median counts.
`explorer` is what the page runs for a move (a pass with all eyes open, then the first token); `again` is what one would
write without it: transformers loads the file, the weight is set, `generate` writes one token.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.explorer import Explorer
from superweights.stream import streaming

PROMPT = "The capital of France is"
WEIGHT = Address("model.layers.11.mlp.down_proj.weight", (507, 1229))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    moves = itertools.cycle([0.0, 0.5, 1.5, 2.0, 3.0])
    times: dict[str, list[float]] = {"explorer": [], "again": []}
    with open_checkpoint() as checkpoint, streaming(checkpoint, resident=True) as model:
        explorer = Explorer(model, checkpoint.tokenizer(), {"super": WEIGHT})
        list(explorer.run("super", 1.0, PROMPT, 1))
        for _ in range(options.rounds):
            start = time.perf_counter()
            next(state for state in explorer.run("super", next(moves), PROMPT, 1) if state.text)
            times["explorer"].append(time.perf_counter() - start)
            start = time.perf_counter()
            load_and_write(checkpoint, next(moves))
            times["again"].append(time.perf_counter() - start)
    first, again = (statistics.median(times[name]) for name in ("explorer", "again"))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {options.rounds} rounds, medians")
    print(
        f"explorer: {first:.2f} s; loading, changing and generating: {again:.2f} s; ratio {first / again:.3f}"
    )


def load_and_write(checkpoint, factor: float) -> None:
    """Without the explorer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = checkpoint.path
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model.get_parameter(WEIGHT.tensor).data[WEIGHT.index] *= factor
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    model.generate(ids, max_new_tokens=1, do_sample=False)


if __name__ == "__main__":
    main()
