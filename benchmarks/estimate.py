"""Estimates beside what was then seen: `score` at three sizes, streamed, one thread.

python benchmarks/estimate.py            three random Llamas of 7, 46 and 235 million parameters, in bfloat16
python benchmarks/estimate.py --write    and into docs/estimate.md

Each size runs in a process of its own: seconds are CPU seconds of the scoring, memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "estimate.md"
MARKS = "<!-- checked: begin -->", "<!-- checked: end -->"
SIZES = {"small": (256, 6, 688, 8000), "middle": (512, 12, 1376, 16000), "large": (1024, 16, 2752, 32000)}
WINDOWS, TOKENS = 8, 256

RUN = """
import json, sys, time
import torch
torch.set_num_threads(1)
import superweights
from superweights.checkpoint import open_checkpoint
from superweights.scoring import loss_per_window
from superweights.stream import streaming
found = superweights.estimate(sys.argv[1], "score", windows={windows}, window={tokens})
ids = torch.randint(0, 8000, ({windows}, {tokens}))
with open_checkpoint(sys.argv[1]) as checkpoint, streaming(checkpoint, resident=False) as model:
    start = time.process_time()
    loss_per_window(model, ids)
    seconds = time.process_time() - start
held = open("/proc/self/status").read()  # ru_maxrss would begin at what the parent took
peak = int(held.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps([found.shape.parameters, found.seconds, seconds, found.memory_bytes, peak]))
"""


def saved(folder: str, width: int, layers: int, inner: int, vocabulary: int) -> None:
    """A random Llama, stored in bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = width // 64
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=inner,
        vocab_size=vocabulary,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = [
        "| numbers | seconds: expected | seen | expected / seen | memory, MB: expected | seen | expected / seen |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for size in SIZES.values():
        with tempfile.TemporaryDirectory() as folder:
            saved(folder, *size)
            code = RUN.format(windows=WINDOWS, tokens=TOKENS)
            done = subprocess.run(
                [sys.executable, "-c", code, folder],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        numbers, expected, seen, memory, peak = json.loads(done.stdout.splitlines()[-1])
        cells = (
            f"{numbers:,}",
            f"{expected:.2f}",
            f"{seen:.2f}",
            f"{expected / seen:.2f}",
            f"{memory / 1e6:,.0f}",
            f"{peak / 1e6:,.0f}",
            f"{memory / peak:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.write:
        before, rest = PAGE.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        PAGE.write_text(f"{before}{MARKS[0]}\n\n" + "\n".join(lines) + f"\n\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
