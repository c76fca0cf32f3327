"""One pass of a model, with its branches beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from superweights.axes import Float, Int
from superweights.branch.calls import one_row, repeated, same, takes
from superweights.branch.nouns import Branch, Pausable, Visit
from superweights.editing import Edit, edited
from superweights.subject import Batch, layout_of, stream_of
from superweights.subject.blocks import find_blocks, stack_of, towers_of
from superweights.subject.calls import first_tensor, hidden_of, like_output, with_hidden
from superweights.subject.facts import predicted

# What a model's own code raises when one of its blocks is called in a way it does not expect.
_CANNOT_RUN = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)


class Branching:
    """One batch of prompts through the model, with branches riding along. Made by `branching`.

    `pass_over(batch)` runs the model and its branches; `logits(branch, rows)` then gives what any of them predicts (the
    last states of a model without a head), a few rows at a time. `current` is the branch whose rows are being computed
    (None: the model's own), for watches.
    """

    def __init__(
        self, model: nn.Module, branches: Iterable[Branch], watch: Pausable | None, abreast: int = 0
    ):
        self.model: Any = model
        self.branches: list[Branch] = list(branches)
        self.broken_at: str | None = None
        self.blocks = find_blocks(model)
        self._watch = watch
        self._discover: Callable[[Visit], Iterable[Branch]] | None = None
        self.batch: Batch | None = None
        self.towers = towers_of(self.blocks)
        self._ran: Counter[str | None] = Counter()
        self._stack = ""
        self._visits = 0
        self._last: Tensor | None = None
        self._bypass: Tensor | None = None
        self._visits_left = 0
        self._outputs: dict[str, Any] = {}
        self._idle = False
        self._base: Tensor | None = None
        self._places: dict[Edit, str] = {}
        self._abreast, self._abreast_checked = abreast, False

    def pass_over(
        self,
        batch: Batch | Int[Tensor, "rows tokens"],
        discover: Callable[[Visit], Iterable[Branch]] | None = None,
    ) -> None:
        """Run the model on `batch`, or on token ids `[rows, tokens]`, with every branch.

        `discover(visit)` is called after each block, for the model's own rows and for watched branches; the
        branches that it returns fork in that very block (or at a later one, where their first edit stands).
        """
        self.batch = Batch({"input_ids": batch}) if isinstance(batch, Tensor) else batch
        self._discover, self._stack = discover, ""
        self._ran.clear()
        self._outputs.clear()
        self._visits, self._last, self._base, self.broken_at = 0, None, None, None
        for branch in self.branches:
            self._prepare(branch)
        last = self._forward(self.batch)
        self._base = self._last if self.broken_at is None else None
        if self._base is not None and not self._head_agrees(last):
            self._break("the head")
            self._base = None

    def logits(
        self, branch: Branch | None, rows: slice, positions: slice | None = None
    ) -> Float[Tensor, "rows tokens vocabulary"]:
        """What `branch` (None: the model itself) predicts for these rows: `[rows, tokens, vocabulary]`.

        Of `positions` alone where given; where the model's forward can be asked for some, no others are made.
        """
        assert self.batch is not None, "call pass_over first"
        batch = self.batch.take(rows)
        if self._base is None or (branch is not None and branch.apart):
            with self._unhooked():
                return self._apart(branch, rows, positions)
        hidden = self._base if branch is None or branch.hidden is None else branch.hidden
        self._bypass, self._visits_left = hidden[rows], self._visits
        try:
            with self._without_loading():
                return self._predict(batch, positions)
        finally:
            self._bypass = None

    def _apart(self, branch: Branch | None, rows: slice, positions: slice | None) -> Tensor:
        """What `branch` predicts in a pass of its own, or as many as it has versions."""
        assert self.batch is not None, "called from logits"
        batch = self.batch.take(rows)
        if branch is None:
            return self._predict(batch, positions)
        with branch.around() if branch.around else nullcontext():
            if not branch.by_row:
                with edited(self.model, branch.edits, verify=False) if branch.edits else nullcontext():
                    return self._predict(batch, positions)
            found = []
            for row in range(*rows.indices(len(self.batch))):
                with edited(self.model, (*branch.edits, *branch.by_row[row]), verify=False):
                    found.append(self._predict(self.batch.take(slice(row, row + 1)), positions))
            return torch.cat(found)

    def _predict(self, batch: Batch, positions: slice | None) -> Tensor:
        """What the model's forward predicts, at `positions`."""
        if positions is None:
            return predicted(self.model(**batch.arguments))
        wanted = torch.arange(batch.length, device=self._device(batch))[positions]
        keep = {"logits_to_keep": wanted} if takes(self.model, "logits_to_keep") else {}
        logits = predicted(self.model(**batch.arguments, **keep))
        return logits if logits.shape[1] == len(wanted) else logits[:, positions]

    def _forward(self, batch: Batch) -> Tensor:
        """The model's pass. Returns the last position's logits, and computes no others where it can be helped."""
        keep = {"logits_to_keep": 1} if takes(self.model, "logits_to_keep") else {}
        return predicted(self.model(**batch.arguments, **keep))[:, -1]

    @staticmethod
    def _device(batch: Batch) -> torch.device:
        return next(iter(batch.arguments.values())).device

    def _head_agrees(self, last: Tensor) -> bool:
        """Whether the model's head on the last block's output predicts what the model itself predicted."""
        try:
            again = self.logits(None, slice(0, 1), slice(-1, None))[:, -1]
        except _CANNOT_RUN:
            return False
        scale = last[:1].abs().max()
        return bool(((again - last[:1]).abs() <= 1e-3 * scale).all())

    def _prepare(self, branch: Branch) -> None:
        branch.hidden, branch._own, branch._edits_in = None, {}, {}
        for edit in branch.edits:
            branch._edits_in.setdefault(self._path_of(edit) or "", []).append(edit)
        rows = (edit for row in branch.by_row for edit in row)
        branch.apart = "" in branch._edits_in or any(self._path_of(edit) is None for edit in rows)

    def _path_of(self, edit: Edit) -> str | None:
        """The block that holds the edited parameter, or None."""
        if edit not in self._places:
            parameter, _ = layout_of(self.model).parameter_of(edit.address)
            inside = (path for path in self.blocks if parameter.startswith(f"{path}."))
            self._places[edit] = next(inside, "")
        return self._places[edit] or None

    def _visit(self, path: str, forward: Callable, args: tuple, kwargs: dict) -> Any:
        """A block's forward, as the model calls it: its own rows first, then every branch's."""
        if self._idle:
            return forward(*args, **kwargs)
        before = hidden_of(args, kwargs)
        if self._bypass is not None:
            self._visits_left -= 1
            return like_output(self._outputs[stack_of(path)], before if self._visits_left else self._bypass)
        assert self.batch is not None, "blocks are only visited inside pass_over"
        if self._visits and not same(before, self._last):
            self._interrupt(path)
        self._stack = stack_of(path)
        out = forward(*args, **kwargs)
        self._outputs[self._stack], after = out, first_tensor(out)
        tower = self.towers[path]
        visit = Visit(path, self._visits, before, after, tower=tower, layer=self._ran[tower])
        with self._looking_away():
            self._fork(visit, forward, args, kwargs)
        self._visits += 1
        self._ran[tower] += 1
        self._last = after
        return out

    def _interrupt(self, path: str) -> None:
        """The block at `path` does not go on from the one before: another tower begins, or something came between.

        What has changed in a tower that has ended changes what the next one is given, so it needs a pass of its own.
        """
        if stack_of(path) == self._stack or stack_of(path) in self._outputs:
            self._break(path)
            return
        for branch in self.branches:
            if branch.hidden is not None:
                branch.apart, branch.hidden = True, None

    def _fork(self, visit: Visit, forward: Callable, args: tuple, kwargs: dict) -> None:
        if self._discover is not None:
            self._add(self._discover(visit))
        advanced = {id(branch) for branch in self._advance_abreast(visit, forward, args, kwargs)}
        done = 0
        while done < len(self.branches):  # watched branches may add more
            if id(self.branches[done]) not in advanced:
                self._advance(self.branches[done], visit, forward, args, kwargs)
            done += 1

    def _add(self, found: Iterable[Branch]) -> None:
        """Take in new branches; one that continues another's rows comes with their hidden states."""
        for branch in found:
            start = branch.hidden
            self._prepare(branch)
            branch.hidden = start
            self.branches.append(branch)

    def _advance(self, branch: Branch, visit: Visit, forward: Callable, args: tuple, kwargs: dict) -> None:
        """Take `branch` through the block that the model has just been through."""
        changed = self._changes(branch, visit.path)
        waiting = branch.hidden is None and not changed and (branch.edits or branch.by_row or branch.at)
        if branch.apart or waiting or self.broken_at is not None:
            return
        assert self.batch is not None, "called inside pass_over"
        if len(visit.before) != len(
            self.batch
        ):  # rows that cannot be told apart, such as patches of several pictures
            branch.apart, branch.hidden = True, None
            return
        before = visit.before if branch.hidden is None else branch.hidden
        args, kwargs = with_hidden(args, kwargs, before, branch._own)
        try:
            with self._showing(branch):
                branch.hidden = self._run(branch, visit.path, forward, args, kwargs)
        except _CANNOT_RUN:
            self._break(visit.path)  # a block that cannot be run twice in a pass, e.g. one that keeps a cache
            return
        if branch.watched and self._discover is not None:
            seen = replace(visit, before=before, after=branch.hidden, branch=branch)
            self._add(self._discover(seen))

    def _changes(self, branch: Branch, path: str) -> bool:
        """Whether `branch` does something in the block at `path` that the model does not."""
        first = branch.by_row[0] if branch.by_row else ()
        here = branch.at == path or path in branch._edits_in
        return here or any(self._path_of(edit) == path for edit in first)

    def _run(self, branch: Branch, path: str, forward: Callable, args: tuple, kwargs: dict) -> Tensor:
        """The block's forward with what `branch` changes in it."""
        here = branch._edits_in.get(path, [])
        around = branch.around() if branch.around and self._changes(branch, path) else nullcontext()
        with around, edited(self.model, here, verify=False) if here else nullcontext():
            if not branch.by_row or self._path_of(branch.by_row[0][0]) != path:
                return first_tensor(forward(*args, **kwargs))
            return torch.cat(
                [self._run_row(row, edits, forward, args, kwargs) for row, edits in enumerate(branch.by_row)]
            )

    def _run_row(
        self, row: int, edits: tuple[Edit, ...], forward: Callable, args: tuple, kwargs: dict
    ) -> Tensor:
        """One row of the block's output, with the edits of that row."""
        with edited(self.model, edits, verify=False):
            some = one_row(args, kwargs, row)
            if some is None:  # it is not clear which arguments have a row each
                return first_tensor(forward(*args, **kwargs))[row : row + 1]
            return first_tensor(forward(*some[0], **some[1]))

    def _advance_abreast(self, visit: Visit, forward: Callable, args: tuple, kwargs: dict) -> list[Branch]:
        """The branches that the block treats alike, taken through it as further rows of one batch."""
        rows, size = len(visit.before), self._abreast // visit.before[..., 0].numel()
        advanced: list[Branch] = []
        alike = [branch for branch in self.branches if size > 1 and self._is_plain(branch, visit)]
        for start in range(0, len(alike) - 1, max(1, size)):
            group = alike[start : start + size]
            hidden = torch.cat([branch.hidden for branch in group if branch.hidden is not None])
            try:
                more, named = repeated(args, kwargs, visit.before, hidden)
                after = first_tensor(forward(*more, **named)).split(rows)
            except _CANNOT_RUN:
                self._abreast = 0
                return advanced
            if not self._abreast_checked and not self._is_alone_too(
                group[0], after[0], visit, forward, args, kwargs
            ):
                self._abreast = 0
                return advanced
            for branch, own in zip(group, after, strict=True):
                branch.hidden = own
            advanced += group
        return advanced

    def _is_plain(self, branch: Branch, visit: Visit) -> bool:
        """Whether nothing but its hidden states tells `branch` from the model in this block."""
        here = self._changes(branch, visit.path)
        return branch.hidden is not None and not (here or branch.apart or branch.watched or branch._own)

    def _is_alone_too(self, branch: Branch, abreast: Tensor, visit: Visit, *call: Any) -> bool:
        """Whether a branch's states after the block are the same when it goes alone; looked at once a pass."""
        before, self._abreast_checked = branch.hidden, True
        self._advance(branch, visit, *call)
        alone, branch.hidden = branch.hidden, before
        return alone is not None and bool(((abreast - alone).abs() <= 1e-4 * alone.abs().max()).all())

    def _break(self, path: str) -> None:
        """Something came between two blocks, which branches cannot follow: each gets a pass of its own."""
        self.broken_at = path
        for branch in self.branches:
            branch.apart, branch.hidden = True, None

    @contextmanager
    def _looking_away(self) -> Iterator[None]:
        if self._watch is None:
            yield
            return
        self._watch.paused = True
        try:
            yield
        finally:
            self._watch.paused = False

    @contextmanager
    def _showing(self, branch: Branch) -> Iterator[None]:
        """Let the watch see a watched branch."""
        if self._watch is None or not branch.watched:
            yield
            return
        self._watch.paused = False
        try:
            yield
        finally:
            self._watch.paused = True

    @contextmanager
    def _unhooked(self) -> Iterator[None]:
        """The model as it is: no visits, no branches, nobody watching."""
        self._idle = True
        try:
            with self._looking_away():
                yield
        finally:
            self._idle = False

    @contextmanager
    def _without_loading(self) -> Iterator[None]:
        """No block runs while its hidden states are replaced, so none needs its weights."""
        stream = stream_of(self.model)
        with self._looking_away(), stream.asleep() if stream is not None else ExitStack():
            yield


@contextmanager
def branching(
    model: nn.Module,
    branches: Sequence[Branch] = (),
    *,
    watch: Pausable | None = None,
    abreast: int = 0,
) -> Iterator[Branching]:
    """A `Branching` of `model`: its blocks are wrapped inside the `with` and put back after it.

    Without a cache of keys and values, in which a branch would find those of the model beside its own. Up to
    `abreast` tokens of several branches go through a block at once (0: each branch alone, bit for bit).
    """
    run = Branching(model, branches, watch, abreast)
    originals = {path: block.forward for path, block in run.blocks.items()}
    cached = [(config, config.use_cache) for config in _caching(model)]
    for config, _ in cached:
        config.use_cache = False
    try:
        for path, block in run.blocks.items():
            block.forward = _wrap(run, path, originals[path])
        with torch.no_grad():
            yield run
    finally:
        for config, before in cached:
            config.use_cache = before
        for path, block in run.blocks.items():
            block.__dict__.pop("forward", None)
            if block.forward != originals[path]:
                block.forward = originals[path]


def _wrap(run: Branching, path: str, forward: Callable) -> Callable:
    def visited(*args, **kwargs):
        return run._visit(path, forward, args, kwargs)

    return visited


def _caching(model: Any) -> list[Any]:
    """The configs of the model and of its towers that speak of a cache."""
    held = [getattr(module, "config", None) for module in model.modules()]
    return list({id(config): config for config in held if hasattr(config, "use_cache")}.values())
