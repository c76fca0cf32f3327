"""What a Large Concept Model is made of, as `config.json` says it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from superweights.errors import SuperweightsError

KINDS = ("base", "one_tower", "two_tower", "quant_discrete", "quant_continuous")

# Where the class is that this config builds; it tells transformers of itself when it is imported.
CLASSES = "superweights.lab.concepts.saved"


class ConceptConfig(PreTrainedConfig):
    """The sizes of a concept model, the encoder whose vectors it reads, and its decoder where it has one.

    `kind`: one of `KINDS`. `concept`: numbers of a vector. `layers`, `context_layers`: of the model (of Base: `layers`
    alone), of the tower that reads. `longest`: sentences that One-Tower has places for. `schedule`: fields of
    `NoiseSchedule`. `books`, `units`: of the two Quants. `encoder`: the package that made vectors. `decoder`: width,
    layers and parts of a `ConceptDecoder`, or None; it needs `encoder`, whose vectors alone it can read.
    """

    model_type = "superweights_concepts"

    def __init__(
        self,
        kind: str = "two_tower",
        concept: int = 384,
        width: int = 128,
        layers: int = 2,
        context_layers: int = 2,
        heads: int = 4,
        longest: int = 128,
        schedule: Mapping[str, Any] | None = None,
        books: int = 4,
        units: int = 64,
        encoder: str | None = None,
        decoder: Mapping[str, int] | None = None,
        **kwargs: Any,
    ):
        self.kind, self.concept, self.width = kind, concept, width
        self.layers, self.context_layers, self.heads, self.longest = layers, context_layers, heads, longest
        self.schedule = dict(schedule or {})
        self.books, self.units = books, units
        self.encoder, self.decoder = encoder, dict(decoder) if decoder else None
        self._check()
        import_module(CLASSES)
        super().__init__(**kwargs)

    def _check(self) -> None:
        """Raise `SuperweightsError` for what makes no model."""
        if self.kind not in KINDS:
            raise SuperweightsError(
                f"There is no concept model of the kind {self.kind!r}.",
                hint=f"choose from {', '.join(KINDS)}.",
            )
        if self.width % self.heads:
            raise SuperweightsError(
                f"A width of {self.width} is not divided by {self.heads} heads.",
                hint="choose a number of heads that divides the width.",
            )
        if self.decoder is not None and not self.encoder:
            raise SuperweightsError(
                "A decoder without its encoder has no vectors that it could read.",
                hint="name the encoder whose vectors it was trained on in the config (encoder=).",
            )
