"""The embedded model laid open, for tests of anatomy: opened once, read once for all one-pass questions."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any

import torch
from small import embedded_folder
from torch import Tensor, nn

from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.interpretability import Study
from superweights.interpretability.questions import answer_all
from superweights.stream import streaming
from superweights.subject.text import embedded_prose, windows

_OPEN = ExitStack()


@functools.cache
def embedded() -> tuple[nn.Module, Checkpoint]:
    """The model, resident, in float32, and its checkpoint; shared by all tests, so leave it as it was."""
    embedded_folder()
    checkpoint = _OPEN.enter_context(open_checkpoint())
    model = _OPEN.enter_context(streaming(checkpoint, resident=True))
    torch.set_grad_enabled(True)  # off inside streaming, which here never ends, and other tests follow
    return model, checkpoint


@functools.cache
def prose(count: int = 32, length: int = 64) -> Tensor:
    """Windows of the embedded prose without a BOS token: the tokens of the known answers."""
    return windows(embedded()[1].tokenizer(), embedded_prose(), length, count)


def study(count: int = 32, **rest: Any) -> Study:
    model, checkpoint = embedded()
    return Study(model, prose(count), checkpoint.tokenizer(), **rest)


@functools.cache
def answers() -> dict[str, Any]:
    """Every one-pass answer on 32 windows of 64 tokens, by the question's word."""
    return answer_all(study())
