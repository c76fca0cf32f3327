"""What is known of a model that was opened here: where the checkpoint's scalars are in it, and how its weights come.

The room that opens a model announces it; everyone else asks here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from superweights.address import Layout, SameNames
from superweights.errors import SuperweightsError
from superweights.subject.objective import NextToken, Objective


class WeightStream(Protocol):
    """How the weights of a streamed model come and go: block by block, as it runs."""

    blocks: dict[str, nn.Module]
    """Each block's path and module."""
    on_load: list[Callable[[str, nn.Parameter], None]]
    """Told the name and the parameter each time a streamed parameter has been read, before it is used."""

    def asleep(self) -> AbstractContextManager[None]:
        """Blocks that are called inside the `with` are not read."""
        ...


@dataclass(frozen=True, eq=False)
class _Known:
    layout: Layout | None
    stream: Any
    objective: Objective

    def __deepcopy__(self, memo: Any) -> _Known:
        """A copy of the model has the same names, and its weights no other home."""
        return self


# Where it stands: in the model's own dictionary, so that it goes when the model goes. A table beside the models would
# keep them for ever, since a layout knows its model.
_PLACE = "_superweights_known"


def announce(
    model: nn.Module,
    layout: Layout | None = None,
    stream: WeightStream | None = None,
    objective: Objective | None = None,
) -> None:
    """Remember, as long as `model` lives, where its scalars are, (while it is streamed) how its weights come, and what
    it predicts."""
    vars(model)[_PLACE] = _Known(layout, stream, objective or NextToken())


def objective_of(model: nn.Module) -> Objective:
    """What the model predicts; the next token, where it was opened elsewhere."""
    known = vars(model).get(_PLACE)
    return NextToken() if known is None else known.objective


def layout_of(model: nn.Module) -> Layout:
    """Where the checkpoint's scalars are in `model`; a model opened elsewhere keeps its own names."""
    known = vars(model).get(_PLACE)
    return SameNames() if known is None or known.layout is None else known.layout


def stream_of(model: nn.Module) -> Any:
    """The `WeightStream` of a model whose weights come block by block; None where they stay in memory."""
    known = vars(model).get(_PLACE)
    return None if known is None else known.stream


def is_streamed(model: nn.Module) -> bool:
    """Whether the model's weights come block by block, and are read again for every batch."""
    return stream_of(model) is not None


def check_next_token(model: nn.Module) -> None:
    """Raise `SuperweightsError` for a model that does not predict each token from those before it."""
    objective = objective_of(model)
    if not isinstance(objective, NextToken):
        raise SuperweightsError(
            f"This has no meaning for {type(model).__name__}, whose objective is {objective.name}: it asks what a "
            "decoder says after a text.",
            hint="find, scan, score, ablate, scale, anatomy, quantize and audit work for every objective.",
        )
