"""Training speed and memory of lab models, beside transformers' Llama and x-transformers.

    python benchmarks/lab.py [--rounds 8] [--write]

6 layers x 256, 4 heads, SwiGLU of 688 neurons, rotary positions, T = 256, batch 8, vocabulary 4,096, AdamW (torch's
fused one for everybody), float32, one thread. All ways run in one process, step by step in turns, so that a busy
machine is busy for all of them; CPU seconds are counted, and the fastest step of each way. x-transformers runs twice:
as it comes, and with its flash attention. Memory is measured for a few ways, in a process for each: the most that was
resident in three steps, above what was resident before the model was built.
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

from superweights.lab.architecture import Architecture
from superweights.lab.models.building import build
from superweights.lab.optimizers.making import make_optimizer
from superweights.lab.optimizers.spec import OptimizerSpec

PAGE = Path(__file__).resolve().parent.parent / "docs" / "lab_parts.md"
MARKS = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
VOCABULARY, WIDTH, LAYERS, HEADS, INNER, TOKENS, BATCH = 4096, 256, 6, 4, 688, 256, 8
IDS = torch.randint(0, VOCABULARY, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))

# way: (the way it is compared with, the least ratio of speeds that is aimed at)
AIMS = {
    "x-transformers": ("softmax", 1.35),
    "x-transformers, flash": ("softmax", None),
    "transformers Llama": ("softmax", 1.05),
    "softmax1": ("softmax", 0.95),
    "sink_logit": ("softmax", 0.95),
    "k_bias": ("softmax", 0.95),
    "softpick": ("softmax", 0.75),
    "sigmoid": ("softmax", 0.75),
    "orthoadam, kron": ("softmax", 0.70),
}
WEIGHED = ("softmax", "transformers Llama", "x-transformers")  # whose memory is measured
Step = Callable[[], None]


def ours(attention: str = "softmax", optimizer: str = "adamw") -> Step:
    """One step of a lab model."""
    sizes = {"vocabulary": VOCABULARY, "width": WIDTH, "layers": LAYERS, "heads": HEADS, "inner": INNER}
    model = build(Architecture(**sizes, context=TOKENS, attention=attention), seed=0)
    return stepping(
        lambda: model(input_ids=IDS, labels=IDS).loss, make_optimizer(OptimizerSpec(optimizer), model)
    )


def llama() -> Step:
    """One step of transformers' own Llama of the same size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, num_attention_heads=HEADS, max_position_embeddings=TOKENS, **sizes)
    ).train()
    return stepping(lambda: model(input_ids=IDS, labels=IDS, use_cache=False).loss, adamw(model))


def x_transformers(flash: bool) -> Step:
    """One step of x-transformers' decoder with the same parts and as many parameters (its norms differ by a few)."""
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    parts = {
        "rotary_pos_emb": True,
        "use_rmsnorm": True,
        "ff_swish": True,
        "ff_glu": True,
        "ff_no_bias": True,
    }
    layers = Decoder(
        dim=WIDTH,
        depth=LAYERS,
        heads=HEADS,
        attn_dim_head=WIDTH // HEADS,
        ff_mult=INNER / WIDTH,
        attn_flash=flash,
        **parts,
    )
    wrapped = TransformerWrapper(num_tokens=VOCABULARY, max_seq_len=TOKENS, attn_layers=layers)
    model = AutoregressiveWrapper(wrapped).train()
    longer = torch.cat((IDS, IDS[:, :1]), 1)  # it takes the last token off
    return stepping(lambda: model(longer), adamw(model))


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def stepping(loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer) -> Step:
    """A step: loss, gradients, update."""

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


WAYS: dict[str, Callable[[], Step]] = {
    "softmax": ours,
    "transformers Llama": llama,
    "x-transformers": lambda: x_transformers(flash=False),
    "x-transformers, flash": lambda: x_transformers(flash=True),
    **{
        name: (lambda name=name: ours(name))
        for name in ("softmax1", "sink_logit", "k_bias", "softpick", "sigmoid")
    },
    "orthoadam, kron": lambda: ours(optimizer="orthoadam"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        print(peak_megabytes(options.memory_of))
        return
    # first, while this process is small: a child starts with the peak of its parent
    megabytes = {way: memory_of(way) for way in WEIGHED}
    text = table(fastest(options.rounds), megabytes)
    print(text)
    if options.write:
        page = PAGE.read_text()
        begin, end = (page.index(mark) for mark in MARKS)
        PAGE.write_text(page[: begin + len(MARKS[0])] + "\n" + text + "\n" + page[end:])


def fastest(rounds: int) -> dict[str, float]:
    """CPU seconds of each way's fastest step; the first of each is not counted."""
    steps = {way: make() for way, make in WAYS.items()}
    for step in steps.values():
        step()
    seconds = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for way, step in steps.items():
            start = time.process_time()
            step()
            seconds[way] = min(seconds[way], time.process_time() - start)
    return seconds


def memory_of(way: str) -> float:
    """`peak_megabytes` in a process of its own."""
    run = subprocess.run(
        [sys.executable, __file__, "--memory-of", way], capture_output=True, text=True, check=True
    )
    return float(run.stdout)


def peak_megabytes(way: str) -> float:
    """The most that three steps hold, in MB above what was held before the model was built."""
    import x_transformers  # noqa: F401 - imports are nobody's memory

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = WAYS[way]()
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def table(seconds: dict[str, float], megabytes: dict[str, float]) -> str:
    """The table of the page. A rival's ratio is how much faster our softmax is; a part's is its own speed."""
    lines = ["| way | CPU s a step | tokens per CPU s | ratio | aim | MB |", "|---|---|---|---|---|---|"]
    for way, each in seconds.items():
        base, aim = AIMS.get(way, ("softmax", None))
        rival = "transformers" in way
        ratio = each / seconds[base] if rival else seconds[base] / each
        said = (
            ""
            if way == base
            else f"{'ours is ' if rival else ''}{ratio:.2f}{' times as fast' if rival else ''}"
        )
        wanted = "" if aim is None else f"at least {aim:.2f}"
        memory = f"{megabytes[way]:.0f}" if way in megabytes else ""
        lines.append(f"| {way} | {each:.3f} | {BATCH * TOKENS / each:,.0f} | {said} | {wanted} | {memory} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
