"""What edits do to a model: the findings of `score`, `ablate` and `scale`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from superweights.record import Score, plain


@dataclass(frozen=True)
class Side:
    """A model's own numbers on the text."""

    perplexity: Score | None
    """exp of the mean loss; None where nothing is predicted."""
    bits_per_byte: Score | None = None
    """None where the tokenizer does not tell which characters a token stands for."""
    losses: tuple[float | None, ...] = ()
    """The mean loss of each window, nats/token; None where it is infinite or no number."""


@dataclass(frozen=True)
class EditMade:
    """A weight, and what it was multiplied by or set to."""

    address: str
    """`TENSOR[i, j]`."""
    factor: float | None = None
    """None where it was set."""
    value: float | None = None
    """None where it was multiplied."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, with the one of the two that there is."""
        told = {"address": self.address, "factor": self.factor, "value": self.value}
        return {name: held for name, held in told.items() if held is not None}


@dataclass(frozen=True)
class EffectRow:
    """The model under one set of edits, beside the model as it is."""

    name: str
    """What was changed, in words."""
    edits: tuple[EditMade, ...]
    """Each edit."""
    changes: tuple[dict[str, Any], ...]
    """Each weight: `address`, the number `before` and `after`."""
    perplexity: Score | None
    """Of the edited model; None where it predicts nothing."""
    bits_per_byte: Score | None
    """Of the edited model."""
    losses: tuple[float | None, ...]
    """Of the edited model, window by window, in the unit of `loss`."""
    loss: Score
    """How much the loss rises, paired window by window; of a model without a head how far its embedding moves."""
    kl: Score | None
    """KL(as it is || edited) of what is predicted; None where nothing is."""
    agreement: Score
    """The share of positions where both put the same token first; of windows with the same nearest neighbour."""


@dataclass(frozen=True)
class LastWordsRow:
    """Last words of passages, by the model as it is (`base`) or under a row's edits."""

    name: str
    """`base`, or the row's name."""
    accuracy: Score
    """The share of passages whose last word is the greedy continuation."""
    perplexity: Score
    """Per word."""


@dataclass(frozen=True)
class Continuation:
    """A prompt, and what each model writes after it."""

    prompt: str
    """What both continue."""
    base: str
    """What the model as it is writes."""
    other: str
    """What the changed model writes."""
    temperature: float
    """0 is greedy."""
    seed: int | None
    """Of the samples; None for greedy ones."""
    name: str = ""
    """The row whose edits change the model."""


@dataclass(frozen=True)
class TokenChange:
    """One token's mean probability before and after."""

    token: int
    """Its id."""
    text: str
    """Itself, decoded."""
    base: float
    """Its mean probability in the model as it is."""
    other: float
    """And in the changed model."""
    change: Score
    """The paired difference."""
    ratio: float | None
    """other / base; None from zero."""
    ratio_interval: tuple[float, float] | None
    """The 95 % percentile interval of a seeded bootstrap over prompts."""


@dataclass(frozen=True)
class TokenShift:
    """How the mean next-token distribution moves from one model to another. Standard errors are over prompts."""

    prompts: int
    """How many prompts the means are over."""
    leading: tuple[TokenChange, ...]
    """The tokens most likely in the model as it is (the published ranking)."""
    gained: tuple[TokenChange, ...]
    """Those with the largest rise of probability."""
    lost: tuple[TokenChange, ...]
    """Those with the largest fall."""
    gained_ratio: tuple[TokenChange, ...]
    """Those multiplied most."""
    lost_ratio: tuple[TokenChange, ...]
    """Those divided most."""
    entropy_base: Score
    """Entropy of the next token, nats."""
    entropy_other: Score
    """The same for the changed model."""
    kl: Score
    """KL(base || other)."""
    stop_words_base: Score
    """The probability of the declared stop words."""
    stop_words_other: Score
    """The same for the changed model."""
    stop_words_change: Score
    """The paired difference."""
    name: str = ""
    """The row whose edits change the model."""


@dataclass(frozen=True)
class Effects:
    """What a model scores as it is and under each row of edits."""

    conditions: dict[str, Any]
    """On what it was measured: text, cut, BOS, dtype, device."""
    base: Side
    """The model as it is."""
    rows: tuple[EffectRow, ...] = ()
    """The model under each set of edits."""
    last_words: tuple[LastWordsRow, ...] | None = None
    """None where no passages were given."""
    continuations: tuple[Continuation, ...] | None = None
    """None where no prompts were given."""
    shift: tuple[TokenShift, ...] | None = None
    """None where it was not asked for."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; what was not asked for is left out."""
        told = {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}
        return {name: value for name, value in told.items() if value is not None}
