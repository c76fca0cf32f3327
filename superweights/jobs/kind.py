"""What a job is to the store and its workers: a payload in, a result out, both JSON."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from superweights.errors import SuperweightsError


class Payload(Protocol):
    """What one job is to do, with nothing said of how. A frozen noun that JSON can hold."""

    @property
    def key(self) -> str:
        """A hash of all that it says: equal for equal jobs, on every machine."""
        ...

    @property
    def subject(self) -> str:
        """What it is about, by fingerprint: jobs of one subject are done by a worker that has it open."""
        ...

    def to_json(self) -> str:
        """One line of JSON, always the same for the same job."""
        ...


@dataclass(frozen=True)
class Kind:
    """One kind of jobs; each store holds a single one."""

    word: str
    """What a run of them is called in messages: `sweep`."""
    payload: Any
    """The class of the payloads, with `from_json(text, where)`."""
    result: Any
    """The dataclass of the results, of JSON values."""


class Worker(Protocol):
    """A subject that is open, ready for its jobs."""

    @property
    def together(self) -> int:
        """How many jobs it can do at once."""
        ...

    def do(self, payloads: Sequence[Any]) -> list[Any | SuperweightsError]:
        """The result of each payload in order; the error of one that cannot be done costs the others nothing."""
        ...


class Task(Protocol):
    """The jobs of one subject, and how a worker opens it. Goes to other processes and machines by pickle."""

    @property
    def kind(self) -> Kind:
        """The kind of its jobs."""
        ...

    @property
    def fingerprint(self) -> str:
        """The subject's."""
        ...

    @property
    def name(self) -> str:
        """What a person calls the subject."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its jobs."""
        ...

    def opened(self) -> AbstractContextManager[Worker]:
        """The subject, open for as long as the `with` lasts."""
        ...

    def shared(self, workers: int) -> Task:
        """The task for `workers` processes that share this machine's memory."""
        ...


def kind_of(tasks: Sequence[Task]) -> Kind:
    """The one kind of all tasks."""
    kinds = {task.kind.word: task.kind for task in tasks}
    assert len(kinds) == 1, "a store holds jobs of one kind"
    return next(iter(kinds.values()))
