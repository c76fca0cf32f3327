"""Tokens per second and peak memory of scoring, beside a plain loop and lm-evaluation-harness.

    python benchmarks/score.py [--windows 4] [--window 512] [--rounds 3] [--text FILE]

All three score the same windows of the embedded model in one process, in turns, in float32; the best round
counts, in CPU seconds (other programs on the machine then matter less). Memory is the peak above
the loaded model, the lesser of two processes (the system's own paging adds to some).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.checkpoint import open_checkpoint
from superweights.scoring import token_losses
from superweights.stream import streaming
from superweights.subject.text import embedded_prose, read_text, windows

WAYS = ("superweights", "plain loop", "lm-evaluation-harness")


def ours(model: nn.Module, tokenizer, rows: Tensor) -> Tensor:
    return token_losses(model, rows).double().sum(1)


@torch.no_grad()
def plain(model: nn.Module, tokenizer, rows: Tensor) -> Tensor:
    """What one writes in a notebook: a window at a time, all its logits."""
    losses = []
    for row in rows:
        logits = model(row[None]).logits[0, :-1].float()
        losses.append(functional.cross_entropy(logits, row[1:], reduction="sum"))
    return torch.stack(losses).double()


def harness(model: nn.Module, tokenizer, rows: Tensor) -> Tensor:
    """The harness's own scoring of a continuation, which here is all of a window but its first token."""
    from lm_eval.models.huggingface import HFLM

    if not hasattr(harness, "lm"):
        harness.lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=8192)
    requests = [(("", str(i)), row[:1].tolist(), row[1:].tolist()) for i, row in enumerate(rows)]
    found = harness.lm._loglikelihood_tokens(requests, disable_tqdm=True)
    return -torch.tensor([each[0] for each in found], dtype=torch.float64)


FUNCTIONS: dict[str, Callable] = dict(zip(WAYS, (ours, plain, harness), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--memory-of", choices=WAYS, help="measure one way's peak memory, and nothing else")
    options = parser.parse_args()
    text = read_text(options.text) if options.text else embedded_prose()
    with open_checkpoint() as checkpoint, streaming(checkpoint, device="cpu", resident=True) as model:
        tokenizer = checkpoint.tokenizer()
        rows = windows(tokenizer, text, options.window, options.windows)
        if options.memory_of:
            print(_peak_above(model, tokenizer, rows, options.memory_of))
            return
        seconds, losses = _race(model, tokenizer, rows, options.rounds)
    _report(options, seconds, losses, rows.shape[0] * (rows.shape[1] - 1))


def _race(model: nn.Module, tokenizer, rows: Tensor, rounds: int) -> tuple[dict, dict]:
    """The best CPU seconds of each way, and its losses."""
    seconds: dict[str, float] = {}
    losses: dict[str, Tensor] = {}
    for way in WAYS:
        try:
            FUNCTIONS[way](model, tokenizer, rows[:1])
        except ImportError:
            print(f"{way} is not installed: left out", file=sys.stderr)
            continue
        seconds[way] = float("inf")
    for _ in range(rounds):
        for way in seconds:
            start = time.process_time()
            losses[way] = FUNCTIONS[way](model, tokenizer, rows)
            seconds[way] = min(seconds[way], time.process_time() - start)
    return seconds, losses


def _peak_above(model: nn.Module, tokenizer, rows: Tensor, way: str) -> int:
    """Bytes of peak memory above what the model, the imports and one short window have taken."""
    FUNCTIONS[way](model, tokenizer, rows[:1, :8])
    for parameter in model.parameters():  # what the system has put out of memory meanwhile is not ours
        parameter.detach().sum()
    before = _reset_peak()
    FUNCTIONS[way](model, tokenizer, rows)
    return _peak() - before


def _reset_peak() -> int:
    """Resident bytes now; on Linux the peak is counted from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _report(options: argparse.Namespace, seconds: dict, losses: dict, tokens: int) -> None:
    print(
        f"{options.windows} windows of {options.window} tokens, {torch.get_num_threads()} threads, float32, CPU"
    )
    print("| way | tokens per CPU second | times ours | peak memory above the model | largest difference |")
    print("|---|---|---|---|---|")
    for way in seconds:
        command = [sys.executable, __file__, "--memory-of", way, "--windows", str(options.windows)]
        command += ["--window", str(options.window), *(["--text", str(options.text)] if options.text else [])]
        runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
        peak = min(int(out.split()[-1]) for out in runs)
        difference = ((losses[way] - losses[WAYS[0]]).abs() / losses[WAYS[0]]).max().item()
        ratio = seconds[way] / seconds[WAYS[0]]
        print(
            f"| {way} | {tokens / seconds[way]:.0f} | {ratio:.2f} | {peak / 2**20:.0f} MiB | {difference:.1e} |"
        )


if __name__ == "__main__":
    main()
