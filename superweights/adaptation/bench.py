"""A checkpoint opened for adaptation: the model resident, its prompts' reader, and its matrices' factors on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from superweights.adaptation.cache import decompositions
from superweights.adaptation.expert import Expert
from superweights.adaptation.factors import Factors
from superweights.adaptation.matrices import Matrix, matrices_of
from superweights.adaptation.speaking import Reader
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.stream.opening import opening
from superweights.subject import Source, check_next_token


@dataclass(frozen=True, eq=False)
class ExpertBench:
    """An open checkpoint, its model in memory, and the reader of its prompts. Factors are found once and kept."""

    checkpoint: Checkpoint
    model: nn.Module
    reader: Reader
    progress: Progress
    """Who is told how far it is."""
    _factors: dict[tuple[str, int | None], Factors] = field(default_factory=dict)

    def matrices(self, part: str, layers: Sequence[int] | None = None) -> tuple[Matrix, ...]:
        """The matrices of a part of the model: see `matrices_of`."""
        return matrices_of(self.model, part, layers)

    def factors(self, matrices: Sequence[Matrix], rank: int | None = None) -> dict[str, Factors]:
        """The factors of `matrices` by path."""
        lacking = [m for m in matrices if (m.path, rank) not in self._factors]
        for path, found in decompositions(self.model, lacking, rank=rank, progress=self.progress).items():
            self._factors[path, rank] = found
        return {m.path: self._factors[m.path, rank] for m in matrices}

    def factors_of(self, *experts: Expert) -> dict[str, Factors]:
        """The factors of all matrices that these experts turn.

        Raises `SuperweightsError` for an expert of another base, for matrices that are not there, and for experts of
        several ranks.
        """
        for expert in experts:
            expert.check_base(self.checkpoint.fingerprint(), self.checkpoint.name)
        ranks = {expert.rank for expert in experts}
        if len(ranks) > 1:
            raise SuperweightsError(
                "The experts were made with several ranks.", hint="train them with the same --rank."
            )
        return self.factors(self.matrices_by(experts), ranks.pop())

    def matrices_by(self, experts: Sequence[Expert]) -> tuple[Matrix, ...]:
        """The matrices that these experts turn."""
        wanted = {path for expert in experts for path in expert.z}
        found = tuple(m for m in matrices_of(self.model, "both") if m.path in wanted)
        missing = wanted - {m.path for m in found}
        if missing:
            raise SuperweightsError(
                f"{self.checkpoint.name} has no matrix {sorted(missing)[0]}.", hint="the expert is damaged."
            )
        return found


@contextmanager
def benched(model: Any = None, *, chat: bool = False, progress: Progress = silent) -> Iterator[ExpertBench]:
    """The bench of a model: a name, a path, an open checkpoint, or a `Source`; its weights stay in memory.

    Raises `SuperweightsError` for one without a tokenizer: tasks are text.
    """
    source = replace(Source.of(model), resident=True)
    progress("opening", 0, 1)
    with opening(source) as opened:
        check_next_token(opened.model)
        yield ExpertBench(opened.checkpoint, opened.model, Reader(opened.tokenizer, chat), progress)
