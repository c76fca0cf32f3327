"""JSON values turned into our nouns, by the types of their fields: what does not fit is named, never guessed.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Spot:
...     layer: Annotated[int, Between(0, 999)]
...     height: float | None = None
>>> shaped(Spot, {"layer": 3}, "spots.json", "-").layer
3
>>> shaped(Spot, {"layer": 3e6}, "spots.json", "look there.")
Traceback (most recent call last):
    ...
superweights.errors.SuperweightsError: spots.json: layer is to be a whole number from 0 to 999, not 3000000.0.
hint: look there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from superweights.errors import SuperweightsError

T = TypeVar("T")
Fields = Literal["known", "whole", "some", "lossy"]
# A JSON value and the name of its place in; the value as the field's type wants it out, or `_MisfitError`.
_Reader = Callable[[Any, str], Any]


@dataclass(frozen=True)
class Between:
    """The bounds of a number, both inclusive: `Annotated[int, Between(0, 9)]`."""

    low: float
    """The smallest that will do."""
    high: float
    """The largest that will do."""


@dataclass(frozen=True)
class NullIsNan:
    """A number that was none (nan, infinity) when it was written, for which JSON has no word but null."""


# How a schema says that no model has more: a page of as many columns as `layer` says is not to be made.
Layer = Annotated[int, Between(0, 9_999)]
Count = Annotated[int, Between(0, 2**53)]


class _MisfitError(Exception):
    """A value that does not fit its field: where it stands, what it was to be, and all of it in words."""

    def __init__(self, place: str, wanted: str, value: Any, says: str | None = None):
        super().__init__(place)
        self.place, self.wanted = place, wanted
        self.says = says or f"is to be {wanted}, not {_said(value)}"


def shaped(form: type[T], data: Any, where: str, hint: str, fields: Fields = "known") -> T:
    """`data`, as JSON gives it, as the type `form`: a dataclass, or what stands in the fields of one.

    Fields are read by their annotations: str, bool, int, float (finite; a whole number will do), None, unions, Literal,
    list, tuple, dict with str keys, Any, dataclasses (those with a `parse` also as one string; one that is made already
    stays as it is), and `Annotated` with `Between`. `fields`, at every depth: "known" ones may be left out where
    they have a default, "whole" ones may not, and with "some" what an object holds beyond them is passed over.
    "lossy" is as "some", for numbers that JSON has no word for: null where a number is wanted is nan.

    A dataclass with a classmethod `renewed` gets objects through it, for those that an older version wrote.

    Raises `SuperweightsError(hint=hint)` naming `where`, the field, what it is to be and what it is.
    """
    try:
        return _reader(form, fields)(data, "")
    except _MisfitError as error:
        raise SuperweightsError(
            f"{where}: {error.place or 'what it holds'} {error.says}.", hint=hint
        ) from None


@functools.cache
def _reader(form: Any, mode: Fields) -> _Reader:
    """The function that reads values of the type `form`."""
    origin, arguments = get_origin(form), get_args(form)
    if form is Any or form is object:
        return lambda value, place: value
    if origin is Annotated:
        return _bounded(_reader(arguments[0], mode), arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        none_first = sorted(arguments, key=lambda each: each is not type(None))
        return _either([_reader(each, mode) for each in none_first])
    if origin is Literal:
        return _checked(_among(arguments), f"one of {', '.join(map(repr, arguments))}")
    if form is float and mode == "lossy":
        return lambda value, place: math.nan if value is None else _number(value, place)
    if form in _PLAIN:
        return _PLAIN[form]
    if origin in (list, Sequence) or (origin is tuple and arguments[-1] is Ellipsis):
        return _listed(_reader(arguments[0], mode), list if origin is list else tuple)
    if origin is tuple:
        return _in_order([_reader(each, mode) for each in arguments])
    if origin in (dict, Mapping):
        return _mapped(_reader(arguments[1], mode))
    if form in (dict, list):
        return _checked(lambda value: isinstance(value, form), "an object" if form is dict else "a list")
    assert dataclasses.is_dataclass(form), f"no schema for {form}"
    return _spelled(form, _fielded(form, mode)) if hasattr(form, "parse") else _fielded(form, mode)


def _checked(fits: Callable[[Any], bool], wanted: str) -> _Reader:
    def read(value: Any, place: str) -> Any:
        if not fits(value):
            raise _MisfitError(place, wanted, value)
        return value

    return read


def _among(allowed: Sequence[Any]) -> Callable[[Any], bool]:
    """Whether a value is one of these and of its type: true is not 1."""
    return lambda value: any(type(value) is type(each) and value == each for each in allowed)


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _MisfitError(place, "a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _MisfitError(place, "a finite number", value)
    return number


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64


_PLAIN: dict[Any, _Reader] = {
    str: _checked(lambda value: isinstance(value, str), "a text"),
    bool: _checked(lambda value: isinstance(value, bool), "true or false"),
    int: _checked(_whole, "a whole number"),
    float: _number,
    type(None): _checked(lambda value: value is None, "null"),
}


def _bounded(read: _Reader, form: Any, notes: Sequence[Any]) -> _Reader:
    bounds = next((note for note in notes if isinstance(note, Between)), None)
    if bounds is None:
        nullable = any(isinstance(note, NullIsNan) for note in notes)
        return (lambda value, place: math.nan if value is None else read(value, place)) if nullable else read
    wanted = f"a {'whole ' if form is int else ''}number from {bounds.low:g} to {bounds.high:g}"

    def within(value: Any, place: str) -> Any:
        try:
            number = read(value, place)
        except _MisfitError:
            raise _MisfitError(place, wanted, value) from None
        if number is not None and not bounds.low <= number <= bounds.high:
            raise _MisfitError(place, wanted, value)
        return number

    return within


def _either(readers: list[_Reader]) -> _Reader:
    def read(value: Any, place: str) -> Any:
        misfits = []
        for each in readers:
            try:
                return each(value, place)
            except _MisfitError as error:
                misfits.append(error)
        # The one that came furthest in says most; of those that failed here, all that would have done.
        deepest = max(misfits, key=lambda error: len(error.place))
        if len(deepest.place) > len(place):
            raise deepest
        raise _MisfitError(place, " or ".join(dict.fromkeys(error.wanted for error in misfits)), value)

    return read


def _listed(read: _Reader, kind: Callable[[list[Any]], Any]) -> _Reader:
    def each(value: Any, place: str) -> Any:
        if not isinstance(value, list | tuple):
            raise _MisfitError(place, "a list", value)
        return kind([read(item, f"{place}[{n}]") for n, item in enumerate(value)])

    return each


def _in_order(readers: list[_Reader]) -> _Reader:
    def each(value: Any, place: str) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(readers):
            raise _MisfitError(place, f"a list of {len(readers)}", value)
        return tuple(
            read(item, f"{place}[{n}]") for n, (read, item) in enumerate(zip(readers, value, strict=True))
        )

    return each


def _mapped(read: _Reader) -> _Reader:
    def each(value: Any, place: str) -> Any:
        if not isinstance(value, Mapping) or any(not isinstance(key, str) for key in value):
            raise _MisfitError(place, "an object", value)
        return {key: read(item, _inside(place, key)) for key, item in value.items()}

    return each


def _spelled(form: Any, fields: _Reader) -> _Reader:
    def read(value: Any, place: str) -> Any:
        if isinstance(value, Mapping):
            return fields(value, place)
        if not isinstance(value, str):
            raise _MisfitError(place, "a text", value)
        try:
            return form.parse(value)
        except SuperweightsError as error:
            raise _unsound(place, error) from error

    return read


def _fielded(form: Any, mode: Fields) -> _Reader:
    """The reader of a dataclass."""
    hints = typing.get_type_hints(form, include_extras=True)
    fields = [field for field in dataclasses.fields(form) if field.init]
    needed = {
        field.name
        for field in fields
        if mode == "whole" or (field.default is field.default_factory is dataclasses.MISSING)
    }

    def read(value: Any, place: str) -> Any:
        if isinstance(value, form):
            return value
        if not isinstance(value, Mapping):
            raise _MisfitError(place, "an object", value)
        value = form.renewed(value) if hasattr(form, "renewed") else value
        missing = sorted(needed - value.keys())
        if missing:
            raise _MisfitError(_inside(place, missing[0]), "there", None, "is missing")
        given = {
            field.name: _reader(hints[field.name], mode)(value[field.name], _inside(place, field.name))
            for field in fields
            if field.name in value
        }
        unknown = value.keys() - {field.name for field in fields}
        if unknown and mode not in ("some", "lossy"):
            raise _MisfitError(
                _inside(place, min(map(str, unknown))), "absent", None, "is no field that is known"
            )
        try:
            return form(**given)
        except SuperweightsError as error:
            raise _unsound(place, error) from error

    return read


def _unsound(place: str, error: SuperweightsError) -> _MisfitError:
    """A value of the right shape that its noun refuses."""
    return _MisfitError(place, "sound", None, f"will not do: {error.message.rstrip('.')}")


def _inside(place: str, key: str) -> str:
    key = key if len(key) <= 80 else f"{key[:80]}…"
    return f"{place}.{key}" if place else key


def _said(value: Any) -> str:
    """A value as an error shows it: short, whatever it is."""
    if isinstance(value, dict | list | tuple):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return "a number of very many digits"
    told = repr(value)
    return told if len(told) <= 60 else f"{told[:60]}…"
