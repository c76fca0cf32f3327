"""Facts of a model that every measurement needs: where it computes, how many tokens it knows, how many it reads."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.subject.batch import Batch

# What a model's own code raises when it is run in a way that it does not expect.
CANNOT_RUN = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, NotImplementedError)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's input goes: the device of its first tensor in memory.

    A streamed model's own `device` would say meta while its first parameter is not in memory.
    """
    return next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))


def vocabulary_of(model: nn.Module) -> int:
    """How many tokens the model can read: the rows of its input embedding."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    if not isinstance(embedding, nn.Embedding) and hasattr(model, "get_output_embeddings"):
        head: Any = model.get_output_embeddings()  # type: ignore[operator]
        embedding = embedding if head is None else head
    return embedding.weight.shape[0]


def vocabulary_by_config(config: Any) -> int:
    """How many tokens a model of this transformers config knows, before it is built."""
    return config.get_text_config().vocab_size


def context_of(model: nn.Module) -> int | None:
    """How many tokens the model reads at most, or None where its config does not say.

    A composite config (text and image) is asked for its text part.
    """
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def predicted(output: Any) -> Tensor:
    """What a model's output says: its logits, or the last states where it has no head."""
    for name in ("logits", "last_hidden_state"):
        found = getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    return output if isinstance(output, Tensor) else next(part for part in output if isinstance(part, Tensor))


def forward(model: nn.Module, batch: Batch, **more: Any) -> Any:
    """What the model gives for a batch, without a cache of keys and values; `more` are further arguments."""
    takes = "use_cache" in inspect.signature(model.forward).parameters
    return model(**batch.arguments, **more, **({"use_cache": False} if takes else {}))


def check_windows(model: nn.Module, windows: Int[Tensor, "n length"], *, shortest: int = 2) -> None:
    """Raise `SuperweightsError` unless the model can read `windows [n, length]`, of `shortest` tokens or more."""
    if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < shortest:
        raise SuperweightsError(
            f"Windows must have the shape [n, length] with {shortest} or more tokens each, "
            f"got {list(windows.shape)}.",
            hint="cut them with superweights.subject.windows.",
        )
    check_tokens(model, windows)
    check_length(model, windows.shape[1])


def check_tokens(model: nn.Module, ids: Int[Tensor, "rows tokens"]) -> None:
    """Raise `SuperweightsError` for a token id that the model does not know."""
    known = vocabulary_of(model)
    if int(ids.min()) < 0 or int(ids.max()) >= known:
        raise SuperweightsError(
            f"The text has token {int(ids.max())}, and the model knows {known}.",
            hint="the tokenizer belongs to another model.",
        )


def check_length(model: nn.Module, length: int) -> None:
    """Raise `SuperweightsError` for a window of more tokens than the model reads."""
    limit = context_of(model)
    if limit is not None and limit < length:
        raise SuperweightsError(
            f"The window has {length} tokens, and the model reads at most {limit}.",
            hint=f"use a window of at most {limit} tokens.",
        )
