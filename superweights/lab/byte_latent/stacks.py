"""Sinks and large activations of a Byte Latent Transformer, stack by stack: they have other widths and lengths, and an
average over them would be of nothing.

The latent transformer's first place is patch 0, which is always the first byte; that of encoder and decoder is byte 0,
asked only of bytes that still have it in their window. The cross-attentions have no place that all look at, and say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.lab.byte_latent.layers import SelfAttention
from superweights.lab.byte_latent.model import ByteLatentForCausalLM
from superweights.lab.byte_latent.patching import Patches

# Queries before this one see so few places that the first is always one of the largest.
FROM = 10
_PER_PATCH = "its patches read their own bytes only: there is no place that all of them see"
_PER_BYTE = "each byte reads the parts of one patch only: there is no place that all of them see"


@dataclass(frozen=True)
class StackProfile:
    """One stack. `sink` and the like are None with the reason in `why` where the stack has no such thing."""

    stack: str
    """Which one."""
    first: str
    """What its first place is: patch 0 or byte 0."""
    queries: int
    """How many places of all rows were asked what they look at."""
    sink: float | None
    """The mean share of attention on the first place, over layers, heads and queries from the tenth on."""
    uniform: float | None
    """The same if every place in view were looked at alike."""
    argmax_share: float | None
    """The share of those (layer, head, query) that look at the first place most."""
    peak: float | None
    """The largest activation of the first place after any block, over the median magnitude there."""
    peak_others: float | None
    """The same of all other places."""
    why: str = ""


def stack_profiles(
    model: ByteLatentForCausalLM, ids: Int[Tensor, "rows tokens"], starts: Tensor | None = None
) -> list[StackProfile]:
    """The profile of each stack on `ids`, whose patches are the model's own or begin at `starts`.

    Raises `SuperweightsError` where no row has more than ten patches: nothing would be asked.
    """
    inner = model.model
    starts = inner.starts(ids) if starts is None else starts
    patches = Patches.of(starts)
    real = patches.lengths > 0
    if int(real.sum(1).max()) <= FROM:
        raise SuperweightsError(
            f"No row has more than {FROM} patches, and from the tenth on a sink is looked for.",
            hint="give longer rows, or patches of fewer bytes.",
        )
    whole, window = torch.ones_like(ids, dtype=torch.bool), model.config.local_attention_window_len
    stacks = {
        "byte encoder": (inner.local_encoder, "byte 0", whole),
        "latent transformer": (inner.global_transformer, "patch 0", real),
        "byte decoder": (inner.local_decoder, "byte 0", whole),
    }
    with _read_eagerly(model), torch.no_grad():
        gathered = {name: _Gathered(places) for name, (_, _, places) in stacks.items()}
        handles = [
            handle for name, (stack, _, _) in stacks.items() for handle in gathered[name].listen(stack)
        ]
        try:
            model(input_ids=ids, starts=starts)
        finally:
            for handle in handles:
                handle.remove()
    found = [
        gathered[name].profile(name, first, None if name == "latent transformer" else window)
        for name, (_, first, _) in stacks.items()
    ]
    none = (0, None, None, None, None, None)
    encoder_reads = StackProfile("patches read bytes", "none", *none, why=_PER_PATCH)
    decoder_reads = StackProfile("bytes read patches", "none", *none, why=_PER_BYTE)
    return [found[0], encoder_reads, found[1], decoder_reads, found[2]]


@dataclass(eq=False)
class _Gathered:
    """What the hooks of one stack saw; `places [rows, length]` says which places are there at all."""

    places: Tensor
    """False for the padding of rows with fewer patches."""
    weights: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    def listen(self, stack: Any) -> Iterator[Any]:
        """The handles of hooks on each block and its attention."""
        for block in stack.layers:
            yield block.self_attn.register_forward_hook(lambda _m, _a, out: self.weights.append(out[1]))
            yield block.register_forward_hook(lambda _m, _a, out: self.states.append(out.abs()))

    def profile(self, name: str, first: str, window: int | None) -> StackProfile:
        """The numbers of the stack."""
        asked = self.places.clone()
        asked[:, :FROM] = False
        asked[:, window or asked.shape[1] :] = False  # from there on the first place is out of view
        at = torch.arange(asked.shape[1], device=asked.device).expand_as(asked)[asked]
        seen = torch.cat(
            [each.transpose(1, 2)[asked] for each in self.weights]
        )  # [layers x queries, heads, keys]
        peak, others = zip(*map(self._peaks, self.states), strict=True)
        return StackProfile(
            stack=name,
            first=first,
            queries=int(asked.sum()),
            sink=seen[..., 0].mean().item(),
            uniform=(1 / (at + 1).float()).mean().item(),
            argmax_share=(seen.argmax(-1) == 0).float().mean().item(),
            peak=max(peak),
            peak_others=max(others),
        )

    def _peaks(self, state: Tensor) -> tuple[float, float]:
        """The largest magnitude of the first place, and of the others, over the median of all."""
        rest = self.places.clone()
        rest[:, 0] = False
        middle = state[self.places].median().clamp_min(1e-12)
        return (state[:, 0].max() / middle).item(), (state[rest].max() / middle).item()


@contextmanager
def _read_eagerly(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, its attention such that weights come out; each as before afterwards."""
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, SelfAttention)}
    before, was = {key: config._attn_implementation for key, config in configs.items()}, model.training
    model.eval()
    for config in configs.values():
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        model.train(was)
        for key, config in configs.items():
            config._attn_implementation = before[key]
