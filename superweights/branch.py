"""Many edited versions of a model in a single pass over its weights.

An edit changes nothing before the block it stands in, and nothing but its block's own arithmetic there. So
the model runs once, unedited; where a branch's first edit stands, that block runs again on the same input
with the edit in place, and from there on the branch's hidden states go through every further block right
after the model's own, while that block's weights are in memory. No shape is assumed and no arithmetic is
imitated: every branch is the model's own block on its own edited weights, so a branch without edits is
equal to the model bit for bit (tests/test_branch.py, on every family).

Models whose blocks do not form a chain (something happens between two blocks) are noticed while they run,
and their branches fall back to passes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from superweights.address import layout_of
from superweights.edit import Edit, edited
from superweights.stream.blocks import find_blocks

# What a model's own code raises when one of its blocks is called in a way it does not expect.
_CANNOT_RUN = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)


class Pausable(Protocol):
    """A watch that can look away."""

    paused: bool


@dataclass(eq=False)
class Branch:
    """One edited version of the model, and how far it has come.

    `hidden` is its hidden state after the latest block (None before its first edit); `apart` says that it
    needs a pass of its own; `watched` lets the watch see its products too.
    """

    edits: tuple[Edit, ...]
    watched: bool = False
    hidden: Tensor | None = None
    apart: bool = False
    _own: dict[int, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class Visit:
    """A block that has just run on the model's own rows: `before` and `after` are `[rows, tokens, width]`."""

    path: str
    number: int
    before: Tensor
    after: Tensor
    branch: Branch | None = None


class Branching:
    """One batch of prompts through the model, with branches riding along. Made by `branching`.

    `pass_over(input_ids)` runs the model and its branches; `logits(branch, rows)` then gives what any of
    them predicts, a few rows at a time. `current` is the branch whose rows are being computed (None: the
    model's own), for watches.
    """

    def __init__(self, model: nn.Module, branches: Iterable[Branch], watch: Pausable | None):
        self.model: Any = model
        self.branches: list[Branch] = list(branches)
        self.broken_at: str | None = None
        self.blocks = find_blocks(model)
        self._watch = watch
        self._discover: Callable[[Visit], Iterable[Branch]] | None = None
        self._ids: Tensor | None = None
        self._visits = 0
        self._last: Tensor | None = None
        self._bypass: Tensor | None = None
        self._visits_left = 0
        self._output: Any = None
        self._idle = False
        self._base: Tensor | None = None
        self._places: dict[Edit, str] = {}

    def pass_over(
        self, input_ids: Tensor, discover: Callable[[Visit], Iterable[Branch]] | None = None
    ) -> None:
        """Run the model on `input_ids [rows, tokens]` with every branch.

        `discover(visit)` is called after each block, for the model's own rows and for watched branches; the
        branches that it returns fork in that very block (or at a later one, where their first edit stands).
        """
        self._ids, self._discover = input_ids, discover
        self._visits, self._last, self._base, self.broken_at = 0, None, None, None
        for branch in self.branches:
            self._prepare(branch)
        predicted = self._forward(input_ids)
        self._base = self._last if self.broken_at is None else None
        if self._base is not None and not self._head_agrees(predicted):
            self._break("the head")
            self._base = None

    def logits(self, branch: Branch | None, rows: slice, positions: slice | None = None) -> Tensor:
        """What `branch` (None: the model itself) predicts for these rows: `[rows, tokens, vocabulary]`.

        Of `positions` alone where given; where the model's forward can be asked for some, no others are made.
        """
        assert self._ids is not None, "call pass_over first"
        ids = self._ids[rows]
        if self._base is None or (branch is not None and branch.apart):
            edits = branch.edits if branch is not None else ()
            with self._unhooked(), edited(self.model, edits, verify=False) if edits else ExitStack():
                return self._predict(ids, positions)
        hidden = self._base if branch is None or branch.hidden is None else branch.hidden
        self._bypass, self._visits_left = hidden[rows], self._visits
        try:
            with self._without_loading():
                return self._predict(ids, positions)
        finally:
            self._bypass = None

    def _predict(self, ids: Tensor, positions: slice | None) -> Tensor:
        """The logits of the model's forward, at `positions`."""
        if positions is None:
            return self.model(ids).logits
        wanted = torch.arange(ids.shape[1], device=ids.device)[positions]
        keep = {"logits_to_keep": wanted} if _takes(self.model, "logits_to_keep") else {}
        logits = self.model(ids, **keep).logits
        return logits if logits.shape[1] == len(wanted) else logits[:, positions]

    def _forward(self, ids: Tensor) -> Tensor:
        """The model's pass. Returns the last position's logits, and computes no others where it can be helped."""
        keep = {"logits_to_keep": 1} if _takes(self.model, "logits_to_keep") else {}
        return self.model(ids, **keep).logits[:, -1]

    def _head_agrees(self, predicted: Tensor) -> bool:
        """Whether the model's head on the last block's output predicts what the model itself predicted."""
        try:
            again = self.logits(None, slice(0, 1), slice(-1, None))[:, -1]
        except _CANNOT_RUN:
            return False
        scale = predicted[:1].abs().max()
        return bool(((again - predicted[:1]).abs() <= 1e-3 * scale).all())

    def _prepare(self, branch: Branch) -> None:
        branch.hidden, branch._own = None, {}
        branch.apart = any(self._path_of(edit) is None for edit in branch.edits)

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
        before = _hidden_of(args, kwargs)
        if self._bypass is not None:
            self._visits_left -= 1
            return _like_output(self._output, before if self._visits_left else self._bypass)
        assert self._ids is not None, "blocks are only visited inside pass_over"
        follows = not self._visits or _same(before, self._last)
        if not follows or before.shape[:2] != self._ids.shape:
            self._break(path)
        out = forward(*args, **kwargs)
        self._output, after = out, _first_tensor(out)
        with self._looking_away():
            self._fork(Visit(path, self._visits, before, after), forward, args, kwargs)
        self._visits += 1
        self._last = after
        return out

    def _fork(self, visit: Visit, forward: Callable, args: tuple, kwargs: dict) -> None:
        if self._discover is not None:
            self._add(self._discover(visit))
        done = 0
        while done < len(self.branches):  # watched branches may add more
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
        here = [edit for edit in branch.edits if self._path_of(edit) == visit.path]
        waiting = branch.hidden is None and not here and branch.edits
        if branch.apart or waiting or self.broken_at is not None:
            return
        before = visit.before if branch.hidden is None else branch.hidden
        args, kwargs = _with_hidden(args, kwargs, before, branch._own)
        try:
            with self._showing(branch), edited(self.model, here, verify=False) if here else ExitStack():
                branch.hidden = _first_tensor(forward(*args, **kwargs))
        except _CANNOT_RUN:
            self._break(visit.path)  # a block that cannot be run twice in a pass, e.g. one that keeps a cache
            return
        if branch.watched and self._discover is not None:
            self._add(self._discover(Visit(visit.path, visit.number, before, branch.hidden, branch)))

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
        stream = getattr(self.model, "superweights_stream", None)
        with self._looking_away(), stream.asleep() if stream is not None else ExitStack():
            yield


@contextmanager
def branching(
    model: nn.Module, branches: Sequence[Branch] = (), *, watch: Pausable | None = None
) -> Iterator[Branching]:
    """A `Branching` of `model`: its blocks are wrapped inside the `with` and put back after it.

    Without a cache of keys and values, in which a branch would find those of the model beside its own.
    """
    run = Branching(model, branches, watch)
    originals = {path: block.forward for path, block in run.blocks.items()}
    cached, model.config.use_cache = getattr(model.config, "use_cache", None), False
    try:
        for path, block in run.blocks.items():
            block.forward = _wrap(run, path, originals[path])
        with torch.no_grad():
            yield run
    finally:
        model.config.use_cache = cached
        for path, block in run.blocks.items():
            block.__dict__.pop("forward", None)
            if block.forward != originals[path]:
                block.forward = originals[path]


def _wrap(run: Branching, path: str, forward: Callable) -> Callable:
    def visited(*args, **kwargs):
        return run._visit(path, forward, args, kwargs)

    return visited


def _hidden_of(args: tuple, kwargs: dict) -> Tensor:
    """The hidden states a block is called with: its first tensor, by convention `hidden_states`."""
    found = next((a for a in args if isinstance(a, Tensor)), kwargs.get("hidden_states"))
    if not isinstance(found, Tensor):
        found = next(v for v in kwargs.values() if isinstance(v, Tensor))
    return found


def _with_hidden(args: tuple, kwargs: dict, hidden: Tensor, own: dict[int, Any]) -> tuple[tuple, dict]:
    """The same call with other hidden states.

    Lists and dictionaries that blocks write into (shared keys and values) are the branch's own copies, or
    the branches would overwrite what the model itself reads in a later block.
    """
    old = _hidden_of(args, kwargs)

    def swap(value: Any) -> Any:
        if value is old:
            return hidden
        if isinstance(value, dict | list) and not isinstance(value, torch.Size):
            return own.setdefault(id(value), value.copy())
        return value

    return tuple(swap(a) for a in args), {key: swap(value) for key, value in kwargs.items()}


def _first_tensor(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else next(part for part in out if isinstance(part, Tensor))


def _like_output(out: Any, hidden: Tensor) -> Any:
    """`hidden` in the form in which the block returned its output."""
    if isinstance(out, Tensor):
        return hidden
    first = _first_tensor(out)
    parts = [hidden if part is first else part for part in out]
    return out._make(parts) if hasattr(out, "_make") else type(out)(parts)


def _same(tensor: Tensor, other: Tensor | None) -> bool:
    return other is not None and (
        tensor is other or (tensor.data_ptr() == other.data_ptr() and tensor.shape == other.shape)
    )


def _takes(model: nn.Module, argument: str) -> bool:
    import inspect

    return argument in inspect.signature(model.forward).parameters
