"""The entropy model: a small causal byte model that says where the next byte is hard to guess."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from superweights.lab.byte_latent.layers import Block, turns
from superweights.lab.byte_latent.norming import Norm

_CHUNK = 65536


class EntropyModel(nn.Module):
    """Ids `[B, N]` to logits `[B, N, 260]`; `entropies` gives the uncertainty of each next byte, in nats.

    Rows never see each other: the released `calculate_entropies` flattens the batch, so that a row's patches depend on
    its neighbours (its issue 123); this one does not. Parameter names are those of transformers' `BltPatcher`.
    """

    def __init__(self, config: Any, whole: Any = None):
        super().__init__()
        self.config, self.whole = config, whole or config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, self.whole, layer, config.sliding_window)
            for layer in range(config.num_hidden_layers)
        )
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x, n = self.embed_tokens(ids), ids.shape[1]
        width = self.config.hidden_size // self.config.num_attention_heads
        turned = turns(torch.arange(n, device=ids.device), width, theta_of(self.config))
        for layer in self.layers:
            x = layer(x, turned)
        return self.lm_head(self.norm(x))

    @torch.no_grad()
    def entropies(self, ids: Tensor, reset: int | None = None) -> Tensor:
        """The entropy `[B, N]` in nats of the byte after each; with `reset`, what stands up to and with that id is
        forgotten, as if the text began after it."""
        if reset is None:
            rows = max(1, _CHUNK // max(ids.shape[1], 1))
            return torch.cat([_entropy(self(part)) for part in ids.split(rows)])
        pieces = [piece for row in ids for piece in _pieces(row, reset)]
        longest = max(len(piece) for piece in pieces)
        padded = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        assert padded.shape[1] == longest
        found = self.entropies(padded)
        joined = torch.cat([e[: len(piece)] for e, piece in zip(found, pieces, strict=True)])
        return joined.view(ids.shape)


def theta_of(config: Any) -> float:
    """The base of the rotations."""
    return float((config.rope_parameters or {}).get("rope_theta", config.default_theta))


def _entropy(logits: Tensor) -> Tensor:
    logs = logits.float().log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def _pieces(row: Tensor, reset: int) -> list[Tensor]:
    """A row cut after every `reset`."""
    ends = ((row == reset).nonzero().flatten() + 1).tolist()
    bounds = [0, *(end for end in ends if end < len(row)), len(row)]
    return [row[a:b] for a, b in itertools.pairwise(bounds)]
