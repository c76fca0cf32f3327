"""A model streamed from a server by ranges, with read-ahead and without it: how much of the link's rate is used.

python benchmarks/reading.py                 a random Llama of twelve blocks, 40 MB/s, 30 ms before each answer
python benchmarks/reading.py --rate 80 --delay 0.1 --write
                                             another link; and into docs/estimate.md

The server is a process of its own on this machine. Without read-ahead the next block is fetched while nothing computes.
Each is timed in seconds of the clock, the best of `--times` turns that alternate with a plain download of the same file
in one request, whose rate is the link's. The loss is compared to the bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
PAGE = Path(__file__).resolve().parent.parent / "docs" / "estimate.md"
MARKS = "<!-- reading: begin -->", "<!-- reading: end -->"
WIDTH, BLOCKS, INNER, VOCABULARY = 512, 12, 1408, 512
# Tokens of a pass: hardly anything to compute, and about as long to compute as to read here.
LENGTHS = {"little to compute": 16, "as much to compute as to read": 1024}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=40.0, help="megabytes in a second")
    parser.add_argument("--delay", type=float, default=0.03, help="seconds before each answer")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_HOME": str(Path(folder) / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        saved(Path(folder) / "model")
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        server = context.Process(
            target=serve, args=(Path(folder) / "model", asked.rate * 1e6, asked.delay, there), daemon=True
        )
        server.start()
        lines = measured(here.recv(), asked)
        server.terminate()
    print("\n".join(lines))
    if asked.write:
        written(lines)


def saved(folder: Path) -> None:
    """A random Llama, stored in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": BLOCKS,
        "intermediate_size": INNER,
        "vocab_size": VOCABULARY,
    }
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(folder)


def serve(folder: Path, rate: float, delay: float, pipe: Any) -> None:
    """The server, until it is ended."""
    from fake_hub import FakeHub

    hub = FakeHub({path.name: path.read_bytes() for path in folder.iterdir()})
    hub.rate, hub.delay = rate, delay
    pipe.send(hub.url)
    time.sleep(3600)


def measured(url: str, asked: argparse.Namespace) -> list[str]:
    """The table, a row for each length."""
    import torch
    from huggingface_hub import constants

    from superweights.checkpoint.ranges import RemoteStore

    torch.set_num_threads(1)
    constants.ENDPOINT = url
    constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
    ways = {"ahead": RemoteStore.read_ahead, "without": RemoteStore.prefetch}
    lines = [
        f"{asked.rate:g} MB/s, {asked.delay * 1000:g} ms before each answer, {BLOCKS} blocks of 13 MB; the best of "
        f"{asked.times} turns each.",
        "",
        "| tokens | is | computing alone | without read-ahead | with it | ratio | share of the link's rate |",
        "|--:|--|--:|--:|--:|--:|--:|",
    ]
    for name, tokens in LENGTHS.items():
        ids = torch.randint(0, VOCABULARY, (1, tokens), generator=torch.Generator().manual_seed(0))
        turns: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
        plain = []
        for _ in range(asked.times):
            plain.append(downloaded())
            for way, call in ways.items():
                turns[way].append(turn(call, ids))
        losses = {loss for held in turns.values() for _, _, loss in held}
        assert len(losses) == 1, "another way of reading gave another loss"
        seconds = {way: min(second for second, _, _ in held) for way, held in turns.items()}
        share = min(turns["ahead"])[1] / seconds["ahead"] / max(plain)
        lines.append(
            f"| {tokens:,} | {name} | {computing(ids):.2f} s | {seconds['without']:.2f} s | {seconds['ahead']:.2f} s | "
            f"{seconds['ahead'] / seconds['without']:.2f} | {share:.2f} |"
        )
    return lines


def turn(read_ahead: Callable[..., None], ids: Any) -> tuple[float, float, float]:
    """One pass over a model that has just been opened: its seconds, the bytes that came meanwhile, its loss."""
    from superweights.checkpoint import open_checkpoint
    from superweights.checkpoint.ranges import RemoteStore
    from superweights.stream import streaming

    RemoteStore.read_ahead = read_ahead
    with (
        open_checkpoint("org/model") as checkpoint,
        streaming(checkpoint, device="cpu", resident=False) as model,
    ):
        before, start = checkpoint.traffic.bytes, time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss.item()
        return time.perf_counter() - start, checkpoint.traffic.bytes - before, loss


def downloaded() -> float:
    """Bytes in a second of the whole file in one request."""
    from superweights.checkpoint import open_checkpoint
    from superweights.checkpoint.ranges import Meter, RemoteFile

    with open_checkpoint("org/model") as checkpoint:
        size = sum(info.nbytes for info in checkpoint.tensors.values())
        (url,) = (file.url for file in checkpoint._store._files.values())
    start = time.perf_counter()
    RemoteFile(url, Meter()).fetch(0, size, lambda at, chunk: None)
    return size / (time.perf_counter() - start)


def computing(ids: Any) -> float:
    """The seconds of a pass with all weights in memory."""
    from superweights.checkpoint import open_checkpoint
    from superweights.stream import streaming

    with (
        open_checkpoint("org/model") as checkpoint,
        streaming(checkpoint, device="cpu", resident=True) as model,
    ):
        model(input_ids=ids, labels=ids)
        start = time.perf_counter()
        model(input_ids=ids, labels=ids)
        return time.perf_counter() - start


def written(lines: list[str]) -> None:
    """Put the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    told = "\n".join(["", "", "Made by `python benchmarks/reading.py --write`.", "", *lines, "", ""])
    PAGE.write_text(f"{before}{MARKS[0]}{told}{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
