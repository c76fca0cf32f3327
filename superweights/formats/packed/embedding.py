"""A table of tokens whose rows stay packed, and the head that shares it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from superweights.formats.packed.kernels import Int8
from superweights.formats.packed.linear import PackedLinear, Packing


class PackedEmbedding(PackedLinear):
    """`embedding(ids)`: only the rows that are asked for are dequantized. As a linear layer it is the head tied to it.

    `shell` is the model's own embedding: its forward is asked with the rows that are needed, so that what it does
    besides (scaling) is done.
    """

    def __init__(self, packing: Packing, shell: nn.Module, device: Any = None):
        like: Any = shell.weight
        super().__init__(packing, False, like.dtype, device)
        self.num_embeddings, self.embedding_dim = packing.shape
        for name, buffer in shell.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=False)
        # tells the dtype that the model computes in, and changes with it
        self.register_buffer("like", torch.empty(0, dtype=like.dtype), persistent=False)
        self.padding_idx = None
        self.__dict__["_shell"] = shell

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of `ids [...]`: `[..., hidden]`."""
        asked, places = ids.unique(return_inverse=True)
        shell: Any = self.__dict__["_shell"]
        shell._parameters = {"weight": nn.Parameter(self.rows(asked), requires_grad=False)}
        shell._buffers = {name: self._buffers[name] for name in shell._buffers}
        shell.padding_idx = None
        return shell(places)

    def start_buffers(self, family: Any) -> None:
        """Give the shell's buffers, which no file holds, the values that `family._init_weights` starts them with."""
        shell: Any = self.__dict__["_shell"]
        if not shell._buffers:
            return
        scales: Any = self.scales
        shell._parameters = {"weight": nn.Parameter(torch.zeros(1, self.embedding_dim), requires_grad=False)}
        shell._buffers = {
            name: torch.zeros(buffer.shape, dtype=buffer.dtype, device=scales.device)
            for name, buffer in shell._buffers.items()
        }
        family._init_weights(shell)
        self._buffers.update(shell._buffers)

    def project(self, x: Tensor) -> Tensor:
        """The logits of hidden states `x [..., hidden]`: this table as the head."""
        return super().forward(x)

    def rows(self, ids: Tensor) -> Tensor:
        """Some rows, `[rows, hidden]`."""
        like: Any = self.like
        self.prepare(like.dtype)
        if isinstance(self._kernel, Int8) and self.kept_indices is None:
            scales = self._kernel.scales.to(like.dtype)
            return self._kernel.codes[ids].to(like.dtype).mul_(scales[ids][:, None])
        return self.dequantize(like.dtype)[ids]


class TiedHead(nn.Module):
    """A head without weights of its own: the logits of the embedding that it is tied to."""

    def __init__(self, embedding: PackedEmbedding, bias: nn.Parameter | None = None):
        super().__init__()
        self.__dict__["_embedding"] = embedding
        self.in_features, self.out_features = embedding.embedding_dim, embedding.num_embeddings
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """The embedding's dense weight, made anew."""
        return self.__dict__["_embedding"].weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[..., vocabulary]`."""
        logits = self.__dict__["_embedding"].project(x)
        return logits if self.bias is None else logits + self.bias
