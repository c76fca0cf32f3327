"""The loss of many edited versions of a model on the same windows, in one pass over its weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.branch import Branch, Branching, branching
from superweights.editing import Edit
from superweights.progress import Progress
from superweights.scoring.loss import batches
from superweights.scoring.predictions import PIECE_BYTES
from superweights.subject import check_windows, device_of, vocabulary_of


def losses_of(
    model: nn.Module,
    windows: Tensor,
    versions: Sequence[Sequence[Edit]],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The mean loss of each window under each version's edits: `[1 + versions, n]`, nats per token, float64.

    Row 0 is the model itself. `windows [n, length]` are scored from position 1 on, as `score.loss_per_window`
    does; what is the same before a version's first edit is computed once. At most 32 MiB of logits stand in
    memory at a time (a window's, where the model's blocks do not form a chain).
    """
    check_windows(model, windows)
    windows = windows.to(device_of(model))
    found = []
    with branching(model, [Branch(tuple(edits)) for edits in versions]) as run:
        for batch in batches(model, windows, batch_size, progress):
            run.pass_over(batch)
            for row in range(len(batch)):
                found.append(
                    torch.stack([_loss(run, branch, row, batch) for branch in (None, *run.branches)])
                )
    return torch.stack(found, dim=1)


def _loss(run: Branching, branch: Branch | None, row: int, batch: Tensor) -> Tensor:
    """The mean loss of one row, its logits made piece by piece."""
    targets, last = batch[row, 1:], batch.shape[1] - 1
    alone = run.broken_at is not None or (branch is not None and branch.apart)
    step = last if alone else max(1, PIECE_BYTES // (4 * vocabulary_of(run.model)))
    losses = []
    for start in range(0, last, step):
        piece = slice(start, min(start + step, last))
        logits = run.logits(branch, slice(row, row + 1), piece)[0].float()
        losses.append(functional.cross_entropy(logits, targets[piece], reduction="none"))
    return torch.cat(losses).double().mean().cpu()
