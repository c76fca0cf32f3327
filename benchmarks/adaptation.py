"""What SVF costs: a training step beside PEFT's PSOFT of the same function, merged speed, two passes, decompositions.

    python benchmarks/adaptation.py [--rounds 2] [--layers 20-29]
    ... --write                                                    and into docs/adapt.md

The embedded model in float32. CPU time of one process, the variants in turns, the best round counts; ratios say more
than seconds. A step is forward, backward and AdamW on windows of 64 tokens; PSOFT trains its diagonal alone, which
flatters it: by default it would train its rotation too. The model's own share of a step is the same forward and
backward, down to the first adapted layer, with no adapter at all: no method can take less.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from peft import PsoftConfig, get_peft_model

from superweights.adaptation import Expert, Experts, Singular, benched, decompositions, turned
from superweights.adaptation.applying import standing_in
from superweights.subject.layers import layers_of

PAGE = Path(__file__).parent.parent / "docs" / "adapt.md"
BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", default="20-29")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.manual_seed(0)
    lines: list[str] = []
    for line in measured(asked.layers, asked.rounds):
        print(line, flush=True)
        lines.append(line)
    if asked.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        told = "\n".join(["```", *lines, "```"])
        PAGE.write_text(f"{head}{BEGIN}\n{told}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def measured(layers: str, rounds: int) -> Iterator[str]:
    """Everything, a line for each."""
    with benched("embedded") as bench, tempfile.TemporaryDirectory() as folder:
        matrices = bench.matrices("mlp", layers_of(layers))
        model, everything = bench.model, bench.matrices("both")
        yield f"{len(matrices)} matrices of the MLPs of layers {layers}; float32, CPU time, {rounds} rounds"
        made = seconds(lambda: decompositions(model, everything, folder=Path(folder)))
        read = seconds(lambda: decompositions(model, everything, folder=Path(folder)))
        yield (
            f"all {len(everything)} matrices decomposed: {made:.1f} s (aim 60); read from the cache: {read:.1f} s"
        )
        factors = decompositions(model, matrices, folder=Path(folder))
        for rows in (2, 16):
            yield compare_steps(bench, factors, rows, rounds)
        yield compare_forward(bench, factors, rounds)
        yield compare_passes(bench, factors, rounds)


def compare_steps(bench, factors, rows: int, rounds: int) -> str:
    """A training step of ours and of PSOFT, on as many windows of 64 tokens."""
    ids = torch.randint(49152, (rows, 64))
    learner = Singular(bench.model, factors)
    for parameter in bench.model.parameters():
        parameter.requires_grad_(False)
    settings = PsoftConfig(
        r=576, psoft_alpha=576, psoft_mag_b=False, target_modules=list(factors), task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(copy.deepcopy(bench.model), settings)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(name.endswith("vector_a"))
    ours, theirs, own = in_turns(
        rounds,
        lambda: step(bench.model, ids, learner),
        lambda: step(adapted, ids, None, adapted),
        lambda: plain_step(bench.model, ids, next(iter(factors))),
    )
    return (
        f"step of {ids.numel()} tokens: SVF {ours:.2f} s, PSOFT {theirs:.2f} s, the model's own share {own:.2f} s; "
        f"ratio {theirs / ours:.2f} (aim 1.5; at most {theirs / own:.2f} is possible)"
    )


def plain_step(model, ids, path: str) -> None:
    """Forward, and backward as far down as the block of the layer at `path`, without an adapter."""
    block = model.get_submodule(path.partition(".mlp.")[0])
    first = next(block.input_layernorm.parameters())
    first.requires_grad_(True)
    with torch.enable_grad():
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    first.requires_grad_(False)
    first.grad = None


def step(model, ids, learner=None, adapted=None) -> None:
    """Forward, backward and an update."""
    parameters = (
        learner.parameters.values() if learner else [p for p in adapted.parameters() if p.requires_grad]
    )
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    with torch.enable_grad():
        if learner is None:
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        else:
            with learner.learning(ids.numel()):
                model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def compare_forward(bench, factors, rounds: int) -> str:
    """A forward pass of the base and with an expert on."""
    ids = torch.randint(49152, (4, 64))
    z = {path: 1 + 0.1 * torch.randn(len(each)) for path, each in factors.items()}

    def merged() -> object:
        with standing_in(bench.model, composed):
            return plain()

    plain = lambda: bench.model(input_ids=ids, use_cache=False)  # noqa: E731
    with torch.no_grad():
        with turned(bench.model, factors, z) as composed:
            pass
        base, turned_ = in_turns(rounds + 2, plain, merged)
    return f"forward of {ids.numel()} tokens with z merged: {turned_ / base:.2f} of the base's time (aim 1)"


def compare_passes(bench, factors, rounds: int) -> str:
    """Two passes beside one, on a prompt of 200 tokens, 32 new ones, the expert's weights at hand."""
    z = {path: 1 + 0.01 * torch.randn(len(each)) for path, each in factors.items()}
    expert = Expert("sums", z, "", "", about="sums of small numbers")
    experts = Experts(bench.model, bench.reader, factors, [expert])
    prompt = bench.reader.text(
        bench.reader.prompt("The story of a small town and its many people. " * 30)[:200]
    )
    name = experts.choose(prompt).expert
    one, two = in_turns(
        rounds + 2,
        lambda: experts.answer(prompt, new_tokens=32, expert=name),
        lambda: experts.answer(prompt, new_tokens=32),
    )
    return f"two passes, 200 tokens and 32 new ones: {two / one:.2f} of one pass (aim 1.3)"


def in_turns(rounds: int, *works: Callable[[], object]) -> list[float]:
    """The CPU time of the fastest round of each, one after the other in every round, after one to warm up."""
    for work in works:
        work()
    taken = [[seconds(work) for work in works] for _ in range(rounds)]
    return [min(each) for each in zip(*taken, strict=True)]


def seconds(work: Callable[[], object]) -> float:
    """CPU time of `work`."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
