"""Models whose encoder reads pictures or sounds: test signals made here go through the model's own processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.subject.batch import Batch
from superweights.subject.objective import Objective
from superweights.subject.pictured import drawn_pictures

_SECONDS, _RATE = 2.0, 16_000


@dataclass(frozen=True, eq=False)
class Sensed:
    """As `inner`, with a picture or a sound in the place of the encoder's text.

    `argument` is what the model calls it; `processor()` makes it, and is asked once, when the first batch is made.
    """

    inner: Objective
    argument: str
    processor: Callable[[], Any]
    checkpoint: str
    """Its name, for what a person is told."""

    @property
    def name(self) -> str:
        """As the objective inside."""
        return self.inner.name

    @property
    def unit(self) -> str:
        """As the objective inside."""
        return self.inner.unit

    @property
    def pool(self) -> Any:
        """As the objective inside, where it pools."""
        return self.inner.pool  # type: ignore[attr-defined]

    def batch(self, ids: Tensor, first: int = 1, whole: bool = False) -> Batch:
        """The rows of `inner`; row r has signal r modulo their number."""
        made = self.inner.batch(ids, first, whole)
        kept = {key: held for key, held in made.arguments.items() if key.startswith("decoder_")}
        chosen = torch.arange(len(ids)) % len(self._signals)
        return Batch({self.argument: self._signals[chosen].to(ids.device), **kept}, made.labels)

    @cached_property
    def _signals(self) -> Tensor:
        """The test signals as the model reads them, one a row."""
        processor = self.processor()
        sees = self.argument == "pixel_values"
        try:
            made = (
                processor(images=drawn_pictures(), return_tensors="pt")
                if sees
                else _heard(processor, getattr(processor, "feature_extractor", processor))
            )
        except (ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
            raise self._refused((str(error).strip() or type(error).__name__).splitlines()[0]) from error
        found = made.get(self.argument)
        if not isinstance(found, Tensor):
            raise self._refused(f"it makes {', '.join(made)}, and the model reads {self.argument}")
        return found

    def _refused(self, why: str) -> SuperweightsError:
        return SuperweightsError(
            f"The processor of {self.checkpoint} prepares no {self.argument}: {why}",
            hint="give the model's arguments in a file with --inputs.",
        )


def made_sounds(rate: int = _RATE, seconds: float = _SECONDS) -> list[Any]:
    """Four sounds of some seconds as samples between -1 and 1: a rising tone, a chord, clicks, noise (seeded)."""
    import numpy

    t = numpy.arange(int(rate * seconds)) / rate
    rising = numpy.sin(2 * numpy.pi * (200 + 300 * t) * t)
    chord = numpy.mean([numpy.sin(2 * numpy.pi * f * t) for f in (262, 330, 392)], axis=0)
    clicks = (numpy.arange(len(t)) % (rate // 8) < 16).astype("float64")
    noise = numpy.random.default_rng(0).uniform(-1, 1, len(t))
    return [each.astype("float32") for each in (rising, chord, clicks, noise)]


def _heard(processor: Any, extractor: Any) -> Any:
    rate = getattr(extractor, "sampling_rate", _RATE)
    return extractor(made_sounds(rate), sampling_rate=rate, return_tensors="pt")
