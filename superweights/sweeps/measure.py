"""Many edited versions of a model on one text: one pass for what they share, the rest once for each.

An edit changes nothing before the block it stands in, so the versions ride along one pass as branches and
begin where their first edit stands (`superweights.branch`). The numbers are those of separate evaluations
of the edited model: every version goes through the model's own blocks and head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.branch import Branch, Branching, branching
from superweights.editing import Edit, edited
from superweights.errors import SuperweightsError
from superweights.scoring import Variant
from superweights.scoring.compare import numbers_by_row, numbers_by_token
from superweights.scoring.loss import check_head
from superweights.scoring.predictions import Predictions
from superweights.stream.device import available_memory
from superweights.subject import NextToken, check_windows, device_of, is_streamed, objective_of, vocabulary_of
from superweights.sweeps.cell import Numbers
from superweights.sweeps.pieces import Piece, pieces_of

# Tokens that go through a model at once; more where its weights are read again for every batch.
_TOKENS, _TOKENS_STREAMED = 2048, 8192
# Tokens of several versions that go through a block as one batch: more keep a processor core no busier.
_ABREAST, _ABREAST_ACCELERATED = 512, 16384
# Versions that are measured together at most: fewer share less, more are lost when the process is killed.
MOST_TOGETHER = 32
# The hidden states of the versions may take this share of free memory, and so many bytes.
_SHARE_OF_MEMORY, _STATE_BYTES = 8, 2 << 30

# Logits `[tokens, vocabulary]` of one version at a piece of the batch.
Reader = Callable[[Piece], Tensor]
Edits = tuple[Edit, ...]


class Bench:
    """One open model, one text, and the versions of the model that are measured on it.

    `ids [n, length]` are the windows.
    """

    def __init__(self, model: nn.Module, ids: Tensor):
        check_windows(model, ids)
        check_head(model)
        self.model = model
        self._plain = isinstance(objective_of(model), NextToken)
        self._ids = ids.to(device_of(model))
        self._vocabulary = vocabulary_of(model)
        self._chained = True
        self._abreast = _ABREAST if self._ids.device.type == "cpu" else _ABREAST_ACCELERATED

    @property
    def together(self) -> int:
        """How many versions fit into memory beside each other."""
        width = self.model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        bytes_each = self._rows() * self._ids.shape[1] * width * 4
        free = available_memory(self._ids.device) // _SHARE_OF_MEMORY
        return max(1, min(MOST_TOGETHER, min(free, _STATE_BYTES) // bytes_each))

    def measure(self, versions: Sequence[Edits], compared: bool = False) -> list[Numbers | SuperweightsError]:
        """What each version of the model scores, in the order given; the error of one that cannot be made.

        An empty version is the model as it is. With `compared` also its KL divergence from the model as it is
        and its agreement with it. A version whose edits are impossible costs the others nothing.
        """
        found: dict[Edits, Numbers | SuperweightsError] = {}
        for edits in versions:
            if edits not in found and (problem := self._problem(edits)) is not None:
                found[edits] = problem
        sound = [edits for edits in dict.fromkeys(versions) if edits not in found]
        for start in range(0, len(sound), self.together):
            found |= self._measure_sound(sound[start : start + self.together], compared)
        return [found[edits] for edits in versions]

    def _problem(self, edits: Edits) -> SuperweightsError | None:
        """Why these edits cannot be made, found out by making them."""
        try:
            with edited(self.model, edits, verify=False):
                return None
        except SuperweightsError as error:
            return error

    def _measure_sound(
        self, versions: list[Edits], compared: bool
    ) -> dict[Edits, Numbers | SuperweightsError]:
        """Measure together; where that fails, by halves, until the one that fails is alone."""
        try:
            numbers = self._together(versions, compared)
        except (SuperweightsError, torch.OutOfMemoryError) as error:
            if len(versions) == 1:
                return {versions[0]: _in_words(error)}
            half = len(versions) // 2
            first = self._measure_sound(versions[:half], compared)
            return first | self._measure_sound(versions[half:], compared)
        return dict(zip(versions, map(_checked, numbers), strict=True))

    def _together(self, versions: list[Edits], compared: bool) -> list[Numbers]:
        # An edit by the factor 1 leaves the weight as it is, so it needs no pass of its own.
        changing = [tuple(edit for edit in edits if edit.factor != 1.0) for edits in versions]
        distinct = list(dict.fromkeys(changing))
        batches = self._ids.split(self._rows())
        per_window = torch.cat([self._batch(distinct, batch, compared) for batch in batches], dim=2)
        of = dict(zip(distinct, per_window, strict=True))
        return [_numbers(of[edits], compared) for edits in changing]

    @torch.no_grad()
    def _batch(self, versions: list[Edits], batch: Tensor, compared: bool) -> Tensor:
        """Loss, KL and agreement of each window: `[versions, 3, rows]`, float64."""
        if not self._plain:
            return self._by_objective(versions, batch)
        found = torch.zeros(len(versions), 3, len(batch), dtype=torch.float64)
        riding: dict[int, Branch | None] = {}
        if self._chained and any(versions):
            branches = {i: Branch(edits) for i, edits in enumerate(versions) if edits}
            with branching(self.model, list(branches.values()), abreast=self._abreast) as run:
                run.pass_over(batch)
                self._chained = run.broken_at is None
                if self._chained:
                    riding = {i: branches.get(i) for i in range(len(versions))}
                    riding = {i: branch for i, branch in riding.items() if branch is None or not branch.apart}
                    readers = [_riding(run, branch) for branch in riding.values()]
                    found[list(riding)] = self._read(_riding(run, None), readers, batch, compared)
        for i in (i for i in range(len(versions)) if i not in riding):
            reader = self._apart(versions[i], batch)
            base = self._apart((), batch) if compared else reader
            found[i] = self._read(base, [reader], batch, compared)[0]
        return found

    def _by_objective(self, versions: list[Edits], batch: Tensor) -> Tensor:
        """As `_batch`, for models that predict something else than each next token: each version by itself."""

        def version(edits: Edits) -> Variant:
            return Variant(
                self.model, lambda: edited(self.model, edits, verify=False) if edits else nullcontext()
            )

        every = numbers_by_row([version(()), *map(version, versions)], batch)
        return torch.stack([numbers[1:] for numbers in every])

    def _apart(self, edits: Edits, batch: Tensor) -> Reader:
        """A version that goes through the whole model by itself."""

        def change():
            return edited(self.model, edits, verify=False) if edits else nullcontext()

        predictions = Predictions(Variant(self.model, change), batch, NextToken().batch(batch).at)
        return lambda piece: predictions.logits(piece.flat)

    def _read(self, base: Reader, readers: list[Reader], batch: Tensor, compared: bool) -> Tensor:
        """The three numbers of each reader's version, summed piece by piece, as means over each window."""
        rows, length = batch.shape
        found = torch.zeros(len(readers), 3, rows, dtype=torch.float64)
        for piece in pieces_of(rows, length, self._vocabulary):
            targets = batch[piece.rows, 1:][:, piece.positions].reshape(-1)
            log_p = functional.log_softmax(base(piece), -1) if compared else None
            for sums, reader in zip(found, readers, strict=True):
                numbers = _of_piece(log_p, reader(piece), targets)
                by_row = numbers.reshape(len(numbers), piece.rows.stop - piece.rows.start, -1)
                sums[: len(numbers), piece.rows] += by_row.double().sum(2)
        return found / (length - 1)

    def _rows(self) -> int:
        streamed = is_streamed(self.model)
        return max(1, (_TOKENS_STREAMED if streamed else _TOKENS) // self._ids.shape[1])


def _riding(run: Branching, branch: Branch | None) -> Reader:
    """What a version that rode along the pass predicts (None: the model itself)."""
    return lambda piece: run.logits(branch, piece.rows, piece.positions).flatten(0, 1).float()


def _of_piece(log_p: Tensor | None, logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each token `[1, tokens]`, or loss, KL and agreement `[3, tokens]`, on the CPU."""
    targets = targets.to(logits.device)
    if log_p is None:
        return functional.cross_entropy(logits, targets, reduction="none")[None].cpu()
    return numbers_by_token(log_p, logits, targets[:, None])[1:]


def _numbers(per_window: Tensor, compared: bool) -> Numbers:
    losses, kl, agreement = (tuple(row.tolist()) for row in per_window)
    return Numbers(losses, kl, agreement) if compared else Numbers(losses)


def _checked(numbers: Numbers) -> Numbers | SuperweightsError:
    measured = (numbers.losses, numbers.kl or (), numbers.agreement or ())
    if all(math.isfinite(number) for held in measured for number in held):
        return numbers
    return SuperweightsError(
        "What the model predicts under these edits is not a number.",
        hint="try a smaller factor, or --dtype float32.",
    )


def _in_words(error: SuperweightsError | torch.OutOfMemoryError) -> SuperweightsError:
    if isinstance(error, SuperweightsError):
        return error
    return SuperweightsError("The device's memory is too small for one window.", hint="use shorter windows.")
