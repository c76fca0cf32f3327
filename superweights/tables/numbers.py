"""How a number is written, and the words below a table: one spelling in the whole house."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.record import Score


# From here on digits are no longer counted off in threes.
_LONG = 1e9


class Measured(Protocol):
    """A number that was measured: a `Score`, or an effect that somebody published."""

    @property
    def value(self) -> float: ...

    @property
    def standard_error(self) -> float | None: ...


def plain(text: str) -> str:
    """`text` with rich's markup brackets and terminal control characters taken out of play."""
    printable = "".join(ch if ch.isprintable() or ch == "\n" else "�" for ch in text)
    return printable.replace("[", "\\[")


def with_error(score: Measured | None, sign: str = "", digits: int = 4) -> str:
    """A number with its error to two digits, and as many decimals (4 at most) as the error gives meaning to.

    `digits` are those of a number without an error. What rounds to zero has no minus.
    """
    if score is None:
        return ""
    value, error = score.value, score.standard_error
    if error is None or not 0 < error < math.inf:
        return f"{value:{sign}z.{digits}g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 4:
        return f"{value:{sign}z.2g} ±{error:z.2g}"
    if max(abs(value), error) >= _LONG:
        return f"{value:{sign}z.3g} ±{error:z.2g}"
    return f"{value:{sign}z,.{decimals}f} ±{error:,.{decimals}f}"


def value(score: Score | None) -> str:
    """The number alone."""
    return "" if score is None else f"{score.value:z.4g}"


def measured(score: Score | None) -> str:
    """A number with its error: a share in percent, anything else to the digits that its error gives meaning to."""
    if score is not None and score.unit.startswith("of "):
        return percent(score)
    return with_error(score)


def share(value: float) -> str:
    """A share, in percent."""
    return f"{value:z.1%}"


def percent(score: Score) -> str:
    """A share with its error, in percent."""
    error = score.standard_error
    return share(score.value) + ("" if error is None else f" ±{100 * error:z.1f}")


def cut_words(windows: int, length: int) -> str:
    """How a text was cut, for the sentence below a table."""
    return f"{counted(windows, 'window')} of {counted(length, 'token')}"


def bos_words(conditions: dict[str, Any]) -> str:
    """Whether windows began with BOS, for the sentence below a table."""
    return "with BOS" if conditions.get("bos") else "without BOS"
