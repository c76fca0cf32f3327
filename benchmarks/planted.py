"""Whether verdicts are true: models whose super weights are known, and models that have none.

    python benchmarks/planted.py                       300 plantings in every family that can hold one, 500 null models
    python benchmarks/planted.py --plantings 40 --nulls 60
    python benchmarks/planted.py --write               and into docs/verdicts.md

Each model is a tiny random one of a transformers family that reads text it wrote itself. What is planted (a single
weight, a pair, a triple, a norm's gain, an expert) counts as truth only where transformers' own forward says so:
critical together by three standard errors, and no part of it critical (tests/grounds.py). Recovered: exact
addresses, and the right verdict for each. A null model is unplanted, has its planted matrix shuffled, or its super
weight removed; there critical or joint is a false alarm.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
warnings.filterwarnings("ignore")

import families  # noqa: E402
import grounds  # noqa: E402

from superweights.checkpoint import open_checkpoint  # noqa: E402
from superweights.discovery import Findings, find  # noqa: E402

PAGE = HERE.parent / "docs" / "verdicts.md"
MARKS = "<!-- planted: begin -->", "<!-- planted: end -->"
DENSE = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "phi",
    "gpt2",
    "gpt_neox",
    "gpt_neo",
    "gptj",
    "opt",
    "falcon",
    "bloom",
    "olmo",
    "starcoder2",
    "stablelm",
    "cohere",
    "granite",
    "smollm3",
    "helium",
    "persimmon",
    "codegen",
    "biogpt",
    "exaone4",
    "nemotron",
    "seed_oss",
    "arcee",
    "ministral",
]
MIXTURES = [
    "mixtral",
    "qwen3_moe",
    "olmoe",
    "gpt_oss",
    "deepseek_v2",
    "deepseek_v3",
    "granitemoe",
    "phimoe",
    "jamba",
    "glm4_moe",
    "dots1",
]
NORMED = ["gemma2", "gemma3_text", "olmo2", "olmo3", "glm4", "exaone4"]
KINDS = {
    "single": (DENSE, lambda t, s: grounds.planted_together(t, s, 1)),
    "pair": (DENSE, lambda t, s: grounds.planted_together(t, s, 2)),
    "triple": (DENSE, lambda t, s: grounds.planted_together(t, s, 3)),
    "expert": (MIXTURES, grounds.planted_expert),
    "gain": (NORMED, grounds.planted_gain),
}
NULLS = ("plain", "shuffled", "removed")
# How the wanted plantings are divided among the kinds.
SHARES = {"single": 0.25, "pair": 0.25, "triple": 0.25, "expert": 0.125, "gain": 0.125}


def made(kind: str) -> Iterator[tuple[str, grounds.Ground]]:
    """Plantings of a kind, seed by seed and family by family, without end."""
    known, make = KINDS[kind]
    for seed in range(1000):
        for family in known:
            try:
                ground = make(family, seed)
            except (KeyError, AssertionError, RuntimeError, ValueError) as error:
                if seed == 0:
                    print(f"{family}: {type(error).__name__}: {str(error)[:80]}", file=sys.stderr)
                continue
            if ground is not None:
                yield family, ground


def searched(family: str, ground: grounds.Ground) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        families.save_tiny(family, folder, ground.model)
        with open_checkpoint(folder) as checkpoint:
            return find(checkpoint, token_ids=ground.ids)


def missed(kind: str, ground: grounds.Ground, found: Findings) -> str | None:
    """What is wrong with the findings; None where all that was planted was found, with the right verdict."""
    wanted = "critical" if len(ground.members) == 1 else "joint"
    verdicts = {(w.parameter, places(w)): w.verdict for w in found.candidates}
    held = [verdicts.get((name, index), "not found") for name, index in ground.members]
    if any(verdict != wanted for verdict in held):
        return ", ".join(map(str, held))
    if kind == "expert":
        expert = next(
            (e.verdict for e in found.experts if (e.module, e.expert) == ground.expert), "not found"
        )
        return None if expert == "critical" else f"expert {expert}"
    return None


def places(weight) -> tuple[int, ...]:
    """The index in the model's parameter: for these families that of the file, but for experts stored one by one."""
    digits = [int(part) for part in weight.address.tensor.split(".experts.")[-1].split(".") if part.isdigit()]
    apart = ".experts." in weight.address.tensor and len(weight.address.index) == 2 and digits
    return (digits[0], *weight.address.index) if apart else weight.address.index


def plantings(wanted: int) -> tuple[list[str], int]:
    """The table's lines, and how many were recovered."""
    lines = ["| planted | families | plantings | recovered | missed |", "|---|--:|--:|--:|---|"]
    recovered = tried = 0
    for kind, share in SHARES.items():
        seen, right, wrong = Counter(), 0, Counter()
        start = time.process_time()
        for family, ground in made(kind):
            reason = missed(kind, ground, searched(family, ground))
            seen[family] += 1
            right += reason is None
            if reason is not None:
                wrong[f"{family}: {reason}"] += 1
            if sum(seen.values()) >= max(1, round(share * wanted)):
                break
        count = sum(seen.values())
        told = "; ".join(f"{n} x {what}" for what, n in wrong.items()) or "-"
        lines.append(f"| {kind} | {len(seen)} | {count} | {right} | {told} |")
        print(lines[-1], f"{time.process_time() - start:.0f} s", file=sys.stderr, flush=True)
        recovered, tried = recovered + right, tried + count
    lines.append(f"| all | | {tried} | {recovered} ({100 * recovered / tried:.1f} %) | |")
    return lines, recovered


def nulls(wanted: int) -> list[str]:
    lines = ["| null | families | models | critical or joint | undecided |", "|---|--:|--:|--:|--:|"]
    total = false = 0
    for kind in NULLS:
        verdicts: dict[str, Counter] = defaultdict(Counter)
        for seed in range(1000):
            for family in (*DENSE, *MIXTURES, *NORMED):
                if sum(sum(c.values()) for c in verdicts.values()) >= round(wanted / len(NULLS)):
                    break
                try:
                    ground = grounds.null_model(family, seed, kind)
                except (KeyError, AssertionError, RuntimeError, ValueError):
                    continue
                if ground is not None:
                    found = searched(family, ground).verdict
                    verdicts[family][found] += 1
                    if found in ("critical", "joint"):
                        print(f"false alarm: {family} {kind} seed {seed}: {found}", file=sys.stderr)
            else:
                continue
            break
        every = sum(verdicts.values(), Counter())
        wrong, count = every["critical"] + every["joint"], sum(every.values())
        lines.append(f"| {kind} | {len(verdicts)} | {count} | {wrong} | {every['undecided']} |")
        print(lines[-1], file=sys.stderr, flush=True)
        total, false = total + count, false + wrong
    lines.append(f"| all | | {total} | {false} | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plantings", type=int, default=300)
    parser.add_argument("--nulls", type=int, default=500)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [f"`python benchmarks/planted.py --plantings {options.plantings} --nulls {options.nulls}`:", ""]
    if options.plantings:
        lines += [*plantings(options.plantings)[0], ""]
    if options.nulls:
        lines += [*nulls(options.nulls), ""]
    print("\n".join(lines))
    if options.write:
        page = PAGE.read_text()
        before, rest = page.split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        PAGE.write_text(f"{before}{MARKS[0]}\n\n" + "\n".join(lines) + f"\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
