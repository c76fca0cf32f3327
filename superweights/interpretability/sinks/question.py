"""Where does attention go when there is nothing to say? The first token as a sink.

A softmax has to sum to one. A head that finds nothing must put its weight somewhere, and models put it on a
token that every query can see and whose value says little: the first. Each number here measures one thing:

- `sink_rate`, attention goes there: the share of heads whose mean weight on token 0 is above eps, per sample
  (Sink_1^eps of Gu et al., arXiv 2410.10781);
- `argmax_share`, it goes there first: the share of (head, query) pairs whose largest weight is on token 0
  (Kaul et al., arXiv 2410.17174, who call it a share of heads);
- `mass`, how much goes there: the mean weight on token 0;
- `drain`, and it brings nothing: the norm of token 0's value over the others' (Guo et al., arXiv 2410.13835);
- `key_pull`, because every query finds its key: the cosine of queries with key 0, less that with the others;
- `quietest`, heads that write little, whatever they look at: output norm over the mean of the layer's other
  heads, AHON(LN), the best of twelve scores in Sandoval-Segura et al. (arXiv 2504.03889); `head_mass` is the
  usual one, AWFT.

Query 0 sees only itself and is left out, but in `sink_rate`, whose definition has it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from superweights.errors import SuperweightsError
from superweights.interpretability.body import Body
from superweights.interpretability.chunks import check_causal, looks_ahead, query_slices, repeated
from superweights.interpretability.rows import PerRow
from superweights.interpretability.sinks.answer import Head, Sinks
from superweights.interpretability.study import Study
from superweights.subject import NextToken, objective_of
from superweights.taps import Site, Tap

_SHORTEST = 8


class SinkReduction:
    """The reduction behind `superweights anatomy sinks`: answers with `Sinks`.

    `eps` is the mean weight on a token from which a head counts as sinking there; 0.3 and windows of 64
    tokens are the published choice. `two_way` allows for encoders, whose queries see what comes after them too: there
    the mean is over all queries, and every position may be a sink, not the first half alone.
    """

    def __init__(self, eps: float = 0.3, two_way: bool = False):
        if not 0 < eps < 1:
            raise SuperweightsError(f"eps is {eps}.", hint="it is a share of attention, such as 0.3.")
        self.eps = eps
        self._may_see_all, self._two_way = two_way, None
        self._shape = (0, 0)
        self._rates = PerRow()  # of each row the share of heads above eps
        self._elsewhere: dict[int, Tensor] = {}  # how often a head sinks at positions 0 to T/2
        self._kept = {name: PerRow() for name in ("argmax", "mass", "drain", "pull", "spare", "norms", "own")}
        self._query: Tensor | None = None

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        taps: dict[Site, Tap] = {}
        for layer in body.attending():
            taps[Site("weights", layer)] = self._on_weights(layer)
            for kind, look in (
                ("q", self._on_q),
                ("k", self._on_k),
                ("v", self._on_v),
                ("head_out", self._on_out),
            ):
                if Site(kind, layer) in body.sites.places:
                    taps[Site(kind, layer)] = look(layer)
        return taps

    def begin(self, ids: Tensor) -> None:
        if ids.shape[1] < _SHORTEST:
            raise SuperweightsError(
                f"Windows of {ids.shape[1]} tokens are too short for a sink: every query sees mostly token 0.",
                hint=f"use windows of at least {_SHORTEST} tokens; the published measure has 64.",
            )
        self._shape = self._shape[0] + ids.shape[0], ids.shape[1]

    def answer(self) -> Sinks:
        rows, tokens = self._shape
        mass, norms = self._kept["mass"].stacked().mean(1), self._kept["norms"]
        layers = self._kept["mass"].layers
        quiet = _quiet_heads(norms) if norms.layers == layers else None
        elsewhere = torch.stack([self._elsewhere[n].double() for n in layers]).mean(1) / rows
        other = elsewhere[:, 1:].mean(0) if elsewhere.shape[1] > 1 else torch.zeros(1)
        return Sinks(
            rows,
            tokens,
            self.eps,
            layers,
            sink_rate=self._rates.means(),
            argmax_share=self._kept["argmax"].means(),
            mass=tuple(mass.mean(1).tolist()),
            own=self._kept["own"].means(),
            spare=self._kept["spare"].means(),
            drain=self._kept["drain"].means() if self._kept["drain"].layers == layers else None,
            key_pull=self._kept["pull"].means() if self._kept["pull"].layers == layers else None,
            head_mass=tuple(map(tuple, mass.tolist())),
            quietest=quiet,
            other_rate=other.max().item(),
            other_position=int(other.argmax()) + 1,
            summary=(
                self._rates.score(f"Sink_1^{self.eps:g}", "of heads"),
                self._kept["argmax"].score("largest weight on token 0", "of query-head pairs"),
                self._kept["mass"].score("weight on token 0", "of attention"),
            ),
        )

    def _on_weights(self, layer: int) -> Tap:
        def look(weights: Tensor) -> None:
            rows, heads, tokens, _ = weights.shape
            if self._two_way is None:
                self._two_way = self._may_see_all and looks_ahead(weights)
            if not self._two_way:
                check_causal(weights, layer)
            half = tokens if self._two_way else max(1, tokens // 2)
            seen_by = torch.arange(tokens, tokens - half, -1, device=weights.device)
            seen_by = torch.full_like(seen_by, tokens) if self._two_way else seen_by
            above = weights[..., :half].sum(2, dtype=torch.float32) / seen_by > self.eps
            self._rates.add(layer, above[..., 0].double().mean(1))
            self._elsewhere[layer] = self._elsewhere.get(layer, 0) + above.sum(0).cpu()
            later = weights[:, :, 1:]
            first = torch.zeros(rows, device=weights.device)
            for part in query_slices(later):
                piece = later[:, :, part]
                first += torch.count_nonzero(piece[..., 0] >= piece.amax(-1), dim=(1, 2))
            self._kept["argmax"].add(layer, first / (heads * (tokens - 1)))
            self._kept["mass"].add(layer, later[..., 0].mean(-1, dtype=torch.float32))
            own = later.diagonal(1, -2, -1)[..., : tokens - 1]
            self._kept["own"].add(layer, own.mean((1, 2), dtype=torch.float32))
            self._kept["spare"].add(layer, 1 - weights[:, :, -1].sum(-1, dtype=torch.float32).mean(1))

        return look

    def _on_q(self, layer: int) -> Tap:
        def look(queries: Tensor) -> None:
            self._query = normalize(queries.float(), dim=-1)

        return look

    def _on_k(self, layer: int) -> Tap:
        def look(keys: Tensor) -> None:
            queries, self._query = self._query, None
            if self._two_way or queries is None or keys.shape[1] == 0 or queries.shape[1] % keys.shape[1]:
                return
            unit = repeated(normalize(keys.float(), dim=-1), queries.shape[1])
            before = unit[:, :, 1:].cumsum(2) / torch.arange(1, unit.shape[2], device=unit.device)[:, None]
            asked = queries[:, :, 1:]
            if asked.shape != before.shape:
                return
            pull = (asked * unit[:, :, :1]).sum(-1) - (asked * before).sum(-1)
            self._kept["pull"].add(layer, pull.mean((1, 2)))

        return look

    def _on_v(self, layer: int) -> Tap:
        def look(values: Tensor) -> None:
            norms = values.float().norm(dim=-1)
            self._kept["drain"].add(layer, (norms[..., 0] / norms[..., 1:].mean(-1)).mean(1))

        return look

    def _on_out(self, layer: int) -> Tap:
        def look(out: Tensor) -> None:
            self._kept["norms"].add(layer, out.float().norm(dim=-1).mean(1))

        return look


def _quiet_heads(norms: PerRow) -> tuple[Head, ...]:
    """Every head with its output norm over the mean of the layer's other heads, the quietest first."""
    found = []
    for layer, held in zip(norms.layers, norms.stacked().mean(1), strict=True):
        heads = len(held)
        if heads < 2:
            continue
        relative = held / ((held.sum() - held) / (heads - 1)).clamp_min(1e-30)
        found += [Head(layer, head, value) for head, value in enumerate(relative.tolist())]
    return tuple(sorted(found, key=lambda head: head.value))


def reduction(study: Study) -> SinkReduction:
    """The reduction for `study`."""
    decodes = isinstance(objective_of(study.model), NextToken) and study.tower is None
    return SinkReduction(two_way=not decodes)
