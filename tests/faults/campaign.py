"""Every writer under fault: killed at system calls, on a disk that fills, interrupted. Prints a table.

    python tests/faults/campaign.py --times 100 --table docs/faults.md

Each try is a process of its own, forked from one that has everything loaded, with `fault.c` preloaded: it counts the
system calls that change a disk. A try is lost where what stands under the name afterwards is neither absent nor whole,
where the same command does not end with the same bytes, where another source's command ends with anything but its own,
or where any other file is left.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

import grown  # noqa: E402

COUNT, KILL, TEAR, FULL = 1, 2, 3, 4
TENSOR = "model.layers.1.mlp.down_proj.weight"
# How a try ends: as asked, with a sentence for the person, or with a traceback.
DONE, REFUSED, BROKEN, STOPPED = 0, 11, 12, 13


def compiled(folder: Path) -> Path | None:
    """The library to preload; None where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "fault.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "fault.c", "-ldl"]
    done = subprocess.run(command, capture_output=True, check=False)
    return library if done.returncode == 0 else None


@dataclass
class Writer:
    """A way to write: `write(source, to, progress)`, from sources `a` and `b`; `replaces` what is there already."""

    name: str
    write: Callable[[Any, Path, Any], Any]
    a: Any
    b: Any
    to: str = "to"
    replaces: bool = False
    # What stands at the name, where it is more than its bytes: None until it is whole. The work goes on inside it, and
    # another source is refused there.
    look: Callable[[Path], Any] | None = None


@dataclass
class Tally:
    """What became of the tries of one kind: how many, and what was lost, by what it was."""

    tried: int = 0
    lost: Counter = field(default_factory=Counter)

    @property
    def survived(self) -> int:
        return self.tried - sum(self.lost.values())


def writers(folder: Path) -> list[Writer]:
    """Every writer of the house, with two small sources each."""
    import torch
    from small import saved_llama
    from transformers import AutoModelForCausalLM, logging
    from transformers.utils.logging import disable_progress_bar

    from superweights.address import Address
    from superweights.artefacts.file import write_text
    from superweights.checkpoint import open_checkpoint
    from superweights.formats.compressed_tensors import write_compressed_tensors
    from superweights.formats.dense import write_dense
    from superweights.formats.gguf import write_gguf
    from superweights.formats.lora import write_gguf_adapter
    from superweights.formats.packed.writing import write_packed
    from superweights.pruning import Dropped, prune
    from superweights.quantization import Blocks, Scheme
    from superweights.quantization.adapter import write_adapter
    from superweights.quantization.peel import peel
    from superweights.quantization.plan import Plan
    from superweights.quantization.sidecar import SideCar, kept_weights
    from superweights.stream.linears import linear_tensors
    from tests.tiny_gguf import write_tiny

    logging.set_verbosity_error()
    disable_progress_bar()
    torch.set_num_threads(1)
    one = saved_llama(folder / "a", {TENSOR: {(5, 7): 4.0}})
    # The other differs in one weight, so that nothing but its bytes tells it apart.
    shutil.copytree(one, folder / "b")
    model = AutoModelForCausalLM.from_pretrained(one)
    model.get_parameter(TENSOR).data[5, 7] = 3.0
    model.save_pretrained(folder / "b")
    two = folder / "b"
    for seed, name in enumerate(("a.gguf", "b.gguf")):
        write_tiny(folder / name, "llama", "llama", seed=seed)
    keep = Address(TENSOR, (5, 7))
    symmetric = Scheme("int4", zero_point="none", blocks=Blocks("group", (32,)))

    def planned(write: Any, scheme: Any, *, gguf: bool = False, **how: Any) -> Any:
        def run(source: Path, to: Path, progress: Any) -> None:
            with open_checkpoint(source) as checkpoint:
                plan = Plan.uniform(linear_tensors(checkpoint), scheme, () if gguf else (keep,))
                write(checkpoint, plan, to, progress=progress, **how)

        return run

    def peeled(source: Path, to: Path, progress: Any) -> None:
        with open_checkpoint(source) as checkpoint:
            peel(checkpoint, [keep], to, shard_bytes=60_000, progress=progress)

    def pruned(source: Path, to: Path, progress: Any) -> None:
        with open_checkpoint(source) as checkpoint:
            prune(checkpoint, Dropped(mlp=(1,)), to, progress=progress, shard_bytes=100_000)

    side_cars = {}
    for value in (4.0, 3.0):
        weight = model.get_parameter(TENSOR).detach().clone()
        weight[5, 7] = value
        side_cars[value] = SideCar(kept_weights(TENSOR, weight, [(5, 7)]))
    bare = AutoModelForCausalLM.from_pretrained(one)
    bare.get_parameter(TENSOR).data[5, 7] = 0.0

    def adapted(side_car: Any, to: Path, progress: Any) -> None:
        write_adapter(bare, side_car, to)

    def gguf_adapted(value: float, to: Path, progress: Any) -> None:
        with open_checkpoint(folder / "a.gguf") as base:
            held = base.read(TENSOR).clone()
            held[5, 7] = value
            write_gguf_adapter(base, SideCar(kept_weights(TENSOR, held, [(5, 7)])), to)

    int4 = Scheme("int4", blocks=Blocks("group", (32,)))
    q8 = Scheme("int8", zero_point="none", blocks=Blocks("group", (32,)))
    return [
        Writer("packed", planned(write_packed, int4, shard_bytes=100_000), one, two),
        Writer("dense", planned(write_dense, int4, shard_bytes=100_000), one, two),
        Writer("compressed-tensors", planned(write_compressed_tensors, symmetric), one, two),
        Writer("gguf", planned(write_gguf, q8, gguf=True), folder / "a.gguf", folder / "b.gguf", "to.gguf"),
        Writer("prune", pruned, one, two),
        Writer("peel", peeled, one, two),
        Writer("attach (PEFT)", adapted, side_cars[4.0], side_cars[3.0]),
        Writer("attach (GGUF)", gguf_adapted, 7.0, 8.0, "to.gguf"),
        Writer(
            "record, page, plan",
            lambda text, to, _: write_text(to, text),
            "a" * 9000,
            "b" * 8000,
            "r.json",
            True,
        ),
        *(Writer(*row) for row in grown.writers(folder / "grown")),
    ]


class Campaign:
    """Tries of one writer, each in a folder of its own."""

    def __init__(self, writer: Writer, folder: Path, lib: Any):
        self.writer, self.folder, self.lib = writer, folder, lib
        self.place = folder / "place"
        self.tallies = {name: Tally() for name in ("kill", "torn write", "full disk", "interrupt")}
        self.sources = "ab" if writer.look is None else "a"
        self.wanted = {source: self._whole(source) for source in self.sources}
        self.calls = self._calls()

    def run(self, times: int) -> None:
        """All kinds of tries: `times` kills and torn writes, half of them at the last twenty calls."""
        for n in range(times):
            last = min(20, self.calls)
            at = 1 + n * self.calls // times if n % 2 else self.calls - n // 2 % last
            mode = (KILL, TEAR)[n // 2 % 2]
            self._kill(mode, at, self.sources[n // 4 % len(self.sources)])
        for n in range(max(4, times // 3)):
            self._fill(1 + n * self.calls // max(4, times // 3))
        steps = self._steps()
        for step in range(1, steps + 1, max(1, steps // max(3, times // 5))):
            self._interrupt(step)

    def _kill(self, mode: int, at: int, source: str) -> None:
        """Killed while it wrote from `a`, then begun again from `source`."""
        self._clean()
        self._forked("a", at, mode)
        tally = self.tallies["kill" if mode == KILL else "torn write"]
        tally.tried += 1
        if (found := self._found()) not in (self._before(), self.wanted["a"]):
            tally.lost["half-written" if found else "the old one is gone"] += 1
            return
        source = source if self.writer.replaces or found is None else "a"
        if self.writer.replaces or found is None:
            code = self._forked(source, 0, COUNT)
            if code != DONE:
                tally.lost[f"not begun again ({code})"] += 1
                return
            found = self._found()
        else:
            self._forked("a", 0, COUNT)  # refused, and clears what is left
        if found != self.wanted[source]:
            tally.lost["a mixture" if source == "b" else "other bytes"] += 1
        elif self._others():
            tally.lost["foreign files"] += 1

    def _fill(self, at: int) -> None:
        self._clean()
        code = self._forked("a", at, FULL)
        tally = self.tallies["full disk"]
        tally.tried += 1
        found = self._found()
        if code == BROKEN:
            tally.lost["a traceback"] += 1
        elif code not in (DONE, REFUSED):
            tally.lost[f"ended with {code}"] += 1
        elif found not in (self._before(), self.wanted["a"]):
            tally.lost["half-written"] += 1
        elif (found is None or self.writer.replaces) and not self._is_made("a"):
            tally.lost["not begun again"] += 1

    def _interrupt(self, step: int) -> None:
        self._clean()
        code = self._forked("a", 0, COUNT, stop_at=step)
        tally = self.tallies["interrupt"]
        tally.tried += 1
        if code != STOPPED or self._found() != self._before():
            tally.lost["something is there"] += 1
        elif not self._is_made(self.sources[-1]):
            tally.lost["another source is not begun"] += 1

    def _is_made(self, source: str) -> bool:
        """Whether an undisturbed run makes what it is to make, and leaves nothing else."""
        code = self._forked(source, 0, COUNT)
        return code == DONE and self._found() == self.wanted[source] and not self._others()

    def _whole(self, source: str) -> Any:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        assert self._forked(source, 0, COUNT) == DONE, f"{self.writer.name} does not even work undisturbed"
        return self._found()

    def _calls(self) -> int:
        """How many calls change the disk in one run that nothing disturbs."""
        self._clean()
        assert self._forked("a", 0, COUNT) == DONE
        return int((self.folder / "count").read_text())

    def _steps(self) -> int:
        """How often the writer tells of its progress."""
        self._clean()
        self._forked("a", 0, COUNT, stop_at=10**9)
        return int((self.folder / "steps").read_text())

    def _clean(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        if self.writer.replaces:
            (self.place / self.writer.to).write_text("old")

    def _before(self) -> Any:
        return {"": b"old"} if self.writer.replaces else None

    def _found(self) -> Any:
        """All bytes under the name, by file; None where nothing is."""
        to = self.place / self.writer.to
        if self.writer.look is not None:
            return self.writer.look(to)
        if not os.path.lexists(to):
            return None
        if to.is_file():
            return {"": to.read_bytes()}
        return {
            path.relative_to(to).as_posix(): path.read_bytes() for path in to.rglob("*") if path.is_file()
        }

    def _others(self) -> list[str]:
        beside = [path.name for path in self.place.iterdir() if path.name != self.writer.to]
        inside = [path.name for path in (self.place / self.writer.to).rglob("*")]
        return beside + [name for name in inside if name.startswith(".") or name == "checkpoints"]

    def _forked(self, source: str, at: int, mode: int, stop_at: int = 0) -> int:
        """How a process ended that wrote, with the fault at call `at`, or interrupted at step `stop_at`."""
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1,) if "FAULTS_LOUD" in os.environ else (1, 2):
            os.dup2(nowhere, stream)
        os._exit(self._in_child(source, at, mode, stop_at))

    def _in_child(self, source: str, at: int, mode: int, stop_at: int) -> int:
        from superweights.errors import SuperweightsError

        steps = 0

        def progress(*_: Any) -> None:
            nonlocal steps
            steps += 1
            if steps == stop_at:
                raise KeyboardInterrupt

        self.lib.fault_arm(at, mode)
        try:
            self.writer.write(getattr(self.writer, source), self.place / self.writer.to, progress)
            code = DONE
        except SuperweightsError as error:
            code = REFUSED
            print(error, file=sys.stderr)
        except KeyboardInterrupt:
            code = STOPPED
        except BaseException:  # noqa: BLE001 - told by the exit code
            self.lib.fault_arm(0, 0)
            traceback.print_exc()
            code = BROKEN
        count = self.lib.fault_count()
        self.lib.fault_arm(0, 0)
        (self.folder / "count").write_text(str(count))
        (self.folder / "steps").write_text(str(steps))
        return code


def _warm(writer: Writer, folder: Path) -> None:
    """Write once in this process, so that its children find everything imported."""
    folder.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        writer.write(writer.a, folder / writer.to, lambda *_: None)
    shutil.rmtree(folder)


def run_all(times: int, only: list[str], library: Path) -> list[tuple[str, str, Tally]]:
    """A row for each writer and kind of fault."""
    lib = ctypes.CDLL(str(library))
    lib.fault_arm.argtypes = (ctypes.c_long, ctypes.c_int)
    lib.fault_count.restype = ctypes.c_long
    rows = []
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        for number, writer in enumerate(writers(folder)):
            if only and writer.name not in only:
                continue
            (folder / str(number)).mkdir()
            _warm(writer, folder / str(number) / "warm")
            campaign = Campaign(writer, folder / str(number), lib)
            campaign.run(times)
            rows += [(writer.name, kind, tally) for kind, tally in campaign.tallies.items() if tally.tried]
            print(f"{writer.name}: {campaign.calls} calls", file=sys.stderr)
            print(*table(rows).splitlines()[-len(campaign.tallies) :], sep="\n", file=sys.stderr, flush=True)
    return rows


def table(rows: list[tuple[str, str, Tally]]) -> str:
    """The rows as Markdown."""
    lines = ["| writer | fault | tried | survived | lost |", "|---|---|--:|--:|---|"]
    for writer, kind, tally in rows:
        lost = ", ".join(f"{n} {what}" for what, n in tally.lost.items()) or "none"
        lines.append(f"| {writer} | {kind} | {tally.tried} | {tally.survived} | {lost} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=100, help="kills for each writer")
    parser.add_argument("--only", action="append", default=[], help="a writer; repeatable")
    parser.add_argument("--table", type=Path, help="put the table between the marks of this page")
    args = parser.parse_args()
    if "FAULTS_LIBRARY" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            library = compiled(Path(folder))
            if library is None:
                print("no C compiler, or no Linux: nothing was tried", file=sys.stderr)
                return 3
            loaded = {"LD_PRELOAD": str(library), "FAULTS_LIBRARY": str(library), "OMP_NUM_THREADS": "1"}
            return subprocess.run(
                [sys.executable, *sys.argv], env={**os.environ, **loaded}, check=False
            ).returncode
    rows = run_all(args.times, args.only, Path(os.environ["FAULTS_LIBRARY"]))
    print(table(rows))
    if args.table is not None:
        begin, end = "<!-- writers: begin -->", "<!-- writers: end -->"
        page = args.table.read_text(encoding="utf-8")
        before, rest = page.split(begin)
        args.table.write_text(f"{before}{begin}\n{table(rows)}\n{end}{rest.split(end)[1]}", encoding="utf-8")
    return 1 if any(tally.lost for _, _, tally in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
