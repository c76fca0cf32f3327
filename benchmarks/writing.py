"""What a manifest, hashes and waiting for the disk cost: this tree against another, in turns, in one run.

    python benchmarks/writing.py --before PATH_TO_AN_OLDER_TREE

Each measurement is a process of its own; ratios are of medians of the process's own time and of wall time. Without
--before only this tree is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent.parent
CODE = """
import os, sys
tree = os.environ["PYTHONPATH"]
sys.path_hooks[:] = [hook for hook in sys.path_hooks if "__editable__" not in repr(hook)]
sys.path[:] = [part for part in sys.path if "__editable__" not in part]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import json, time
from pathlib import Path
import torch
import superweights
assert superweights.__file__.startswith(tree), superweights.__file__
from importlib import import_module
from importlib.util import find_spec
from superweights.checkpoint import open_checkpoint
# The room was called by its verb before.
room = "superweights.quantization" if find_spec("superweights.quantization") else "superweights.quantize"
Blocks, Scheme = import_module(room).Blocks, import_module(room).Scheme
Plan, peel = import_module(room + ".plan").Plan, import_module(room + ".peel").peel
from superweights.stream.linears import linear_tensors

torch.set_num_threads(1)
what, source, folder = sys.argv[1:]
to = Path(folder) / what
if what == "load":
    from transformers import AutoModelForCausalLM
    AutoModelForCausalLM.from_pretrained(source)  # once for what it imports
    wall, own = time.perf_counter(), time.process_time()
    AutoModelForCausalLM.from_pretrained(source)
elif what == "open":
    wall, own = time.perf_counter(), time.process_time()
    with open_checkpoint(source) as checkpoint:
        for name in checkpoint.tensors:
            checkpoint.read(name).sum()
else:
  with open_checkpoint(source) as checkpoint:
    plan = Plan.uniform(linear_tensors(checkpoint), Scheme("int4", blocks=Blocks("group", (64,)), fit="centred"))
    wall, own = time.perf_counter(), time.process_time()
    if what == "packed":
        from superweights.formats.packed.writing import write_packed
        write_packed(checkpoint, plan, to)
    elif what == "dense":
        from superweights.formats.dense import write_dense
        write_dense(checkpoint, plan, to)
    else:
        from superweights.address import Address
        peel(checkpoint, [Address(next(iter(plan.schemes)), (0, 0))], to)
print(json.dumps([time.perf_counter() - wall, time.process_time() - own]))
"""


def measured(tree: Path, what: str, source: str) -> tuple[float, float]:
    """Wall and own seconds of one job in one tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CODE, what, source, folder]
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=True
        )
    wall, own = json.loads(done.stdout.splitlines()[-1])
    return wall, own


def written(tree: Path, form: str, source: str, to: Path) -> str:
    """A folder that this tree has written, for what reads one."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    subprocess.run(
        [sys.executable, "-c", CODE, form, source, str(to)], env=environment, check=True, capture_output=True
    )
    return str(to / form)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", action="append", default=[])
    args = parser.parse_args()
    trees = [HERE, *([args.before.resolve()] if args.before else [])]
    print("| job | wall, s | own, s | wall, of before | own, of before |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for what in args.only or ("packed", "dense", "peel", "open", "load"):
            read = what in ("open", "load")
            form = "dense" if what == "open" else "packed"
            # Each tree reads what it has written itself: the older one writes no manifest.
            sources = [
                written(t, form, args.model, Path(folder, f"{what}{n}")) if read else args.model
                for n, t in enumerate(trees)
            ]
            found: list[list[tuple[float, float]]] = [[] for _ in trees]
            for _ in range(args.times):
                for tree, source, times in zip(trees, sources, found, strict=True):
                    times.append(measured(tree, what, source))
            medians = [[statistics.median(column) for column in zip(*times, strict=True)] for times in found]
            ratios = (
                [f"{now / then:.3f}" for now, then in zip(*medians, strict=True)]
                if len(trees) == 2
                else ["", ""]
            )
            print(
                f"| {what} | {medians[0][0]:.2f} | {medians[0][1]:.2f} | {' | '.join(ratios)} |", flush=True
            )


if __name__ == "__main__":
    main()
