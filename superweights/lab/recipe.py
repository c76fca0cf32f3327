"""A recipe: all that decides what a trained model will be. A frozen dataclass and a TOML file."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from superweights.artefacts.reading import read_text
from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError
from superweights.lab.architecture import Architecture
from superweights.lab.optimizers.spec import OptimizerSpec
from superweights.lab.tasks import TASKS, BackCopy, TaskSpec

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Schedule:
    """How long, in what pieces, and how often to look.

    The learning rate rises in a line over `warmup` of all steps, then falls on a cosine to `final` of its height.
    """

    steps: int = 700  # updates
    batch: int = 8  # rows in one update, over all processes and micro-batches
    accumulate: int = 1  # micro-batches that one update is summed over
    warmup: float = 0.05  # share of the steps
    final: float = 0.1  # share of the learning rate that is left at the end
    clip: float = 1.0  # largest norm of all gradients together; 0: none
    precision: Precision = "float32"  # bfloat16: matrix products in it, weights and moments in float32
    measure_every: int = 100  # steps between two profiles; 0: at the beginning and the end alone
    checkpoint_every: int = 250  # steps that a killed run may have to do again; 0: none is kept
    log_every: int = 10  # steps that one line of the log is the mean of
    held_out: int = 64  # rows that profiles are taken on

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every", "held_out"):
            _check(name, getattr(self, name), isinstance(getattr(self, name), int) and getattr(self, name) >= 1,
                   "write a whole number, at least 1.")  # fmt: skip
        for name in ("measure_every", "checkpoint_every", "clip"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "write 0 for none, or more.")
        for name in ("warmup", "final"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "it is a share between 0 and 1.")
        _check("precision", self.precision, self.precision in get_args(Precision), "float32 or bfloat16.")
        _check("batch", self.batch, self.batch % self.accumulate == 0, "micro-batches must divide it.")

    def rate(self, step: int) -> float:
        """The share of the learning rate that update `step` (from 0) is made with."""
        warm = round(self.warmup * self.steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        along = (step - warm) / max(1, self.steps - warm)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * along)) / 2


@dataclass(frozen=True)
class Recipe:
    """Architecture, optimizer, task, schedule and the seed of the first weights; the data's own seed is the task's.

    Raises `SuperweightsError` where they do not fit together.
    """

    name: str = "control"
    """What it is called in tables."""
    architecture: Architecture = field(default_factory=Architecture)
    """The decoder's design."""
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    task: TaskSpec = field(default_factory=BackCopy)
    schedule: Schedule = field(default_factory=Schedule)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set('/\\:*?"<>|') or self.name.startswith("."):
            raise SuperweightsError(
                f"A recipe cannot be called {self.name!r}.", hint="it becomes a folder's name."
            )
        if self.architecture.vocabulary != self.task.vocabulary:
            raise SuperweightsError(
                f"The task has {self.task.vocabulary} ids and the architecture {self.architecture.vocabulary}.",
                hint=f"set architecture.vocabulary = {self.task.vocabulary}.",
            )
        if self.architecture.context < self.task.length:
            raise SuperweightsError(
                f"Rows have {self.task.length} tokens and the architecture reads {self.architecture.context}.",
                hint=f"set architecture.context = {self.task.length}.",
            )

    @property
    def tokens(self) -> int:
        """Tokens that are learned from, BOS not counted: it is never predicted."""
        return self.schedule.steps * self.schedule.batch * (self.task.length - 1)

    @property
    def fingerprint(self) -> str:
        """Names everything but the recipe's name: two recipes with one fingerprint give the same weights."""
        facts = {key: value for key, value in self.to_dict().items() if key != "name"}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def with_(self, dial: str, value: Any) -> Recipe:
        """This recipe with one dial changed: `seed`, or a table and its dial, such as `architecture.attention`.

        Raises `SuperweightsError` for a dial that does not exist.
        """
        table, _, name = dial.partition(".")
        if dial in ("name", "seed"):
            return replace(self, **{dial: value})
        known = [each.name for each in fields(getattr(self, table))] if table in _TABLES else []
        if name not in known:
            known = known or [*(f"{each}." for each in _TABLES), "name", "seed"]
            raise SuperweightsError(f"A recipe has no dial {dial!r}.", hint=f"known: {', '.join(known)}.")
        return replace(self, **{table: replace(getattr(self, table), **{name: value})})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by table."""
        return {
            "name": self.name,
            "seed": self.seed,
            "architecture": self.architecture.to_dict(),
            "optimizer": self.optimizer.to_dict(),
            "task": {"kind": _kind_of(self.task), **_listed(asdict(self.task))},
            "schedule": asdict(self.schedule),
        }

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`; what is left out has its default. Raises for what no recipe has."""
        task = held.get("task", {})
        kind = task.get("kind", "backcopy") if isinstance(task, Mapping) else None
        if not isinstance(kind, str) or kind not in TASKS:
            raise SuperweightsError(f"There is no task {kind!r}.", hint=f"known: {', '.join(TASKS)}.")
        tables = {**held, "task": {key: value for key, value in task.items() if key != "kind"}}
        forms = {
            "architecture": Architecture,
            "optimizer": OptimizerSpec,
            "task": TASKS[kind],
            "schedule": Schedule,
        }
        made = {
            table: shaped(form, tables.get(table, {}), f"[{table}]", _dials(form))
            for table, form in forms.items()
        }
        top = {key: value for key, value in held.items() if key not in forms}
        return shaped(_Top, top, "the recipe", f"it has name, seed, {', '.join(forms)}.").over(made)

    def to_toml(self) -> str:
        """A TOML file that `from_toml` reads back."""
        held = self.to_dict()
        lines = [f"{key} = {json.dumps(held[key])}" for key in ("name", "seed")]
        for table in _TABLES:
            lines += ["", f"[{table}]", *(f"{k} = {json.dumps(v)}" for k, v in held[table].items())]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """The recipe of a TOML file's text; what it leaves out has its default."""
        try:
            held = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # of the syntax, a number of too many digits, nesting
            raise SuperweightsError(
                f"This recipe is not TOML: {error}.", hint="superweights lab list --toml control shows one."
            ) from error
        return cls.from_dict(held)

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """The recipe in a TOML file. Raises `SuperweightsError` where there is none."""
        hint = "give a TOML file, or a name that superweights lab list shows."
        if not Path(path).is_file():
            raise SuperweightsError(f"There is no recipe {path}.", hint=hint)
        return cls.from_toml(read_text(Path(path), hint=hint))


_TABLES = ("architecture", "optimizer", "task", "schedule")


def _kind_of(task: TaskSpec) -> str:
    return next(kind for kind, made in TASKS.items() if type(task) is made)


def _listed(held: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, which TOML and JSON have."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in held.items()}


def _dials(form: type) -> str:
    return f"known: {', '.join(each.name for each in fields(form))}."


@dataclass(frozen=True)
class _Top:
    """What stands above a recipe's tables."""

    name: str = "control"
    seed: int = 0

    def over(self, tables: Mapping[str, Any]) -> Recipe:
        """The recipe of these tables."""
        return Recipe(name=self.name, seed=self.seed, **tables)


def _check(name: str, value: Any, right: bool, hint: str) -> None:
    if not right:
        raise SuperweightsError(f"{name} is {value!r}.", hint=hint)
