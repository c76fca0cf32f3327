"""Byte-pair tokens of the same bytes, so that a token model can be scored in bits per byte."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from superweights.lab.byte_latent.alphabet import OFFSET

_PAD, _BOS = 0, 1
# What no token crosses: runs of spaces, of line ends, of letters and digits (one space in front), of anything else.
_WORDS = r" ?[A-Za-z0-9_]+| +|\n+|[^A-Za-z0-9_ \n]+"


@dataclass(frozen=True, eq=False)
class BytePairs:
    """A BPE over bytes: ids 0 and 1 are padding and the beginning, the others stand for one byte or more.

    Bytes go through Latin-1, where every byte is one character, so that nothing is lost and invalid UTF-8 is no error.
    """

    tokenizer: Any
    """The trained BPE."""

    @classmethod
    def trained(cls, data: np.ndarray, vocabulary: int) -> BytePairs:
        """The BPE of `vocabulary` ids that merges what is frequent in `data` (uint8)."""
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
        alphabet = [chr(byte) for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=alphabet,
            special_tokens=["<pad>", "<bos>"],
            show_progress=False,
        )
        text = data.tobytes().decode("latin-1")
        tokenizer.train_from_iterator([text[at : at + 8192] for at in range(0, len(text), 8192)], trainer)
        return cls(tokenizer)

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.get_vocab_size()

    def padded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens `[B, T]` of byte ids `[B, N]` whose first is BOS, padded on the right; and labels, -100 there."""
        texts = [bytes((row[1:] - OFFSET).tolist()).decode("latin-1") for row in ids]
        found = [torch.tensor([_BOS, *each.ids]) for each in self.tokenizer.encode_batch(texts)]
        tokens = nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=_PAD)
        labels = nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-100)
        return tokens, labels

    def size_on(self, ids: Tensor) -> float:
        """Bytes in a token on average."""
        return ids[:, 1:].numel() / float((self.padded(ids)[1][:, 1:] != -100).sum())

    @torch.no_grad()
    def bits_per_byte(self, model: nn.Module, ids: Tensor) -> float:
        """The summed loss of the tokens over the bytes that they stand for, in bits."""
        total = 0.0
        for part in ids.split(8):
            tokens, labels = self.padded(part)
            logits = model(tokens).logits[:, :-1].float()
            total += float(
                nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="sum")
            )
        return total / math.log(2) / ids[:, 1:].numel()
