"""Proof by intervention: what the model loses without a weight, beside weights that should not matter."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from superweights.address import Address
from superweights.branch import Branch, Branching
from superweights.checkpoint import Checkpoint
from superweights.discovery.spikes import Spike
from superweights.editing import Edit
from superweights.record import LARGEST, RANDOM_COLUMN, RANDOM_ROW, RANDOM_TENSOR, Control, Score
from superweights.stream import give_back_memory
from superweights.subject.facts import vocabulary_by_config


class Suspect(Protocol):
    """What the controls need to know of a candidate."""

    address: Address
    spike: Spike


class Sampling(Protocol):
    """How many controls, and from which seed."""

    @property
    def controls(self) -> int: ...

    @property
    def seed(self) -> int: ...


# How many bytes of logits are held at a time.
_LOGIT_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Effect:
    """What a branch changes, per row of the batch: loss rise and KL divergence, both in nats per token `[rows]`."""

    loss: Tensor
    kl: Tensor | None


def measure(
    run: Branching, branches: Sequence[Branch], ids: Tensor, loss_only: Collection[Branch] = ()
) -> tuple[Tensor, list[Effect]]:
    """The model's own loss per row, and each branch's effect, on the batch that `run` has passed over.

    The loss is over positions 1 to the end; KL(model || branch) over the same predictions, left out (None)
    for `loss_only` branches.
    """
    step = max(1, _LOGIT_BYTES // (ids.shape[1] * _vocabulary(run) * 4))
    base_loss, losses, kls = [], [[] for _ in branches], [[] for _ in branches]
    for start in range(0, ids.shape[0], step):
        rows = slice(start, start + step)
        base = _log_probabilities(run.logits(None, rows))
        own = _loss(base, ids[rows])
        base_loss.append(own)
        weights = base.exp()
        for i, branch in enumerate(branches):
            other = _log_probabilities(run.logits(branch, rows))
            losses[i].append(_loss(other, ids[rows]) - own)
            if branch not in loss_only:
                kls[i].append(-torch.linalg.vecdot(weights, other.sub_(base)).mean(-1))
            del other
            give_back_memory()
    effects = [
        Effect(torch.cat(loss), torch.cat(kl) if kl else None) for loss, kl in zip(losses, kls, strict=True)
    ]
    return torch.cat(base_loss), effects


def score(name: str, per_row: Tensor) -> Score:
    """The mean over rows with its standard error, in nats per token."""
    n = per_row.shape[0]
    error = float(per_row.std() / math.sqrt(n)) if n > 1 else None
    return Score(name, float(per_row.mean()), "nats/token", n, error)


@dataclass(frozen=True)
class Bars:
    """Where the verdicts begin, in nats per token: `critical` from ln 2 (perplexity doubles), `partial` from 0.05."""

    critical: float = math.log(2)
    partial: float = 0.05


def judge(effect: Score, beside: Score | None, controls: Sequence[Control], bars: Bars) -> str:
    """`critical`, `partial` or `benign`, from the loss rise without the weight.

    The whole 95 % interval must lie above a bar, and above that of every control except the largest other
    weight: a loss that any weight of the layer, row or column would cost proves nothing about this one. The
    largest other weight is shown beside it but cannot acquit it, since it may be a super weight itself.
    A weight that another backs up is `partial` when its loss rise `beside` it, removed too, is critical.
    """
    low = effect.interval()[0]
    above_controls = all(low > c.score.interval()[1] for c in controls if c.judges)
    if low >= bars.critical and above_controls:
        return "critical"
    backed_up = beside is not None and beside.interval()[0] >= bars.critical
    if (low >= bars.partial and above_controls) or backed_up:
        return "partial"
    return "benign"


def control_edits(
    checkpoint: Checkpoint, candidate: Suspect, search: Sampling, avoid: set[Address]
) -> dict[tuple, tuple[Edit, ...]]:
    """Weights that should not matter, to be zeroed together, by what they have in common.

    `(RANDOM_TENSOR,)`: `search.controls` random weights of the candidate's tensor. `(LARGEST, tensor)`: the one
    largest other weight of it. Where it is known which axes of the stored tensor are output and input,
    `(RANDOM_COLUMN, ...)` and `(RANDOM_ROW, ...)`: so many others of the candidate's column and row. Candidates with
    the same key share the same weights.
    """
    address, count = candidate.address, search.controls
    tensor = checkpoint.read(address.tensor)
    picker = torch.Generator().manual_seed(search.seed)
    draws = [torch.randint(n, (count,), generator=picker).tolist() for n in tensor.shape]
    chosen: dict[tuple, list[tuple[int, ...]]] = {
        (RANDOM_TENSOR,): list(zip(*draws, strict=True)),
        (LARGEST, address.tensor): _largest(tensor, 1 + len(avoid)),
    }
    for kind, axis in _axes(candidate).items():
        order = torch.randperm(tensor.shape[axis], generator=picker)[: count + len(avoid)].tolist()
        places = [_moved(address.index, axis, place) for place in order]
        chosen[kind, address.tensor, _moved(address.index, axis, 0)] = places
    checkpoint.release([address.tensor])
    edits = {}
    for key, places in chosen.items():
        free = [
            a for a in dict.fromkeys(Address(address.tensor, place) for place in places) if a not in avoid
        ]
        edits[key] = tuple(Edit(a, factor=0.0) for a in free[: 1 if key[0] == LARGEST else count])
    return {key: found for key, found in edits.items() if found}


def _axes(candidate: Suspect) -> dict[str, int]:
    """The stored axes along which a weight's column and row run, where the address shows them."""
    place = (candidate.spike.out_channel, candidate.spike.in_neuron)
    index = candidate.address.index
    if len(index) < 2 or place[0] == place[1]:
        return {}
    if index[-2:] == place:
        return {RANDOM_COLUMN: -2, RANDOM_ROW: -1}
    return {RANDOM_COLUMN: -1, RANDOM_ROW: -2} if index[-2:] == place[::-1] else {}


def _largest(tensor: Tensor, count: int) -> list[tuple[int, ...]]:
    flat = tensor.abs().flatten().float().topk(min(count, tensor.numel())).indices
    return [tuple(int(i) for i in torch.unravel_index(place, tensor.shape)) for place in flat]


def _moved(index: tuple[int, ...], axis: int, place: int) -> tuple[int, ...]:
    moved = list(index)
    moved[axis] = place
    return tuple(moved)


def _vocabulary(run: Branching) -> int:
    return vocabulary_by_config(run.model.config)


def _log_probabilities(logits: Tensor) -> Tensor:
    """Of all tokens but the last, written over `logits`: a vocabulary is large, and copies of it are memory."""
    kept = logits[:, :-1].float()
    for row in kept:
        row.sub_(row.logsumexp(-1, keepdim=True))
    return kept


def _loss(log_probabilities: Tensor, ids: Tensor) -> Tensor:
    return -log_probabilities.gather(-1, ids[:, 1:, None])[..., 0].mean(-1)
