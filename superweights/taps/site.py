"""How a place in a model's forward pass is named, and where a given model has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from superweights.errors import SuperweightsError

# A tap sees the tensor at a site; what it returns, if anything, takes the tensor's place.
Tap = Callable[[Tensor], Tensor | None]

# What each kind of site holds. B rows, T tokens, S tokens attended to, d width, H heads, H_kv key and value
# heads, d_h width of a head, d_ff neurons, V vocabulary.
KINDS: Mapping[str, str] = {
    "embed": "[B, T, d] what the token embedding gives",
    "block_in": "[B, T, d] the residual stream before a block",
    "attn_norm_in": "[B, T, d] what attention reads, before its norm; an edit leaves the residual stream alone",
    "q": "[B, H, T, d_h] queries, rotated",
    "k": "[B, H_kv, S, d_h] keys, rotated",
    "v": "[B, H_kv, S, d_h] values",
    "logits": "[B, H, T, S] attention before the softmax, masked",
    "weights": "[B, H, T, S] attention after the softmax",
    "head_out": "[B, T, H, d_h] what each head gives to the output projection (after a gate, where there is one)",
    "attn_write": "[B, T, d] what attention, or another token mixer, adds to the residual stream (after a post-norm)",
    "mid": "[B, T, d] the residual stream between attention and MLP",
    "mlp_norm_in": "[B, T, d] what the MLP reads, before its norm; an edit leaves the residual stream alone",
    "mlp_act": "[B, T, d_ff] neurons: the input of the down-projection",
    "mlp_write": "[B, T, d] what the MLP adds to the residual stream (after a post-norm)",
    "block_out": "[B, T, d] the residual stream after a block",
    "final_norm_in": "[B, T, d] what the last norm before the head reads",
    "head_logits": "[B, T, V] the model's logits, for as many tokens as its caller asks for",
}
WITHOUT_LAYER = ("embed", "final_norm_in", "head_logits")
INSIDE_ATTENTION = ("q", "k", "v", "logits", "weights")


@dataclass(frozen=True, order=True)
class Site:
    """A place in the forward pass: its kind (see `KINDS`) and, for kinds inside a block, the block's number.

    >>> print(Site("block_out", 11))
    block_out of layer 11
    """

    kind: str
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SuperweightsError(
                f"There is no site of kind {self.kind!r}.", hint=f"the kinds are {', '.join(KINDS)}."
            )
        if (self.layer is None) != (self.kind in WITHOUT_LAYER):
            needs = "has no layer" if self.kind in WITHOUT_LAYER else "needs the number of a layer"
            raise SuperweightsError(
                f"A site of kind {self.kind} {needs}.", hint="write Site('embed'), or Site('block_out', 11)."
            )

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind} of layer {self.layer}"


@dataclass(frozen=True)
class SitePlace:
    """Where a model has a site: a module and one of its edges.

    `edge`: `input`, `output`, `logits` (of the model's output), `attention` (inside the attention of module
    `path`; `through_interface` says how it is reached), or `sum` (block input plus the output of `path`).
    The site's tensor is `scale` times the module's; `heads` is how many heads share its last axis.
    """

    path: str
    edge: str
    scale: float = 1.0
    heads: int | None = None
    through_interface: bool = False


@dataclass(frozen=True)
class SiteMap:
    """Where a model has which site: the paths of its blocks in the order they run, places, and refusals.

    `refused` says in words why a site cannot be tapped in this model. `tokens` is how many states a row had in the
    tower that was looked at (13 of a text of 13 tokens; of a picture as many as it always has).
    """

    blocks: tuple[str, ...]
    places: Mapping[Site, SitePlace] = field(repr=False)
    refused: Mapping[Site, str] = field(repr=False)
    tokens: int | None = None

    def place(self, site: Site) -> SitePlace:
        """Where `site` is. Raises `SuperweightsError` with the reason where this model has no such place."""
        found = self.places.get(site)
        if found is not None:
            return found
        if site.layer is not None and not 0 <= site.layer < len(self.blocks):
            raise SuperweightsError(
                f"There is no {site}: the model runs {len(self.blocks)} blocks.", hint="layers count from 0."
            )
        reason = self.refused.get(site, "this model has no such place")
        raise SuperweightsError(f"{site} cannot be tapped: {reason}.", hint=_hint(self, site))

    def layers_with(self, kind: str) -> tuple[int, ...]:
        """The layers that have a site of this kind."""
        return tuple(n for n in range(len(self.blocks)) if Site(kind, n) in self.places)

    def refusals(self) -> dict[str, str]:
        """The kinds that some layer lacks, each with the reason of the first such layer."""
        found: dict[str, str] = {}
        for site, reason in self.refused.items():
            found.setdefault(site.kind, reason)
        return found


def _hint(sites: SiteMap, site: Site) -> str:
    others = sites.layers_with(site.kind) if site.layer is not None else ()
    if others:
        return f"layers {', '.join(map(str, others[:12]))}{' ...' if len(others) > 12 else ''} have one."
    here = [s.kind for s in sites.places if s.layer in (site.layer, None)]
    return f"this model has {', '.join(kind for kind in KINDS if kind in here)}."
