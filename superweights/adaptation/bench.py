"""A checkpoint opened for adaptation: the model resident, its prompts' reader, and its matrices' factors on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from superweights.adaptation.cache import decompositions
from superweights.adaptation.expert import Expert
from superweights.adaptation.factors import Factors
from superweights.adaptation.matrices import Matrix, matrices_of
from superweights.adaptation.speaking import Reader
from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.stream import streaming


@dataclass(frozen=True)
class Opening:
    """How a model is opened: its name, dtype and device, and whether prompts are put as a chat."""

    model: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    chat: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True, eq=False)
class Bench:
    """An open checkpoint, its model in memory, and the reader of its prompts. Factors are found once and kept."""

    checkpoint: Checkpoint
    model: nn.Module
    reader: Reader
    progress: Progress
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
def opened(opening: Opening, progress: Progress = silent) -> Iterator[Bench]:
    """The bench of a checkpoint. Raises `SuperweightsError` for one without a tokenizer: tasks are text."""
    with open_checkpoint(
        opening.model, allow_pickle=opening.allow_pickle, trust_remote_code=opening.trust_remote_code
    ) as checkpoint:
        tokenizer: Any = checkpoint.tokenizer()
        if tokenizer is None:
            raise SuperweightsError(
                f"{checkpoint.name} has no tokenizer, and prompts are text.",
                hint="put tokenizer.json beside the weights.",
            )
        with streaming(checkpoint, dtype=opening.dtype, device=opening.device, resident=True) as model:
            yield Bench(checkpoint, model, Reader(tokenizer, opening.chat), progress)


def unfinished(to: Path) -> Path:
    """Where the training of the expert `to` stands until it is done."""
    return to.with_name(f".{to.name}.training") / "state.pt"
