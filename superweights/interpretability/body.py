"""A model laid open: its sites, and the modules and matrices that stand at them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from superweights.errors import SuperweightsError
from superweights.subject import Batch, device_of
from superweights.taps import Site, SiteMap, sites_of

# Columns of the identity that go through a linear module of unknown storage at a time.
_COLUMNS = 512


@dataclass(frozen=True, eq=False)
class Body:
    """A model, or one of its towers, and where its sites are. Made by `Body.of(model)`; remembered by taps, so it costs
    once."""

    model: nn.Module
    sites: SiteMap
    tower: str | None = None
    """The stack of blocks that is looked at; None: the last one."""

    @classmethod
    def of(cls, model: nn.Module, tower: str | None = None) -> Body:
        """`model` laid open, at `tower` (None: the last one). Raises `SuperweightsError` where taps cannot read it."""
        return cls(model, sites_of(model, tower), tower)

    @property
    def layers(self) -> int:
        """How many blocks run."""
        return len(self.sites.blocks)

    @property
    def device(self) -> torch.device:
        """Where the model computes: the device of its first tensor in memory."""
        return device_of(self.model)

    def ids_of(self, batch: Batch) -> Tensor:
        """The token ids `[rows, tokens]` that the states of the tower belong to; zeros where it reads no text."""
        held = batch.arguments
        senses = any(tensor.is_floating_point() for tensor in held.values())
        if (self.tower is not None and senses) or not {"input_ids", "decoder_input_ids"} & held.keys():
            return torch.zeros(len(batch), self.sites.tokens or 1, dtype=torch.long, device=self.device)
        read = (
            "input_ids" if self.tower is not None or "decoder_input_ids" not in held else "decoder_input_ids"
        )
        return held[read]

    def every(self, *kinds: str) -> tuple[Site, ...]:
        """The sites of these kinds in every layer; raises `SuperweightsError` where a layer lacks one."""
        return tuple(self._checked(Site(kind, layer)) for layer in range(self.layers) for kind in kinds)

    def attending(self) -> tuple[int, ...]:
        """The layers whose attention weights can be seen; raises `SuperweightsError` where there are none."""
        layers = self.sites.layers_with("weights")
        if not layers:
            reason = self.sites.refusals().get("weights", "no layer of it attends")
            raise SuperweightsError(
                f"The attention of {type(self.model).__name__} cannot be seen: {reason}.",
                hint="ask a question about its residual stream instead, such as massive or kurtosis.",
            )
        return layers

    def module(self, site: Site) -> nn.Module:
        """The module at one of whose edges `site` is."""
        return self.model.get_submodule(self.sites.place(site).path)

    def matrix(self, site: Site) -> Tensor:
        """The matrix `[out, in]` of the linear module that reads `head_out` or `mlp_act`.

        Ask while the layer runs (inside a tap): a streamed model has it only then.
        """
        return matrix_of(self.module(site))

    def _checked(self, site: Site) -> Site:
        self.sites.place(site)
        return site


def matrix_of(module: nn.Module) -> Tensor:
    """The matrix `[out, in]` that a linear module multiplies by, however it stores it (transposed, quantized)."""
    weight = getattr(module, "weight", None)
    if isinstance(module, Conv1D) and weight is not None:
        return weight.detach().T
    if type(module) is nn.Linear and weight is not None:
        return weight.detach()
    width = getattr(module, "in_features", None)
    if not isinstance(width, int):
        raise SuperweightsError(
            f"The matrix of a {type(module).__name__} cannot be read.",
            hint="open the unquantized checkpoint.",
        )
    place = next((t for t in (*module.parameters(), *module.buffers())), torch.empty(0))
    dtype = place.dtype if place.dtype.is_floating_point else torch.float32
    with torch.no_grad():  # its forward itself: hooks and taps are not to see this
        zero = module.forward(torch.zeros(1, width, device=place.device, dtype=dtype))
        rows = [
            module.forward(torch.eye(width, device=place.device, dtype=dtype)[start : start + _COLUMNS])
            - zero
            for start in range(0, width, _COLUMNS)
        ]
    return torch.cat(rows).T
