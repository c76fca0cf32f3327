"""Making edits and undoing them: in place in memory, at each reading where the weights are streamed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superweights.address import Address
from superweights.editing.kinds import Edit
from superweights.editing.place import (
    ParameterPlace,
    get_element,
    kind_of,
    refuse_duplicates,
    refuse_storage,
    same_bits,
    set_element,
    tensor_hash,
    tensor_named,
)
from superweights.errors import SuperweightsError
from superweights.subject import stream_of


@dataclass(frozen=True)
class Change:
    """An edit as it was made: the parameter and index it fell on, and the weight before and after.

    `after` is the number that is stored, rounded to the tensor's type; `before` and `after` are floats.
    """

    edit: Edit
    parameter: str
    index: tuple[int, ...]
    before: float
    after: float


@contextmanager
def edited(model: nn.Module, edits: Edit | Iterable[Edit], *, verify: bool = True) -> Iterator[list[Change]]:
    """The changes made to `model`, which holds the edited weights inside the `with` and its own after it.

    Each edit is placed by the model's layout (checkpoint names, fused experts), written in place and read
    back; the yielded list says what was stored. Every weight is put back bit for bit however the body ends.
    With `verify` a hash of each edited tensor, taken before and after, proves that; without it only the
    edited elements are read again (for inner loops).

    A streamed model's weights are not there yet: its edits are made on a private copy each time their block
    is read, the list fills as that happens, and a forward pass that read blocks but never met them is an error.

    Factors count from the weight as it is on entry. Raises `SuperweightsError` when an edit has no weight
    to fall on (absent tensor, index outside), two edits share a weight, the tensor is quantized storage,
    or its type cannot hold the result. Not for use by two threads at once.
    """
    places = [ParameterPlace.find(model, edit) for edit in _each_edit(edits)]
    refuse_duplicates(places)
    changes: list[Change] = []
    with ExitStack() as stack:
        waiting = [place for place in places if place.tensor.is_meta]
        if waiting:
            stack.enter_context(_on_each_load(model, waiting, changes))
        stack.enter_context(_in_place(model, [p for p in places if not p.tensor.is_meta], changes, verify))
        yield changes


def weight_value(model: nn.Module, address: Address) -> float:
    """The weight that `model` holds at `address`.

    Raises `SuperweightsError` where the model has no such weight, or has it on disk (streamed models: ask
    the checkpoint's `element`).
    """
    place = ParameterPlace.find(model, Edit(address, factor=1.0))
    if place.tensor.is_meta:
        raise SuperweightsError(
            f"{address} is not in memory.", hint="read it with the checkpoint's element(name, index)."
        )
    return get_element(place.tensor, place.index).item()


@contextmanager
def _in_place(
    model: nn.Module, places: list[ParameterPlace], changes: list[Change], verify: bool
) -> Iterator[None]:
    """Resident tensors: written now, put back at the end, both checked."""
    hashes = {id(p.tensor): tensor_hash(p.tensor) for p in places} if verify else {}
    saved: list[tuple[ParameterPlace, Tensor]] = []
    try:
        for place in places:
            saved.append((place, get_element(place.tensor, place.index).clone()))
            changes.append(_write(place, place.tensor))
        yield
    except BaseException as error:
        problem = _put_back(model, saved, hashes)
        if problem:
            error.add_note(problem)
        raise
    else:
        problem = _put_back(model, saved, hashes)
        if problem:
            raise SuperweightsError(problem, hint="change an edited tensor only through edited().")


def _put_back(
    model: nn.Module, saved: list[tuple[ParameterPlace, Tensor]], hashes: dict[int, str]
) -> str | None:
    """Write the saved bits again; what is wrong afterwards, or None."""
    try:
        _write_saved(saved)
    except KeyboardInterrupt:  # a second Ctrl-C must not leave half of the edits in the model
        _write_saved(saved)
        raise
    for place, bits in saved:
        if tensor_named(model, place.parameter) is not place.tensor:
            return f"{place.parameter} was replaced by another tensor while it was edited."
        if not same_bits(get_element(place.tensor, place.index), bits):
            return f"{place.edit.address} could not be put back: its tensor changed type or device."
    changed = {p.parameter for p, _ in saved if hashes and tensor_hash(p.tensor) != hashes[id(p.tensor)]}
    if not changed:
        return None
    return f"{', '.join(sorted(changed))} was changed by something else while it was edited."


def _write_saved(saved: list[tuple[ParameterPlace, Tensor]]) -> None:
    for place, bits in reversed(saved):
        set_element(place.tensor, place.index, bits)


@contextmanager
def _on_each_load(model: nn.Module, places: list[ParameterPlace], changes: list[Change]) -> Iterator[None]:
    """Streamed tensors: written each time they are read, on a private copy that the stream then drops."""
    stream = stream_of(model)
    if stream is None:
        raise SuperweightsError(
            f"{places[0].parameter} has no values: the model is on the meta device.",
            hint="load the model's weights, or open it with superweights.stream.streaming.",
        )
    loads = _Loads(model, places, changes)
    stream.on_load.append(loads.apply)
    hook = model.register_forward_hook(loads.note_forward, always_call=False)
    try:
        yield
    finally:
        hook.remove()
        stream.on_load.remove(loads.apply)
    missed = [place for place in places if place.edit not in loads.originals]
    if loads.forwards and loads.count and missed:
        raise SuperweightsError(
            f"{missed[0].edit.address} was never read, so it could not be edited.",
            hint="the forward pass skips that block; choose a weight that the model uses.",
        )


class _Loads:
    """The edits of one streamed model, and the weights that they met."""

    def __init__(self, model: nn.Module, places: list[ParameterPlace], changes: list[Change]):
        self.forwards = self.count = 0
        self.originals: dict[Edit, Tensor] = {}
        self._changes = changes
        self._by_name: dict[str, list[ParameterPlace]] = {}
        for name, tensor in model.named_parameters(remove_duplicate=False):
            here = [p for p in places if p.parameter == name or p.tensor is tensor]
            if here:
                self._by_name[name] = here

    def note_forward(self, *_: object) -> None:
        self.forwards += 1

    def apply(self, name: str, parameter: nn.Parameter) -> None:
        """Edit `parameter` on a copy: the stream may have mapped it straight from the file."""
        self.count += 1
        places = self._by_name.get(name)
        if not places:
            return
        refuse_storage(name, parameter)
        parameter.data = parameter.detach().clone()
        for place in places:
            self._apply_one(place, parameter)

    def _apply_one(self, place: ParameterPlace, parameter: nn.Parameter) -> None:
        bits = parameter[place.index].detach().clone()
        first = place.edit not in self.originals
        original = self.originals.setdefault(place.edit, bits)
        if not same_bits(bits, original):
            return  # the same storage under a second name, already edited
        change = _write(place, parameter)
        if first:
            self._changes.append(change)


def _write(place: ParameterPlace, tensor: Tensor) -> Change:
    """Make one edit and read it back."""
    before = get_element(tensor, place.index).item()
    wanted = place.edit.applied_to(before)
    set_element(tensor, place.index, torch.tensor(wanted, dtype=torch.float64).to(tensor.dtype))
    after = get_element(tensor, place.index).item()
    if not math.isfinite(after):
        raise SuperweightsError(
            f"{place.edit} makes {wanted:.6g} of {before:.6g}, which {kind_of(tensor)} cannot hold.",
            hint="use a smaller number, or a wider dtype.",
        )
    if after == before and wanted != before:
        raise SuperweightsError(
            f"{place.edit} changes nothing: {wanted:.9g} rounds back to {after:.9g} in {kind_of(tensor)}.",
            hint="use a larger change, or a wider dtype.",
        )
    return Change(place.edit, place.parameter, place.index, before, after)


def _each_edit(edits: Edit | Iterable[Edit]) -> list[Edit]:
    listed = [edits] if isinstance(edits, Edit) else list(edits)
    wrong = next((edit for edit in listed if not isinstance(edit, Edit)), None)
    if wrong is not None:
        raise SuperweightsError(f"{wrong!r} is not an edit.", hint="make one with Edit or Edit.parse.")
    return listed
