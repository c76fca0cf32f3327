"""What a sweep is over: a model and how it is opened, the text, and the points of the grid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.errors import SuperweightsError
from superweights.stream import streaming
from superweights.stream.device import choose_dtype
from superweights.sweeps.cell import Cell, Cut
from superweights.sweeps.measure import Bench
from superweights.sweeps.plans import BASE, Point
from superweights.text import Text, embedded_prose, raw_prompts, windows


@dataclass(frozen=True)
class Source:
    """A checkpoint's name (None: the embedded model) and how each worker opens it.

    `resident` as in `streaming`: None keeps the model in memory where it fits.
    """

    name: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    allow_pickle: bool = False
    trust_remote_code: bool = False
    resident: bool | None = None

    def open(self) -> Checkpoint:
        """The checkpoint, open."""
        return open_checkpoint(
            self.name, allow_pickle=self.allow_pickle, trust_remote_code=self.trust_remote_code
        )


@dataclass(frozen=True)
class Reading:
    """The text (None: prose that Python brings along) and how it is cut into windows."""

    text: Text | None = None
    length: int = 512
    count: int = 24
    bos: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """What a worker needs to know of a model: how to open it, `windows [n, length]`, and the cells' keys.

    `nbytes` is what the weights take in memory.
    """

    source: Source
    name: str
    fingerprint: str
    windows: np.ndarray
    keys: tuple[str, ...]
    compared: bool
    nbytes: int

    @contextmanager
    def opened(self) -> Iterator[Bench]:
        """The model on the bench. Raises `SuperweightsError` where the name stands for another checkpoint now."""
        with self.source.open() as checkpoint:
            if checkpoint.fingerprint() != self.fingerprint:
                raise SuperweightsError(
                    f"{self.name} is not the checkpoint that this sweep was planned with "
                    f"(fingerprint {checkpoint.fingerprint()[:12]}, not {self.fingerprint[:12]}).",
                    hint="give every worker the same files, or start again.",
                )
            loading = {"dtype": self.source.dtype, "device": self.source.device}
            with streaming(checkpoint, resident=self.source.resident, **loading) as model:
                yield Bench(model, torch.from_numpy(self.windows))


@dataclass(frozen=True, eq=False)
class Setup:
    """One model's part of a sweep: its points, the cell of each, and the task of its workers.

    `notes` are sentences that the reader of the results should see.
    """

    task: Task
    cut: Cut
    points: tuple[Point, ...]
    cells: tuple[Cell, ...]
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
    with source.open() as checkpoint:
        ids, cut, notes = _cut(checkpoint, reading, token_ids, seed)
        points = (BASE, *(plan(checkpoint) if callable(plan) else plan))
        dtype = choose_dtype(checkpoint, source.dtype)
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
    text, notes = None, ()
    if ids is None and tokenizer is not None:
        text = reading.text or embedded_prose()
        ids = windows(tokenizer, text, reading.length, reading.count, bos=reading.bos)
    elif ids is None:
        vocabulary = checkpoint.model_config().get_text_config().vocab_size
        ids = raw_prompts(vocabulary, reading.count, reading.length, seed)
        notes = ("no tokenizer: scored on random token ids.",)
    ids = ids.cpu().contiguous()
    digest = hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()
    bos = reading.bos and text is not None
    return ids, Cut(digest, ids.shape[1], ids.shape[0], bos, text.sha256 if text else None), notes
