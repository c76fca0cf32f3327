"""A cell of a sweep: one model, one set of edits, one text, the scores asked for.

Its key is a hash of exactly these, so that the same cell is found again in a store, by another process, and
on another machine.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import shaped
from superweights.editing import Edit
from superweights.errors import SuperweightsError
from superweights.jobs.kind import Kind

# What a cell can be scored by. `loss` gives perplexity and the loss rise and is always measured.
SCORES = ("loss", "kl", "agreement")
_HINT = "nothing was changed; move the store away, or give another file with --store."


@dataclass(frozen=True)
class Cut:
    """The windows that a cell is scored on: the SHA-256 of their token ids (64 bits each, little-endian), how
    many of which length, and the SHA-256 of the text that they are from, None where there was none."""

    tokens_sha256: str
    """Of the windows' token ids."""
    length: int
    """Tokens in a window."""
    count: int
    """How many windows."""
    bos: bool = False
    """Whether each begins with the beginning-of-sequence token."""
    text_sha256: str | None = None
    """Of the text that they were cut from."""


@dataclass(frozen=True)
class Cell:
    """What is measured, with nothing said of how: `model` is the checkpoint's fingerprint, `dtype` the type
    that it computes in. Edits are a set: their order does not matter, and none is the model as it is. `seed`
    is that of the standard errors.
    """

    model: str
    edits: tuple[Edit, ...]
    """What is changed, all of it together."""
    cut: Cut
    """What it is scored on."""
    scores: tuple[str, ...] = ("loss",)
    """Which of `SCORES` are measured; the loss always is."""
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = set(self.scores) - set(SCORES)
        if unknown:
            raise SuperweightsError(
                f"There is no score called {sorted(unknown)[0]!r}.", hint=f"choose from {', '.join(SCORES)}."
            )
        wanted = tuple(name for name in SCORES if name == "loss" or name in self.scores)
        object.__setattr__(self, "scores", wanted)
        object.__setattr__(
            self, "edits", tuple(sorted(self.edits, key=lambda edit: (edit.address, str(edit))))
        )

    @property
    def subject(self) -> str:
        """The checkpoint's fingerprint."""
        return self.model

    @cached_property
    def key(self) -> str:
        """The cell's hash, 32 hexadecimal digits: equal for equal cells, on every machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """One line of JSON, always the same for the same cell, that `from_json` reads back."""
        data = {
            "model": self.model,
            "edits": [edit.to_json() for edit in self.edits],
            "cut": asdict(self.cut),
            "scores": self.scores,
            "dtype": self.dtype,
            "seed": self.seed,
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, where: str = "a cell") -> Cell:
        """The cell that `to_json` wrote. Raises `SuperweightsError` naming `where` and the field for anything else."""
        return shaped(cls, parse_json(text, where, hint=_HINT), where, _HINT)


@dataclass(frozen=True)
class Numbers:
    """What was measured of a cell, window by window: mean loss and KL(base || cell) in nats per token, and the
    share of positions where both put the same token first. None was not asked for."""

    losses: tuple[float, ...]
    """The mean loss of each window, nats per token."""
    kl: tuple[float, ...] | None = None
    """KL(base || cell) of each window, nats per token."""
    agreement: tuple[float, ...] | None = None
    """The share of positions of each window where both put the same token first."""


SWEEP = Kind("sweep", Cell, Numbers)
