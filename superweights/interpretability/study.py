"""A study: the model, the tokens and the circumstances under which a question is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from superweights.address import Address
from superweights.progress import Progress, silent


@dataclass(frozen=True, eq=False)
class Study:
    """What every question is given.

    `ids [n, T]` are windows of a text without padding, `bos` whether each begins with that token,
    `tokenizer` may be None. `weights` are super weights to remove in causal questions (known or found
    before; empty: none known); `causal` asks for the interventions too, with their controls. `prompts` is a file
    for the question about relations. `batch_size` None suits the model. `progress(label, done, total)` is told how
    far it is. `tower` is the stack of blocks that is looked at (None: the last one, which predicts).
    """

    model: nn.Module
    ids: Tensor
    tokenizer: Any = None
    bos: bool = False
    weights: tuple[Address, ...] = ()
    prompts: Path | None = None
    causal: bool = False
    batch_size: int | None = None
    seed: int = 0
    """Of everything that is drawn."""
    progress: Progress = silent
    tower: str | None = None

    def ask(self, *reductions: Any) -> list[Any]:
        """The answers of `reductions` on this study's tokens, in one pass."""
        from superweights.interpretability.asking import ask

        return ask(
            self.model,
            self.ids,
            *reductions,
            batch_size=self.batch_size,
            progress=self.progress,
            tower=self.tower,
        )
