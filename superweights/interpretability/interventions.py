"""What a change does: the loss beside that of the model as it is, and beside random controls of equal count."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from superweights.address import Address
from superweights.interpretability.answer import Sheet
from superweights.progress import Progress, silent
from superweights.record import Score
from superweights.scoring import loss_change, loss_per_window, perplexity_of
from superweights.subject import layout_of
from superweights.taps import Site, Tap, tapping

Change = Callable[[], AbstractContextManager[Any]]

# A random control is drawn this many times, and its losses are averaged window by window.
DRAWS = 3


@dataclass(frozen=True)
class Outcome:
    """What a change costs: `loss` is the paired rise in nats per token, `perplexity` what comes of it.

    `control` says that it is what a change of nothing special does; controls are means over draws. `measured`
    are other numbers under the change.
    """

    name: str
    """What was changed."""
    loss: Score
    perplexity: Score
    control: bool = False
    measured: dict[str, float] | None = None


class Trials:
    """The model and the windows that changes are judged on."""

    def __init__(
        self, model: nn.Module, ids: Tensor, batch_size: int | None = None, progress: Progress = silent
    ):
        self.model, self.ids, self.batch_size = model, ids, batch_size
        self._progress = progress
        self.base = self._losses(ExitStack)

    def outcome(self, name: str, *changes: Change, control: bool = False, **measured: float) -> Outcome:
        """The mean outcome of `changes` (several: draws of one control)."""
        losses = torch.stack([self._losses(change) for change in changes]).mean(0)
        loss = replace(loss_change(self.base, losses), name=f"loss: {name}")
        return Outcome(name, loss, perplexity_of(losses), control, dict(measured) or None)

    def as_it_is(self) -> Outcome:
        """The model unchanged."""
        loss = Score("loss: as it is", 0.0, "nats/token", len(self.base))
        return Outcome("as it is", loss, perplexity_of(self.base))

    def _losses(self, change: Change) -> Tensor:
        with (
            change()
        ):  # around everything: scoring also makes logits without the blocks, where no tap is reached
            return loss_per_window(self.model, self.ids, batch_size=self.batch_size, progress=self._progress)


def tapped(model: nn.Module, taps: Mapping[Site, Tap]) -> Change:
    """The change that `taps` make."""
    return lambda: tapping(model, taps)


@contextmanager
def together(*changes: Change) -> Iterator[None]:
    """Several changes at once."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change())
        yield


def silenced(heads: Sequence[tuple[int, int]]) -> dict[Site, Tap]:
    """Taps that set the outputs of heads `(layer, head)` to zero, before the output projection.

    The output projection's own output mixes all heads: its input is the place where one can be taken out.
    """
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def tap_of(here: list[int]) -> Tap:
        def silence(out: Tensor) -> Tensor:
            changed = out.clone()
            changed[:, :, here] = 0
            return changed

        return silence

    return {Site("head_out", layer): tap_of(here) for layer, here in by_layer.items()}


def random_weights(model: nn.Module, weights: Sequence[Address], seed: int) -> tuple[Address, ...]:
    """As many other weights, each drawn from the tensor of one of `weights`; the same for the same seed."""
    drawn: list[Address] = []
    generator = random.Random(seed)
    for address in weights:
        parameter, index = layout_of(model).parameter_of(address)
        shape = model.get_parameter(parameter).shape
        # A converted tensor is stored in another shape: stay inside what the address itself shows to exist.
        limits = tuple(shape) if index == address.index else tuple(i + 1 for i in address.index)
        while True:
            other = Address(address.tensor, tuple(generator.randrange(limit) for limit in limits))
            if other not in weights and other not in drawn:
                drawn.append(other)
                break
    return tuple(drawn)


def sheet_of(title: str, outcomes: Sequence[Outcome], note: str = "") -> Sheet:
    """The outcomes as a table."""
    extra = list(dict.fromkeys(key for outcome in outcomes for key in outcome.measured or {}))
    rows = [
        (
            f"{'control: ' if outcome.control else ''}{outcome.name}", outcome.perplexity.value,
            outcome.loss.value, outcome.loss.standard_error,
            *((outcome.measured or {}).get(key) for key in extra),
        )
        for outcome in outcomes
    ]  # fmt: skip
    return Sheet(title, ("change", "perplexity", "loss rises by", "±", *extra), rows, note)
