"""What became of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from superweights.artefacts.shape import shaped
from superweights.lab.profile import Profile
from superweights.lab.recipe import Recipe


@dataclass(frozen=True)
class Result:
    """The end of a run: `status` is `done`, or `diverged` with the reason in `why`.

    `step` updates on `tokens` predicted tokens took `seconds` by the clock and `cpu_seconds` of this process (looking
    and saving apart); `load` is how many programs wanted the machine at the end. `start` is the profile before the
    first step, `end` after the last, None where the run diverged. `optimizer_bytes` is what the optimizer remembers.
    """

    recipe: Recipe
    """What was trained."""
    status: Literal["done", "diverged"]
    why: str | None
    step: int
    tokens: int
    seconds: float
    cpu_seconds: float
    processes: int
    """How many shared each batch."""
    load: float | None
    optimizer_bytes: int
    versions: dict[str, str]
    """Of what its numbers depend on."""
    start: Profile | None = None
    end: Profile | None = None

    @property
    def tokens_per_cpu_second(self) -> float:
        """Speed; only runs of one machine, side by side, can be compared."""
        return self.tokens / self.cpu_seconds if self.cpu_seconds else float("nan")

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` reads back."""
        held = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **held,
            "recipe": self.recipe.to_dict(),
            "start": None if self.start is None else asdict(self.start),
            "end": None if self.end is None else asdict(self.end),
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Result:
        """The inverse of `to_json`. Raises `SuperweightsError` naming the field that is none of a result's."""
        hint = "remove result.json: the same command goes on with the run."
        stored = shaped(_Stored, held, "a run's result", hint, "some")
        return shaped(cls, {**held, "recipe": Recipe.from_dict(stored.recipe)}, "a run's result", hint)


@dataclass(frozen=True)
class _Stored:
    """What a stored result holds of its recipe."""

    recipe: dict[str, Any]
