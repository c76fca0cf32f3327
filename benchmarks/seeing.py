"""What pictures add to a search: CPU time of `find` on a model that sees, with pictures over text alone, in turns.

    python benchmarks/seeing.py [--turns 5]

The model is a tiny LLaVA with a processor of its own (16 tokens for a picture, in front of windows of 128), and the two
searches take the same windows: where they judge, the pictures' own tokens and the vision tower are what is added.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]


def seconds(folder: str, objective: str) -> tuple[float, float]:
    """CPU seconds of one search: of all of it, and without opening the model (a processor is opened once)."""
    from superweights.checkpoint import open_checkpoint
    from superweights.discovery import Search, find
    from superweights.stream import streaming

    began = time.process_time()
    with open_checkpoint(folder) as checkpoint, streaming(checkpoint, resident=False, objective=objective):
        opened = time.process_time() - began
    began = time.process_time()
    find(folder, Search(tower="language"), objective=objective)
    whole = time.process_time() - began
    return whole, whole - opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    import torch
    from test_seeing import with_processor
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        with_processor(Path(folder))
        for objective in ("next-token", "image"):
            seconds(folder, objective)
        turns = [(seconds(folder, "next-token"), seconds(folder, "image")) for _ in range(options.turns)]
    for number, what in enumerate(("all of it", "without opening the model")):
        text, pictures = ([each[side][number] for each in turns] for side in (0, 1))
        ratios = [seen / read for read, seen in zip(text, pictures, strict=True)]
        spent = (
            f"text alone {statistics.median(text):.2f} s, with pictures {statistics.median(pictures):.2f} s"
        )
        ratio = f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{what}: {spent} of CPU time, {ratio}, {len(ratios)} turns")


if __name__ == "__main__":
    main()
