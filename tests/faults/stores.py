"""One store shared by many processes: opened together, its workers preempted and killed. Prints a table.

    python tests/faults/stores.py --times 60 --table docs/faults.md

Changed stores are counted in `mutations.py`. Nothing here needs torch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent)]

from superweights.address import Address  # noqa: E402
from superweights.editing import zero  # noqa: E402
from superweights.errors import SuperweightsError  # noqa: E402
from superweights.jobs.work import work  # noqa: E402
from superweights.sweeps import Cell, Cut, Numbers, Store  # noqa: E402
from superweights.sweeps.cell import SWEEP  # noqa: E402

MODELS = {"f" * 32: "a model"}
CELLS = [Cell("f" * 32, zero(Address("t", (i,))), Cut("a" * 64, 32, 8)) for i in range(24)]
KEYS = [cell.key for cell in CELLS]
_TOGETHER = 4  # processes that share a store


def wanted(cell: Cell) -> Numbers:
    """The numbers of a cell, which follow from its key alone."""
    return Numbers((float(int(cell.key[:6], 16)), 0.5))


class Slow:
    """A task whose cells take a few milliseconds each, so that a signal finds it at work."""

    fingerprint, name, keys, kind = "f" * 32, "a model", KEYS, SWEEP
    together = 3

    def opened(self) -> Slow:
        return self

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def do(self, cells: list[Cell]) -> list[Numbers]:
        time.sleep(0.01)
        return [wanted(cell) for cell in cells]


def _open(path: Path, barrier: Any, answers: Any) -> None:
    barrier.wait()
    try:
        with Store(path, MODELS, SWEEP) as store:
            store.add(CELLS)
        answers.put("")
    except SuperweightsError as error:
        answers.put(error.message)


def _work(path: Path) -> None:
    try:
        work(path, [Slow()])  # type: ignore[list-item]
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGTERM)


def starts(folder: Path, times: int) -> tuple[int, int]:
    """How many starts there were, in new stores that several processes open at once, and how many were refused."""
    context = multiprocessing.get_context("fork")
    refused = 0
    for number in range(-(-times // _TOGETHER)):
        barrier, answers = context.Barrier(_TOGETHER), context.Queue()
        path = folder / f"start{number}.sqlite"
        crew = [context.Process(target=_open, args=(path, barrier, answers)) for _ in range(_TOGETHER)]
        for process in crew:
            process.start()
        refused += sum(bool(answers.get(timeout=60)) for _ in crew)
        for process in crew:
            process.join()
    return -(-times // _TOGETHER) * _TOGETHER, refused


def ended(folder: Path, times: int, how: signal.Signals, seed: int) -> tuple[int, int]:
    """How many workers were ended by the signal, and after how many of them an undisturbed worker did not find or
    make every number as it is to be.

    Up to four workers are ended in a row during the same cells, more than the deaths after which a cell counts as
    one that kills (SIGKILL: two, which is fewer).
    """
    context, draw = multiprocessing.get_context("fork"), random.Random(seed)
    in_a_row = 4 if how == signal.SIGTERM else 2
    tried = lost = 0
    while tried < times:
        path = folder / f"{how.name}{tried}.sqlite"
        with Store(path, MODELS, SWEEP) as store:
            store.add(CELLS)
        for _ in range(in_a_row):
            process = context.Process(target=_work, args=(path,))
            process.start()
            time.sleep(draw.uniform(0.02, 0.12))
            if process.pid is not None:
                os.kill(process.pid, how)
            process.join()
            tried += 1
        work(path, [Slow()])  # type: ignore[list-item]
        with Store(path, MODELS, SWEEP) as store:
            held = store.read(KEYS)
        whole = all(held[cell.key].result == wanted(cell) for cell in CELLS)
        lost += 0 if whole and list(path.parent.glob(f"{path.name}*")) == [path] else 1
    return tried, lost


def rows(times: int, seed: int = 0) -> list[tuple[str, int, int]]:
    """What was done, how often, and how often something was lost."""
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        return [
            (f"opened new by {_TOGETHER} processes at once", *starts(folder, times)),
            ("worker preempted (SIGTERM)", *ended(folder, times, signal.SIGTERM, seed)),
            ("worker killed (SIGKILL)", *ended(folder, times, signal.SIGKILL, seed)),
        ]


def table(found: list[tuple[str, int, int]]) -> str:
    """The rows as Markdown."""
    lines = ["| store | tried | survived | lost |", "|---|--:|--:|--:|"]
    return "\n".join(
        [*lines, *(f"| {what} | {tried} | {tried - lost} | {lost} |" for what, tried, lost in found)]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="put the table between the marks of this page")
    args = parser.parse_args()
    found = rows(args.times, args.seed)
    print(table(found))
    if args.table is not None:
        begin, end = "<!-- stores: begin -->", "<!-- stores: end -->"
        page = args.table.read_text(encoding="utf-8")
        before, rest = page.split(begin)
        args.table.write_text(f"{before}{begin}\n{table(found)}\n{end}{rest.split(end)[1]}", encoding="utf-8")
    return 1 if any(lost for _, _, lost in found) else 0


if __name__ == "__main__":
    sys.exit(main())
