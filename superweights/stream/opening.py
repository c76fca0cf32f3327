"""A model opened to run: checkpoint, model and tokenizer together, for as long as a `with` lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from superweights.checkpoint import Checkpoint, opened_checkpoint
from superweights.stream import streaming
from superweights.subject import Source
from superweights.subject.reading import tokenizer_of


@dataclass(frozen=True, eq=False)
class Opened:
    """What is open inside `opening`."""

    checkpoint: Checkpoint
    """The checkpoint that the model is of."""
    model: Any
    """The transformers model, ready for forward passes."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer. Raises `SuperweightsError` where it has none."""
        return tokenizer_of(self.checkpoint)

    def conditions(self) -> dict[str, str]:
        """In which type and where it computes, for a record."""
        return {"dtype": str(self.model.dtype).removeprefix("torch."), "device": str(self.model.device)}


@contextmanager
def opening(model: Any, *, may_be_shared: bool = False) -> Iterator[Opened]:
    """The model of a `Source`, a name, a path, or an open checkpoint (which stays open). Errors as `streaming`.

    `may_be_shared`: what is asked of the model can be asked of one that several processes share.
    """
    source = Source.of(model)
    how = source.shared_loading if may_be_shared else source.loading
    with opened_checkpoint(source) as checkpoint, streaming(checkpoint, **how) as loaded:
        yield Opened(checkpoint, loaded)
