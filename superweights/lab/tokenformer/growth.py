"""A TokenFormer with more slots, and the same function to the bit.

New keys are zero, so a new slot's score is `GeLU(0) = 0` and the norm over slots stays; tau keeps its value; new values
are random. Were the values zero as well, every gradient of the new slots would be exactly zero for ever. The other
ways are kept under their sources' names:

`paper`: zero keys, tau = sqrt(all slots), the literal text of arXiv 2410.23168, section 3.3: the scores change;
`released`: random keys and tau = sqrt(all slots), what the released loader does: the scores change twice over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.lab.tokenformer.config import KINDS, TokenFormerConfig
from superweights.lab.tokenformer.model import TokenFormerForCausalLM
from superweights.lab.tokenformer.pattention import Pattention

Way = Literal["exact", "paper", "released"]
WAYS: tuple[Way, ...] = ("exact", "paper", "released")


def grown(
    model: nn.Module, slots: int, *, ffn_slots: int | None = None, way: Way = "exact", seed: int = 0
) -> TokenFormerForCausalLM:
    """A new model: `model` with `slots` more slots in q, k, v and output of every block, `ffn_slots` in the FFN.

    `ffn_slots` None keeps the ratio that the model has. The old model is left as it is. With `exact` the logits are
    equal to the bit (`torch.equal` in eval mode). Raises `SuperweightsError` for a model that is no TokenFormer, and
    for fewer than one slot.
    """
    if not isinstance(model, TokenFormerForCausalLM):
        raise SuperweightsError(
            f"A {type(model).__name__} has no slots to add to.", hint="only a TokenFormer grows this way."
        )
    old: Any = model.config
    config = grown_config(old, slots, ffn_slots, way)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        larger = TokenFormerForCausalLM(config)
    nn.Module.to(larger, dtype=model.dtype, device=model.device).train(model.training)
    _take_over(model, larger, zero_keys=way != "released")
    return larger


def grown_config(
    config: TokenFormerConfig, slots: int, ffn_slots: int | None = None, way: Way = "exact"
) -> TokenFormerConfig:
    """The config after growth; raises `SuperweightsError` as `grown` does."""
    more = _more(config, slots, ffn_slots, way)
    data = config.to_dict()
    data["slots"] = {kind: [*config.slots[kind], more[kind]] for kind in KINDS}
    if way != "exact":
        data["tau"] = {kind: math.sqrt(sum(data["slots"][kind])) for kind in KINDS}
    return TokenFormerConfig(**{k: v for k, v in data.items() if k != "model_type"})


def grow(
    layer: Pattention, slots: int, *, keys: str = "zero", values: str = "random", tau: str = "keep"
) -> range:
    """Add `slots` slots to one Pattention in place; returns the places of the new ones. 0 changes nothing.

    `keys` and `values` are `zero` or `random` (normal, with the old ones' standard deviation), `tau` is `keep` or
    `sqrt` (of all slots). Only zero keys, random values and a kept tau keep the function and can learn; what the other
    combinations do is a table in the tests.
    """
    old = sum(layer.generations)
    if slots < 0:
        raise SuperweightsError(f"{slots} slots cannot be added.", hint="give a positive number.")
    if not slots:
        return range(old, old)
    tau_ = layer.tau if tau == "keep" else math.sqrt(old + slots)
    width = layer.key.in_features, layer.value.out_features
    larger = Pattention(*width, (*layer.generations, slots), tau_, layer.scoring).to(layer.key.weight)
    with torch.no_grad():
        for name, how, dim in (("key.weight", keys, 0), ("value.weight", values, 1)):
            was, now = layer.get_parameter(name), larger.get_parameter(name)
            new = torch.zeros_like(now) if how == "zero" else torch.randn_like(now) * was.std()
            now.copy_(new).narrow(dim, 0, old).copy_(was)
    layer.key, layer.value, layer.generations, layer.tau = (
        larger.key,
        larger.value,
        larger.generations,
        larger.tau,
    )
    return range(old, old + slots)


def _more(config: TokenFormerConfig, slots: int, ffn_slots: int | None, way: str) -> Mapping[str, int]:
    """How many slots each kind gets."""
    if way not in WAYS:
        raise SuperweightsError(
            f"There is no way to grow called {way!r}.", hint=f"choose from {', '.join(WAYS)}."
        )
    if ffn_slots is None:
        ffn_slots = round(slots * config.total("ffn") / config.total("q"))
    if slots < 1 or ffn_slots < 1:
        raise SuperweightsError(
            f"A TokenFormer cannot grow by {slots if slots < 1 else ffn_slots} slots.",
            hint="give at least 1: slots are only ever added.",
        )
    return {kind: ffn_slots if kind == "ffn" else slots for kind in KINDS}


def _take_over(model: nn.Module, larger: nn.Module, zero_keys: bool) -> None:
    """Write the old weights into the larger model, where they stood; the new keys are zero where asked for."""
    with torch.no_grad():
        for layer in larger.modules():
            if isinstance(layer, Pattention) and zero_keys:
                layer.key.weight.zero_()
        for (name, was), (also, now) in zip(model.named_parameters(), larger.named_parameters(), strict=True):
            assert name == also, "growth changes shapes, never names"
            now[_region(was)] = was


def _region(tensor: Tensor) -> tuple[slice, ...]:
    """Where a smaller tensor stands in one that grew at the end of an axis."""
    return tuple(slice(0, n) for n in tensor.shape)
