"""What SVF costs: a training step beside PEFT's PSOFT of the same function, merged speed, two passes, decompositions.

    python benchmarks/adaptation.py [--rounds 2] [--layers 20-29]

The embedded model in float32. CPU time of one process, the variants in turns, the best round counts; ratios say more
than seconds. A step is forward, backward and AdamW on windows of 64 tokens; PSOFT trains its diagonal alone, which
flatters it: by default it would train its rotation too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PsoftConfig, get_peft_model

from superweights.adaptation import Expert, Experts, Singular, benched, decompositions, turned
from superweights.subject.layers import layers_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", default="20-29")
    asked = parser.parse_args()
    torch.manual_seed(0)
    with benched("embedded") as bench, tempfile.TemporaryDirectory() as folder:
        matrices = bench.matrices("mlp", layers_of(asked.layers))
        model, everything = bench.model, bench.matrices("both")
        print(f"{len(matrices)} matrices of the MLPs of layers {asked.layers}; float32, CPU time")
        made = seconds(lambda: decompositions(model, everything, folder=Path(folder)))
        read = seconds(lambda: decompositions(model, everything, folder=Path(folder)))
        print(f"all {len(everything)} matrices decomposed: {made:.1f} s; read from the cache: {read:.1f} s")
        factors = decompositions(model, matrices, folder=Path(folder))
        for rows in (2, 16):
            compare_steps(bench, factors, rows, asked.rounds)
        compare_forward(bench, factors, asked.rounds)
        compare_passes(bench, factors, asked.rounds)


def compare_steps(bench, factors, rows: int, rounds: int) -> None:
    """A training step of ours and of PSOFT, on as many windows of 64 tokens."""
    ids = torch.randint(49152, (rows, 64))
    learner = Singular(bench.model, factors)
    for parameter in bench.model.parameters():
        parameter.requires_grad_(False)
    ours = best(lambda: step(bench.model, ids, learner), rounds)
    settings = PsoftConfig(
        r=576, psoft_alpha=576, psoft_mag_b=False, target_modules=list(factors), task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(bench.model, settings)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(name.endswith("vector_a"))
    theirs = best(lambda: step(bench.model, ids, None, adapted), rounds)
    adapted.unload()
    print(
        f"step of {ids.numel()} tokens: SVF {ours:.2f} s, PSOFT {theirs:.2f} s; ratio {theirs / ours:.2f} (aim 1.5)"
    )


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


def compare_forward(bench, factors, rounds: int) -> None:
    """A forward pass of the base and with an expert on."""
    ids = torch.randint(49152, (4, 64))
    z = {path: 1 + 0.1 * torch.randn(len(each)) for path, each in factors.items()}
    with torch.no_grad():
        base = best(lambda: bench.model(input_ids=ids, use_cache=False), rounds + 2)
        with turned(bench.model, factors, z):
            merged = best(lambda: bench.model(input_ids=ids, use_cache=False), rounds + 2)
    print(f"forward of {ids.numel()} tokens with z merged: {merged / base:.2f} of the base's time (aim 1)")


def compare_passes(bench, factors, rounds: int) -> None:
    """Two passes beside one, on a prompt of 200 tokens, 32 new ones, the expert's weights at hand."""
    z = {path: 1 + 0.01 * torch.randn(len(each)) for path, each in factors.items()}
    expert = Expert("sums", z, "", "", about="sums of small numbers")
    experts = Experts(bench.model, bench.reader, factors, [expert])
    prompt = bench.reader.text(
        bench.reader.prompt("The story of a small town and its many people. " * 30)[:200]
    )
    name = experts.choose(prompt).expert
    one = best(lambda: experts.answer(prompt, new_tokens=32, expert=name), rounds)
    two = best(lambda: experts.answer(prompt, new_tokens=32), rounds)
    print(f"two passes, 200 tokens and 32 new ones: {two / one:.2f} of one pass (aim 1.3)")


def best(work: Callable[[], object], rounds: int) -> float:
    """The CPU time of the fastest of so many rounds, after one to warm up."""
    work()
    return min(seconds(work) for _ in range(rounds))


def seconds(work: Callable[[], object]) -> float:
    """CPU time of `work`."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
