"""Stacked experts whose matrices stay packed: they are dense for one call at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from superweights.formats.packed.linear import Packing
from superweights.formats.packed.packing import PARTS, unpack
from superweights.formats.packed.place import Piece


class PackedTensor(nn.Module):
    """One rounded tensor of any shape, its packed parts as buffers."""

    def __init__(self, packing: Packing, device: Any = None):
        super().__init__()
        self.packing = packing
        for name in PARTS:
            stored = packing.parts.get(name)
            held = (
                None
                if stored is None
                else torch.empty(stored[1], dtype=getattr(torch, stored[0]), device=device)
            )
            self.register_buffer(name, held)

    def dense(self) -> Tensor:
        """The tensor as the file would hold it, kept weights in their places."""
        p = self.packing
        parts = {name: getattr(self, name) for name in PARTS}
        return unpack(parts, p.scheme, torch.Size(p.shape), getattr(torch, p.dtype), p.out_axis).dequantize()


class PackedExperts(nn.Module):
    """A model's own experts, computed by their own forward, whose stacked parameters are made anew for each call.

    `packed` gives for each parameter the stored tensors that it is made of, and where each lies in it. What else the
    experts hold (biases) is held here under its own name.
    """

    def __init__(
        self, shell: nn.Module, packed: Mapping[str, Sequence[tuple[Packing, Piece]]], device: Any = None
    ):
        super().__init__()
        self.__dict__["_shell"] = shell  # no submodule: the model's own initialisation would visit it
        self._shapes = {name: shell.get_parameter(name).shape for name in packed}
        self._dtype = next(shell.get_parameter(name).dtype for name in packed)
        self._pieces = {name: [piece for _, piece in several] for name, several in packed.items()}
        # past the checks of `register_parameter`, which would find the names in the shell
        self._parameters.update({name: p for name, p in shell._parameters.items() if name not in packed})
        self._buffers.update(shell._buffers)
        self._non_persistent_buffers_set.update(shell._non_persistent_buffers_set)
        self.packed = nn.ModuleDict(
            {
                name: nn.ModuleList(PackedTensor(packing, device) for packing, _ in several)
                for name, several in packed.items()
            }
        )

    def dense(self, name: str, dtype: torch.dtype) -> nn.Parameter:
        """The parameter `name` of the experts, `[experts, ...]`, in `dtype`."""
        held: Any = self.packed[name]
        made = torch.empty(self._shapes[name], dtype=dtype, device=held[0].codes.device)
        for tensor, piece in zip(held, self._pieces[name], strict=True):
            piece.put(tensor.dense(), made)
        return nn.Parameter(made, requires_grad=False)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the experts answer to hidden states `x` and whatever else their block gives them."""
        shell = copy.copy(self.__dict__["_shell"])
        shell._parameters = {**self._parameters, **{name: self.dense(name, x.dtype) for name in self._shapes}}
        shell._buffers = dict(self._buffers)
        return shell(x, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_shell"], name)
