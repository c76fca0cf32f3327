"""What manifest, hashes and waiting for the disk cost in a job: the seconds spent in them, beside the whole job's.

    python benchmarks/guards.py                       every job, on the embedded model
    python benchmarks/guards.py --only gguf --times 9

`writing.py` compares two trees, between which much else has changed, and wall time, which needs a quiet machine. Here
the functions that are nothing but guard are timed where they are called: own seconds are those of their thread on the
processor, waited ones those that the job's own thread spends in them (a shard is hashed while the next is fitted).
Ratios are the job's time over its time without them, medians over the runs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import superweights.artefacts.growing as growing_room
from superweights.address import Address
from superweights.artefacts.folder import Draft
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.quantization import Blocks, Scheme
from superweights.quantization.plan import Plan
from superweights.stream.linears import linear_tensors

Job = Callable[[Path], Any]
# The guards, by the room that calls them: nothing of the artefact itself is made in them.
_GUARDS = {
    "superweights.artefacts.folder": (
        *("hashed", "settle", "settle_folder", "clear_dead", "refuse_company", "claimed", "check_new"),
        "is_worth_keeping",
    ),
    "superweights.artefacts.file": (
        *("settle", "settle_folder", "clear_dead", "_claimed", "check_new", "check_replaceable"),
    ),
    "superweights.artefacts.growing": (
        *("settle_folder", "clear_dead", "claimed", "refuse_company", "check_new", "_line"),
    ),
    "os": ("fsync",),
    "superweights.checkpoint.opening": ("verify",),
    "superweights.formats.packed.config": ("verify",),
    "superweights.pruning.config": ("verify",),
    "superweights.quantization.peel": ("verify",),
}


class Clock:
    """Seconds in guards: `own` on the processor, in every thread; `waited` by the clock, in the main thread."""

    def __init__(self) -> None:
        self.own = self.waited = 0.0
        self._inside = threading.local()

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time counted unless it is called inside another guard."""

        @functools.wraps(function)
        def through(*given: Any, **named: Any) -> Any:
            if getattr(self._inside, "yes", False):
                return function(*given, **named)
            self._inside.yes = True
            wall, own = time.perf_counter(), time.thread_time()
            try:
                return function(*given, **named)
            finally:
                self._inside.yes = False
                self.own += time.thread_time() - own
                if threading.current_thread() is threading.main_thread():
                    self.waited += time.perf_counter() - wall

        return through


@contextlib.contextmanager
def clocked() -> Iterator[Clock]:
    """A clock of the guards that are called in the body."""
    clock = Clock()
    held: list[tuple[Any, str, Any]] = [
        *((importlib.import_module(room), name, None) for room, names in _GUARDS.items() for name in names),
        *((Draft, name, None) for name in ("complete", "wait", "_tell")),
        (growing_room, "hashlib", _Digests(clock)),
    ]
    before = [(room, name, getattr(room, name)) for room, name, _ in held]
    for (room, name, was), (_, _, given) in zip(before, held, strict=True):
        setattr(room, name, given or clock.timed(was))
    try:
        yield clock
    finally:
        for room, name, was in before:
            setattr(room, name, was)


class _Digests:
    """hashlib, as far as a growing file uses it, with its time counted."""

    def __init__(self, clock: Clock):
        self._clock, self._real = clock, growing_room.hashlib.sha256

    def sha256(self) -> Any:
        """A hash whose `update` is timed."""
        digest, timed = self._real(), self._clock.timed

        class Timed:
            update = staticmethod(timed(digest.update))
            hexdigest = staticmethod(digest.hexdigest)

        return Timed


def jobs(source: str, held: Path) -> dict[str, Callable[[], Job]]:
    """What is measured, by name; each is made ready before it is measured, and given a new folder each time."""
    from superweights.formats.compressed_tensors import write_compressed_tensors
    from superweights.formats.dense import write_dense
    from superweights.formats.gguf import write_gguf
    from superweights.formats.packed.writing import write_packed
    from superweights.pruning import Dropped, prune
    from superweights.quantization.peel import peel
    from superweights.verbs.attach import attach

    int4 = Scheme("int4", blocks=Blocks("group", (64,)), fit="centred")
    flat = Scheme("int4", zero_point="none", blocks=Blocks("group", (64,)))
    q8 = Scheme("int8", zero_point="none", blocks=Blocks("group", (32,)))

    def planned(write: Any, scheme: Scheme) -> Callable[[], Job]:
        def job(to: Path) -> None:
            with open_checkpoint(source) as checkpoint:
                write(checkpoint, Plan.uniform(linear_tensors(checkpoint), scheme), to / "to.gguf")

        return lambda: job

    def first(checkpoint: Any) -> Address:
        return Address(next(name for name in linear_tensors(checkpoint) if "down_proj" in name), (0, 0))

    def peeled(to: Path) -> None:
        with open_checkpoint(source) as checkpoint:
            peel(checkpoint, [first(checkpoint)], to / "to")

    def pruned(to: Path) -> None:
        with open_checkpoint(source) as checkpoint:
            prune(checkpoint, Dropped(mlp=(1,)), to / "to")

    def attached() -> Job:
        with open_checkpoint(source) as checkpoint:
            peel(checkpoint, [first(checkpoint)], held / "peeled")
        base = written(write_compressed_tensors, "base", flat)
        return lambda to: attach(str(base), held / "peeled", to / "to")

    def written(write: Any, name: str, scheme: Scheme) -> Path:
        with open_checkpoint(source) as checkpoint:
            if not (held / name).exists():
                write(checkpoint, Plan.uniform(linear_tensors(checkpoint), scheme), held / name)
        return held / name

    def opened() -> Job:
        place = written(write_dense, "dense", int4)

        def job(_: Path) -> None:
            with open_checkpoint(place) as checkpoint:
                for name in checkpoint.tensors:
                    checkpoint.read(name).sum()

        return job

    def loaded() -> Job:
        from transformers import AutoModelForCausalLM

        place = written(write_packed, "packed", int4)
        return lambda _: AutoModelForCausalLM.from_pretrained(place)

    def command(*words: str) -> Callable[[], Job]:
        def job(to: Path) -> None:
            assert run([*words, "--out", str(to / "out.json")]) == 0

        return lambda: job

    return {
        "packed": planned(write_packed, int4),
        "dense": planned(write_dense, int4),
        "compressed-tensors": planned(write_compressed_tensors, flat),
        "gguf": planned(write_gguf, q8),
        "peel": lambda: peeled,
        "prune": lambda: pruned,
        "attach (PEFT)": attached,
        "record (score --out)": command("score", source, "--windows", "1", "--window", "64"),
        "page (report of a record)": lambda: _page(held, source),
        "reading: open, every tensor": opened,
        "reading: packed, from_pretrained": loaded,
    }


def _page(held: Path, source: str) -> Job:
    record = held / "record.json"
    assert run(["score", source, "--windows", "1", "--window", "64", "--out", str(record)]) == 0

    def job(to: Path) -> None:
        assert run(["report", str(record), "--output", str(to / "page.html")]) == 0

    return job


@dataclass(frozen=True)
class Seconds:
    """Of one job: by the clock and on the processor, all of it and in guards alone."""

    wall: float
    own: float
    guards_wall: float
    guards_own: float


def measured(job: Job) -> Seconds:
    """The seconds of one job in a new folder."""
    with tempfile.TemporaryDirectory() as folder, clocked() as clock:
        wall, own = time.perf_counter(), time.process_time()
        job(Path(folder))
        wall, own = time.perf_counter() - wall, time.process_time() - own
        return Seconds(wall, own, clock.waited, clock.own)


def row(name: str, job: Job, times: int) -> str:
    """A row of the table: the job done `times` times, after once that is not counted."""
    measured(job)
    found = [measured(job) for _ in range(times)]
    median = lambda values: statistics.median(list(values))  # noqa: E731
    own = median(each.own for each in found)
    guards = 1000 * median(each.guards_own for each in found)
    waited = 1000 * median(each.guards_wall for each in found)
    of_own = median(each.own / (each.own - each.guards_own) for each in found)
    of_wall = median(each.wall / (each.wall - each.guards_wall) for each in found)
    return f"| {name} | {own:.3f} | {guards:.1f} | {of_own:.3f} | {waited:.1f} | {of_wall:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| job | own, s | of it guards, ms | own, ratio | waited for guards, ms | wall, ratio |")
    print("|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, made in jobs(args.model, Path(folder)).items():
            if not args.only or any(word in name for word in args.only):
                with contextlib.redirect_stdout(sys.stderr):  # what commands print
                    told = row(name, made(), args.times)
                print(told, flush=True)


if __name__ == "__main__":
    main()
