"""What goes into a model's forward, and which of its predictions are scored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows that go through a model together."""

    arguments: dict[str, Tensor]
    """What `forward` is given, by the names of its parameters; every tensor begins with the rows."""
    at: tuple[Tensor, Tensor]
    """Row and position `[k]` of each prediction that is scored."""
    targets: Tensor
    """The token id `[k]` that each of them should have predicted."""

    def __len__(self) -> int:
        return len(next(iter(self.arguments.values())))
