"""The three designs: how fast, and the experiments of docs/designs.md. Prints what it measures, and what did not show.

    python benchmarks/designs.py growth          # TokenFormer: is adding slots worth it?
    python benchmarks/designs.py patching        # Byte Latent Transformer: entropy, space or static patches
    python benchmarks/designs.py concepts        # Large Concept Model: base or diffusion
    python benchmarks/designs.py speed           # ratios

Results go to --to, which `superweights lab page designs` reads.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from superweights.lab.designs.keeping import Spread, keep


def told(label: str, done: int, total: int) -> None:
    print(f"  {label} ({done} of {total})", file=sys.stderr, flush=True)


def growth(to: Path, seeds: int) -> None:
    from superweights.lab.designs.rows import library_rows
    from superweights.lab.tokenformer.experiment import ARMS, LONG, GrowthSettings, growth_run

    settings, rows, runs, began = GrowthSettings(), library_rows(), [], time.process_time()
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


def patching(to: Path, seeds: int) -> None:
    from superweights.lab.byte_latent.experiment import ARMS, PatchingSettings, patching_run
    from superweights.lab.designs.rows import library_rows

    settings, rows, runs, began = PatchingSettings(), library_rows(), [], time.process_time()
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


JOBS = {"growth": growth, "patching": patching}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=list(JOBS))
    parser.add_argument("--to", type=Path, default=Path("build/designs"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    JOBS[given.what](given.to, given.seeds)
    print(f"{time.process_time() - began:.0f} CPU seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
