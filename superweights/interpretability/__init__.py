"""What goes on inside a model, one question a file or a wing. `superweights anatomy` asks.

The glossary of axes, the same in every file here:

| axis | is |
|---|---|
| B, T | rows of a batch, tokens of a row (position 0 is the first) |
| L | layers: blocks in the order they run, counted from 0 |
| H, H_kv | query heads; key and value heads |
| d, d_h, d_ff | width of the residual stream, of a head, neurons of an MLP |
| V | tokens of the vocabulary |

A measure is a `Reduction`: it taps sites of a running model and keeps what its answer needs, never the
activations. `ask` runs any number of them in one pass:

>>> from superweights.interpretability import Kurtosis, ask
>>> (answer,) = ask(model, ids, Kurtosis())  # doctest: +SKIP

The questions and their files stand in `questions.QUESTIONS`; the command is `superweights anatomy`.
"""

from __future__ import annotations

from typing import Any

from superweights.lazy import found

# Where each public name lives; imported when asked for, so that the command line's help needs no torch.
_HOMES = {
    "Answer": "answer",
    "Sheet": "answer",
    "to_json": "answer",
    "Body": "body",
    "Reduction": "asking",
    "ask": "asking",
    "Study": "study",
    "QUESTIONS": "questions",
    "Question": "questions",
    "question_named": "questions",
    "Kurtosis": "kurtosis",
    "MassiveReduction": "massive.question",
    "Massive": "massive.answer",
    "SinkReduction": "sinks.question",
    "Sinks": "sinks.answer",
    "ContributionReduction": "contributions.question",
    "Contributions": "contributions.answer",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    return found(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return __all__
