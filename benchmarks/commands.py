"""Time and peak memory of each command on the embedded model, beside another version of this project.

    python benchmarks/commands.py --against CHECKOUT [--only WORD] [--rounds N] [--text FILE --lambada FILE] [--write]

CHECKOUT is a folder with the source of the release to compare with (`git worktree add --detach DIR COMMIT`); both run
with this interpreter and its libraries, in turns, each command in a process of its own: its CPU seconds (user and
system, children included) and its largest resident memory. `--text` and `--lambada` are what `reproduce table1` reads.
What is done is kept in `--kept FILE`, a line for each run, and not run again; the least of a command's `--rounds`
counts (what the allocator happens to hold moves a peak by hundreds of MiB). One thread: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "costs.md"
MARKS = "<!-- commands: begin -->", "<!-- commands: end -->"
WEIGHT = "model.layers.11.mlp.down_proj.weight[507, 1229]"
VERSIONS = ("before", "now")
COMMANDS = {
    "`--help`": "--help",
    "`known embedded`": "known embedded",
    "`scan --top 5`": "scan --top 5",
    "`score embedded`": "score embedded",
    "`ablate embedded WEIGHT`": f"ablate embedded '{WEIGHT}'",
    "`scale embedded WEIGHT`": f"scale embedded '{WEIGHT}' --factor 0 --factor 2",
    "`find`": "find",
    "`anatomy kurtosis`": "anatomy kurtosis",
    "`anatomy massive`": "anatomy massive",
    "`anatomy depth --causal`": "anatomy depth --causal",
    "`quantize embedded --to DIR`": "quantize embedded --to quantized",
    "`audit DIR --against embedded`": "audit quantized --against embedded",
    "`peel embedded --to DIR`": "peel embedded --to peeled",
    "`recipe embedded`": "recipe embedded",
    "`prune embedded`, four attentions": "prune embedded --what attention --drop 4 --to pruned",
    "`sweep embedded --grid scale`": f"sweep embedded --grid scale --weights '{WEIGHT}' --windows 4 --out sweep.jsonl",
    "`plan embedded --bits 4.25`": "plan embedded --bits 4.25 --save plan.json",
    "`reproduce table1`": "reproduce table1 --text {text} --windows 8 --lambada {lambada} --limit 200",
    "`activations embedded`": "activations embedded",
    "`report --output FILE`": "report --output page.html",
}


@dataclass(frozen=True)
class Cost:
    """What one run of one command took."""

    command: str
    """Its label in the table."""
    version: str
    """`before` or `now`."""
    seconds: float
    """CPU seconds of the process and its children."""
    memory: int
    """Largest resident memory, bytes."""
    printed: str
    """What it printed: the last 4,000 characters."""
    code: int
    """Its exit code."""


# By command and version.
Costs = dict[tuple[str, str], list[Cost]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, required=True, help="source of the other version")
    parser.add_argument("--only", default="", help="commands with this word")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--lambada", type=Path)
    parser.add_argument("--kept", type=Path, default=Path("build/commands.jsonl"))
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    asked = parser.parse_args()
    asked.kept.parent.mkdir(parents=True, exist_ok=True)
    costs = _kept(asked.kept)
    for cost in _missing(asked, costs):
        costs.setdefault((cost.command, cost.version), []).append(cost)
        with asked.kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(cost)) + "\n")
        print(
            f"{cost.command} {cost.version}: {cost.seconds:.1f} s, {cost.memory / 2**20:,.0f} MiB", flush=True
        )
    table = "\n".join(_table(costs))
    print(table)
    if asked.write:
        page = PAGE.read_text(encoding="utf-8")
        head, tail = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
        PAGE.write_text(f"{head}{MARKS[0]}\n{table}\n{MARKS[1]}{tail}", encoding="utf-8")


def _kept(file: Path) -> Costs:
    costs: Costs = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        cost = Cost(**json.loads(line))
        costs.setdefault((cost.command, cost.version), []).append(cost)
    return costs


def _missing(asked: argparse.Namespace, done: Costs) -> Iterator[Cost]:
    """The runs that are asked for and not kept yet, in turns of both versions."""
    sources = dict(zip(VERSIONS, (asked.against.resolve(), ROOT), strict=True))
    with tempfile.TemporaryDirectory() as made:
        for turn, (label, line) in itertools.product(range(asked.rounds), COMMANDS.items()):
            if asked.only not in label or ("{text}" in line and not (asked.text and asked.lambada)):
                continue
            files = {
                "text": asked.text and asked.text.resolve(),
                "lambada": asked.lambada and asked.lambada.resolve(),
            }
            words = shlex.split(line.format(**files))
            for version, source in sources.items():
                folder = Path(made) / f"{version} {turn}"
                folder.mkdir(exist_ok=True)
                if len(done.get((label, version), ())) <= turn:
                    yield _run(label, version, words, source, folder)


def _run(label: str, version: str, words: list[str], source: Path, folder: Path) -> Cost:
    with tempfile.TemporaryFile() as shown:
        process = subprocess.Popen(
            [sys.executable, "-m", "superweights", *words],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(source)}, stdout=shown, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        shown.seek(0)
        printed = shown.read().decode(errors="replace")[-4000:]
    seconds = used.ru_utime + used.ru_stime
    return Cost(label, version, seconds, used.ru_maxrss * 1024, printed, process.returncode)


def _table(costs: Costs) -> Iterator[str]:
    yield "| command | CPU seconds before | now | ratio | peak MiB before | now | ratio |"
    yield "|---|---|---|---|---|---|---|"
    for label in COMMANDS:
        runs = [[run for run in costs.get((label, version), ()) if not run.code] for version in VERSIONS]
        if not runs[1]:
            continue
        seconds = [min((run.seconds for run in each), default=None) for each in runs]
        memory = [min((run.memory / 2**20 for run in each), default=None) for each in runs]
        yield f"| {label} | {' | '.join((*_cells(seconds, '.1f'), *_cells(memory, ',.0f')))} |"


def _cells(pair: list[float | None], form: str) -> list[str]:
    """Before, now and their ratio."""
    before, now = pair
    if before is None or now is None:
        return ["n/a", format(now, form), "n/a"]
    return [format(before, form), format(now, form), f"{now / before:.2f}"]


if __name__ == "__main__":
    main()
