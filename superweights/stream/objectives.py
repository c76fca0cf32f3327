"""The objective of a checkpoint, made ready: with its tokenizer's special tokens, its pooling, its processor."""

from __future__ import annotations

from typing import Any

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.subject.choosing import AUTO, Opening, opening_for
from superweights.subject.embedding import Embedding, pooling_of
from superweights.subject.facts import vocabulary_by_config
from superweights.subject.masked import Masked
from superweights.subject.objective import Frame, NextToken, Objective
from superweights.subject.pictured import pictured
from superweights.subject.sensed import Sensed
from superweights.subject.sequences import Seq2Seq

_SENTINELS = 100


def opening_of(checkpoint: Checkpoint, asked: str = AUTO) -> Opening:
    """How the checkpoint's model is opened for the objective `asked`. Errors as `opening_for`."""
    return opening_for(checkpoint.model_config(), checkpoint.name, asked)


def objective_for(checkpoint: Checkpoint, opening: Opening, model: Any) -> Objective:
    """What `model` was opened for. Raises `SuperweightsError` where that needs what the checkpoint lacks."""
    if opening.objective == "next-token":
        return NextToken()
    tokenizer = checkpoint.tokenizer()
    if opening.objective == "image":
        return pictured(_processor(checkpoint), checkpoint.name)
    frame = Frame.of(tokenizer)
    if opening.objective == "masked":
        return Masked(_mask(tokenizer, model), frame)
    embeds = opening.objective == "embedding"
    made = Embedding(pooling_of(checkpoint.companion), frame) if embeds else _seq2seq(tokenizer, model, frame)
    sense = getattr(model, "main_input_name", "input_ids")
    if sense == "input_ids":
        return made
    return Sensed(made, sense, lambda: _processor(checkpoint), checkpoint.name)


def _mask(tokenizer: Any, model: Any) -> int:
    """The id that hides a token; without a tokenizer the last of the vocabulary stands for it."""
    if tokenizer is None:
        return vocabulary_by_config(model.config) - 1
    if tokenizer.mask_token_id is None:
        raise SuperweightsError(
            "This tokenizer has no token that hides others, so no masked word can be asked for.",
            hint="read the model with --objective embedding.",
        )
    return tokenizer.mask_token_id


def _seq2seq(tokenizer: Any, model: Any, frame: Frame) -> Seq2Seq:
    return Seq2Seq((_start(model),), frame, _sentinels(tokenizer))


def _start(model: Any) -> int:
    """What the decoder's sequence begins with, by the model's own settings."""
    for held in (
        getattr(model, "generation_config", None),
        model.config,
        model.config.get_text_config(decoder=True),
    ):
        for key in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
            found = getattr(held, key, None)
            if isinstance(found, int):
                return found
    return 0


def _sentinels(tokenizer: Any) -> tuple[int, ...]:
    """The ids that stand for a span taken out, in their order; none where the tokenizer has no such."""
    known = {} if tokenizer is None else tokenizer.get_vocab()
    words = (f"<extra_id_{i}>" for i in range(_SENTINELS))
    return tuple(known[word] for word in words if word in known)


def _processor(checkpoint: Checkpoint) -> Any:
    found = checkpoint.processor()
    if found is None:
        raise SuperweightsError(
            f"{checkpoint.name} has no processor, so no picture or sound can be prepared for it.",
            hint="put its preprocessor_config.json beside the weights, or give the arguments with --inputs.",
        )
    return found
