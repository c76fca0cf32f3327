"""Which objective a checkpoint has, and which class of transformers' opens it: read off transformers' own mappings.

The class that a checkpoint says it was saved from (`architectures`) is looked up among the classes that transformers
maps its type to, one mapping for each kind of model. Nothing here knows a model by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from superweights.errors import SuperweightsError

NAMES = ("next-token", "masked", "embedding", "seq2seq", "image")
AUTO = "auto"

# The mappings that open a model for each objective, as transformers' auto classes have them; the first that knows the
# type is taken. Text alone goes through models that see or hear as well.
_CLASSES: Mapping[str, tuple[str, ...]] = {
    "next-token": ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"),
    "masked": ("AutoModelForMaskedLM",),
    "embedding": ("AutoModel",),
    "seq2seq": ("AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq", "AutoModelForImageTextToText"),
    "image": ("AutoModelForImageTextToText", "AutoModelForMultimodalLM"),
}
# Where the class of a checkpoint is looked for, in this order: many classes stand in two mappings.
_ORDER = (
    ("AutoModelForCausalLM", "next-token"),
    ("AutoModelForMaskedLM", "masked"),
    ("AutoModelForSeq2SeqLM", "seq2seq"),
    ("AutoModelForSpeechSeq2Seq", "seq2seq"),
    ("AutoModelForImageTextToText", "next-token"),
    ("AutoModelForMultimodalLM", "next-token"),
)


@dataclass(frozen=True)
class Opening:
    """What a checkpoint is opened for, and how."""

    objective: str
    """One of `NAMES`."""
    auto_class: str
    """The name of the auto class."""
    model_class: Any
    """The class of transformers' that the auto class makes of the config; None for code of the checkpoint's own."""


def opening_for(config: Any, name: str, asked: str = AUTO) -> Opening:
    """How the model of `config` is opened for the objective `asked`; `auto` as its class says.

    A decoder that sees is read with text alone unless `image` is asked for, which needs its processor. Raises
    `SuperweightsError` for a word that is no objective, and for an objective that the type does not have.
    """
    if asked not in (AUTO, *NAMES):
        raise SuperweightsError(
            f"There is no objective {asked!r}.", hint=f"choose one of {', '.join((AUTO, *NAMES))}."
        )
    objective = _own_objective(config) if asked == AUTO else asked
    found = _opened_as(config, objective)
    if found is None and asked == AUTO:
        found = Opening("next-token", "AutoModelForCausalLM", None)
    if found is None:
        raise SuperweightsError(
            f"{name} ({type(config).__name__}) cannot be read for the objective {objective}: transformers has no such "
            "class of its type.",
            hint=f"its own objective is {_own_objective(config)}; leave --objective out.",
        )
    return found


def _opened_as(config: Any, objective: str) -> Opening | None:
    named = next(iter(getattr(config, "architectures", None) or ()), None)
    known = [(auto, _mapped(auto, config)) for auto in _CLASSES[objective]]
    known = [(auto, classes) for auto, classes in known if classes]
    for auto, classes in known:
        own = next((each for each in classes if each.__name__ == named), None)
        if own is not None:
            return Opening(objective, auto, own)
    return Opening(objective, known[0][0], known[0][1][0]) if known else None


def _own_objective(config: Any) -> str:
    """The objective of the class that the checkpoint was saved from, or of the type where that says nothing."""
    named = next(iter(getattr(config, "architectures", None) or ()), None)
    holding = [goal for auto, goal in _ORDER if named in [c.__name__ for c in _mapped(auto, config)]]
    if not holding and named in [c.__name__ for c in _mapped("AutoModel", config)] and _is_encoder(config):
        return "embedding"
    if not holding:
        holding = [goal for auto, goal in _ORDER if _mapped(auto, config)]
        holding = [goal for goal in holding if goal != "next-token" or not _is_encoder(config)]
    if getattr(config, "is_encoder_decoder", False) and "seq2seq" in holding:
        return "seq2seq"
    if holding:
        return holding[0]
    return "embedding" if _mapped("AutoModel", config) else "next-token"


def _is_encoder(config: Any) -> bool:
    """Whether each token of the type sees what comes after it: it fills in masked words and is not set to decode, or
    has no class that predicts words at all."""
    masked = bool(_mapped("AutoModelForMaskedLM", config))
    causal = bool(_mapped("AutoModelForCausalLM", config))
    return (masked and getattr(config, "is_decoder", None) is not True) or not causal


def _mapped(auto: str, config: Any) -> tuple[Any, ...]:
    """The classes that an auto class makes of this type of config."""
    import transformers

    found = getattr(transformers, auto)._model_mapping.get(type(config), None)
    return found if isinstance(found, tuple) else () if found is None else (found,)
