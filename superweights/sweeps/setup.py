"""What a sweep is over: a model and how it is opened, the text, and the points of the grid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.errors import SuperweightsError
from superweights.jobs.kind import Kind
from superweights.stream import streaming
from superweights.stream.device import available_memory, choose_device, choose_dtype
from superweights.subject import Reading, Source, resolve_bos
from superweights.sweeps.cell import SWEEP, Cell, Cut, Numbers
from superweights.sweeps.measure import Bench
from superweights.sweeps.plans import BASE, Point


@dataclass(frozen=True, eq=False)
class Task:
    """What a worker needs to know of a model: how to open it, `windows [n, length]`, and the cells' keys.

    `nbytes` is what the weights take in memory.
    """

    source: Source
    """The model, and how it is opened."""
    name: str
    """What the reader calls it."""
    fingerprint: str
    """What it must still be when a worker opens it."""
    windows: np.ndarray
    """Token ids `[n, length]`."""
    keys: tuple[str, ...]
    """The hashes of its cells."""
    compared: bool
    """Whether KL and agreement are asked for too."""
    nbytes: int

    @property
    def kind(self) -> Kind:
        """Cells in, numbers out."""
        return SWEEP

    def shared(self, workers: int) -> Task:
        """The task with its model in memory only where `workers` of them fit into half of what is free."""
        if self.source.resident is not None:
            return self
        free = available_memory(choose_device(self.source.device))
        return replace(self, source=replace(self.source, resident=self.nbytes * workers < free // 2))

    @contextmanager
    def opened(self) -> Iterator[Measuring]:
        """The model on the bench. Raises `SuperweightsError` where the name stands for another checkpoint now."""
        with open_checkpoint(self.source.name, **self.source.trust) as checkpoint:
            if checkpoint.fingerprint() != self.fingerprint:
                raise SuperweightsError(
                    f"{self.name} is not the checkpoint that this sweep was planned with "
                    f"(fingerprint {checkpoint.fingerprint()[:12]}, not {self.fingerprint[:12]}).",
                    hint="give every worker the same files, or start again.",
                )
            with streaming(checkpoint, **self.source.loading) as model:
                yield Measuring(Bench(model, torch.from_numpy(self.windows)), self.compared)


@dataclass(frozen=True, eq=False)
class Measuring:
    """A worker of sweeps: it measures cells on a bench."""

    bench: Bench
    """The open model and its windows."""
    compared: bool
    """Whether KL and agreement are asked for too."""

    @property
    def together(self) -> int:
        """How many cells fit beside each other."""
        return self.bench.together

    def do(self, payloads: Sequence[Cell]) -> list[Numbers | SuperweightsError]:
        """What each cell scores, or why it cannot be made."""
        return self.bench.measure([cell.edits for cell in payloads], self.compared)


@dataclass(frozen=True, eq=False)
class Setup:
    """One model's part of a sweep: its points, the cell of each, and the task of its workers.

    `notes` are sentences that the reader of the results should see.
    """

    task: Task
    """What its workers open and measure."""
    cut: Cut
    """Which windows all cells are scored on."""
    points: tuple[Point, ...]
    """The points of the grid, in the order of the plan."""
    cells: tuple[Cell, ...]
    """The cell of each point."""
    notes: tuple[str, ...] = ()


def prepare(
    source: Source | str | None,
    plan: Sequence[Point] | Callable[[Checkpoint], Sequence[Point]],
    reading: Reading | None = None,
    *,
    scores: Sequence[str] = ("loss",),
    seed: int = 0,
    token_ids: torch.Tensor | None = None,
) -> Setup:
    """A model's part of a sweep over the points of `plan`, the model as it is before them.

    `plan` may be a function of the open checkpoint, for grids that depend on its weights. `token_ids
    [n, length]` replace the text. `scores` beside the loss: `kl` and `agreement`, against the model as it is.
    A checkpoint without a tokenizer is scored on random token ids, and a note says so.
    """
    source = source if isinstance(source, Source) else Source(source)
    reading = reading or Reading()
    with open_checkpoint(source.name, **source.trust) as checkpoint:
        ids, cut, notes = _cut(checkpoint, reading, token_ids, seed)
        points = (BASE, *(plan(checkpoint) if callable(plan) else plan))
        dtype = choose_dtype(checkpoint, source.dtype, choose_device(source.device))
        fingerprint = checkpoint.fingerprint()
        nbytes = sum(info.size for info in checkpoint.tensors.values()) * dtype.itemsize
        name = checkpoint.name
    kind = str(dtype).removeprefix("torch.")
    cells = tuple(Cell(fingerprint, point.edits, cut, tuple(scores), kind, seed) for point in points)
    keys = tuple(dict.fromkeys(cell.key for cell in cells))
    compared = len(cells[0].scores) > 1
    task = Task(source, name, fingerprint, ids.numpy(), keys, compared, nbytes)
    return Setup(task, cut, points, cells, notes)


def _cut(
    checkpoint: Checkpoint, reading: Reading, ids: torch.Tensor | None, seed: int
) -> tuple[torch.Tensor, Cut, tuple[str, ...]]:
    """The windows of a text, or the ids given, with what tells them from others."""
    tokenizer = checkpoint.tokenizer() if ids is None else None
    text, bos, notes = None, False, ()
    if ids is None and tokenizer is not None:
        text, bos, ids = reading.read(), resolve_bos(tokenizer, reading.bos), reading.cut(tokenizer)
    elif ids is None:
        ids = reading.tokens_of(checkpoint, seed)
        notes = ("no tokenizer: scored on random token ids.",)
    ids = ids.cpu().contiguous()
    digest = hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()
    return ids, Cut(digest, ids.shape[1], ids.shape[0], bos, text.sha256 if text else None), notes
