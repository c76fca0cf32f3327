"""Where are the largest numbers of a model's forward pass, site by site, and at which channels and tokens?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from superweights.interpretability.body import Body
from superweights.taps import Site, Tap

KINDS = ("block_out", "attn_write", "mlp_write", "mlp_act")
_SIZE, _RATIO = 100.0, 1000.0


@dataclass(eq=False)
class Extreme:
    """What is kept of one site: the largest |value|; for the residual stream its medians, channels and places too."""

    largest: float = 0.0
    medians: list[float] = field(default_factory=list)
    channels: Tensor | None = None
    places: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def median(self) -> float:
        return sum(self.medians) / max(1, len(self.medians))

    def massive(self) -> tuple[int, ...]:
        """The channels above 100 and a thousand medians, the largest first. Source: arXiv 2402.17762, section 2."""
        if self.channels is None:
            return ()
        bar = max(_SIZE, _RATIO * self.median)
        order = self.channels.argsort(descending=True).tolist()
        return tuple(channel for channel in order if self.channels[channel] >= bar)


class HeadroomReduction:
    """Keeps the extremes of every site of the kinds `KINDS` that the model has; `answer` gives them by site."""

    def __init__(self) -> None:
        self._held: dict[Site, Extreme] = {}
        self._ids: Tensor | None = None

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        sites = [
            site
            for kind in KINDS
            for layer in range(body.layers)
            if (site := Site(kind, layer)) in body.sites.places
        ]
        self._held = {site: Extreme() for site in sites}
        return {site: self._on(site) for site in sites}

    def begin(self, ids: Tensor) -> None:
        self._ids = ids

    def answer(self) -> dict[Site, Extreme]:
        return self._held

    def _on(self, site: Site) -> Tap:
        def look(values: Tensor) -> None:
            held, sizes = self._held[site], values.detach().abs()
            held.largest = max(held.largest, float(sizes.max()))
            if site.kind != "block_out":
                return
            assert self._ids is not None, "begin came first"
            channels = sizes.flatten(0, -2).amax(0).float().cpu()
            held.channels = channels if held.channels is None else torch.maximum(held.channels, channels)
            for row, peaks in enumerate(sizes.amax(-1)):
                position = int(peaks.argmax())
                held.places[position, int(self._ids[row, position])] += 1
                held.medians.append(float(sizes[row].float().median()))

        return look
