"""Taps: see and change activations at named sites of a stock transformers model.

>>> from superweights.taps import Site, tapping
>>> seen = {}
>>> taps = {Site("block_out", 11): lambda h: seen.update(peak=h.abs().max())}
>>> with tapping(model, taps):  # doctest: +SKIP
...     model(ids)

Module edges are seen by hooks, the inside of attention by one function in transformers' attention
interface. Which module is which is told by the identities that the numbers of a random batch satisfy, never
by a name: see `sites_of`, and `KINDS` for what each site holds.
"""

from superweights.taps.activations import (
    Recording,
    SuperActivation,
    assigned,
    record_activations,
    restored,
    zeroed,
)
from superweights.taps.resolve import sites_of
from superweights.taps.site import KINDS, Site, SiteMap, SitePlace, Tap
from superweights.taps.tapping import tapping

__all__ = [
    "KINDS",
    "Recording",
    "Site",
    "SiteMap",
    "SitePlace",
    "SuperActivation",
    "Tap",
    "assigned",
    "record_activations",
    "restored",
    "sites_of",
    "tapping",
    "zeroed",
]
