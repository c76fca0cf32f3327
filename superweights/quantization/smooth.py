"""SmoothQuant: outlier channels of an input made smaller, and the weights that read them larger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from superweights.quantization.activation_scheme import Smooth
from superweights.quantization.linears import Linear, largest_along, observed, tokens_of

_SMALLEST = 1e-5


@dataclass(frozen=True, eq=False)
class Smoothing:
    """The scale of each input channel, by layer; layers without one are not smoothed."""

    scales: dict[str, Tensor] = field(default_factory=dict)
    """By the layer's name: `[channels]`."""

    def divide(self, name: str, x: Tensor) -> Tensor:
        """`x [tokens, channels]` over the layer's scales."""
        scale = self.scales.get(name)
        return x if scale is None else x / scale.to(x.device)

    def multiply(self, linear: Linear) -> Tensor:
        """The layer's weight, as stored, times the scales of its input channels, in float32."""
        scale = self.scales.get(linear.name)
        weight = linear.weight.detach()
        if scale is None:
            return weight
        scale = scale.to(weight.device)
        return weight.float() * (scale if linear.out_axis == 0 else scale[:, None])


@contextmanager
def seeing_channels(model: nn.Module, linears: tuple[Linear, ...], smooth: Smooth) -> Iterator[SeenChannels]:
    """What tells the scales, filled in by what is sent through `model` inside the `with`.

    Layers that are given the same tensor share one scale, as folding into a norm requires; which those are, and
    whether a norm wrote it, is seen in the pass itself.
    """
    seen = SeenChannels(smooth)
    with observed(linears, seen.look), seen.watching_norms(model):
        yield seen


class SeenChannels:
    """The largest |x| and |W| of each input channel, and which layers read the same tensor."""

    def __init__(self, smooth: Smooth):
        self.largest: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self._alpha, self._everywhere = smooth.alpha, smooth.everywhere
        self._by_input: dict[str, list[Linear]] = {}
        self._leader = ""
        self._last: Tensor | None = None
        self._normed: Tensor | None = None

    def look(self, linear: Linear, x: Tensor) -> None:
        if not self._everywhere and x is not self._normed:
            return
        rows, _ = tokens_of(x)
        largest = largest_along(rows, 0)
        known = self.largest.get(linear.name)
        self.largest[linear.name] = largest if known is None else torch.maximum(known, largest)
        if known is not None:
            return
        self.weights[linear.name] = largest_along(linear.weight.detach().float(), linear.out_axis)
        if x is not self._last:
            self._leader, self._last = linear.name, x
        self._by_input.setdefault(self._leader, []).append(linear)

    def smoothing(self) -> Smoothing:
        """The scales of what was seen."""
        scales: dict[str, Tensor] = {}
        for group in self.groups():
            largest_x = torch.stack([self.largest[linear.name] for linear in group]).amax(0)
            largest_w = torch.stack([self.weights[linear.name] for linear in group]).amax(0)
            largest_w = largest_w.to(largest_x.device)
            scale = largest_x.clamp(min=_SMALLEST).pow(self._alpha)
            scale = (scale / largest_w.clamp(min=_SMALLEST).pow(1 - self._alpha)).clamp(min=_SMALLEST)
            scales |= {linear.name: scale for linear in group}
        return Smoothing(scales)

    def groups(self) -> list[list[Linear]]:
        """Layers that read one input, together."""
        return list(self._by_input.values())

    def watching_norms(self, model: nn.Module):
        """Remember what the last norm wrote: a module without children and matrices that keeps a tensor's shape."""
        return _Hooked(model, self._note)

    def _note(self, _module: nn.Module, _inputs, output) -> None:
        self._normed = output


class _Hooked:
    def __init__(self, model: nn.Module, note):
        self._model, self._note, self._hooks = model, note, []

    def __enter__(self) -> None:
        for module in self._model.modules():
            if _is_norm(module):
                self._hooks.append(module.register_forward_hook(self._note))

    def __exit__(self, *_) -> None:
        for hook in self._hooks:
            hook.remove()


def _is_norm(module: nn.Module) -> bool:
    """A leaf with at least one parameter, all of one dimension; or torch's own norms without any."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return True
    own = list(module.parameters(recurse=False))
    return bool(own) and all(p.dim() == 1 for p in own) and not list(module.children())
