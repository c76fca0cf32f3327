"""Which tokens make a layer's output? Contribution weights, beside attention and two norms.

With `o_i = sum_j a_ij v_j` a head's output, the contribution of token j to query i is its part's projection
on the whole, `c_ij = <a_ij v_j, o_i> / |o_i|²`: weight, size of the value, and direction. Over a layer,
`c_ij = sum_h <a_ij v_j W_O, y_i> / |y_i|²` with `y_i` all that the heads write (without a bias). Each row sums
to 1; a part that points against the output is negative.

Source: Cunningham and Muca Cirone, arXiv 2606.07604, whose numbered definition could not be read: this is the
simplest form with the three factors that its abstract names, so a reconstruction. Beside it under their own
names: attention; value-norm weights `a_ij |v_j|` (arXiv 2406.12335); `|a_ij v_j W_O|` (Kobayashi et al., arXiv
2004.10102), per head. The last two are shown as shares of their row's sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.interpretability.body import Body
from superweights.interpretability.chunks import check_causal, query_slices, repeated
from superweights.interpretability.contributions.answer import MEASURES, Contributions
from superweights.interpretability.rows import PerRow
from superweights.interpretability.study import Study
from superweights.taps import Site, Tap

_BINS = 10
_TINY = 1e-30
# How far a head's output may be from its weights times its values before the parts are not its parts.
_AGREE = 2e-2


@dataclass(frozen=True, eq=False)
class Parts:
    """One layer's attention, taken apart: weights `[B, H, T, S]`, values `[B, H, S, d_h]`, outputs
    `[B, H, T, d_h]`, the output matrix by head `[H, d, d_h]`."""

    weights: Tensor
    values: Tensor
    outputs: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, weights: Tensor, values: Tensor, head_out: Tensor, matrix: Tensor) -> Parts:
        """The parts of what the taps `weights`, `v` and `head_out` saw, and `W_O [d, H d_h]`."""
        heads = weights.shape[1]
        outputs = head_out.float().transpose(1, 2)
        by_head = matrix.float().reshape(matrix.shape[0], heads, -1).transpose(0, 1)
        return cls(weights, repeated(values.float(), heads), outputs, by_head)

    def written(self) -> Tensor:
        """What the heads write together `[B, T, d]`, without a bias."""
        return torch.einsum("bhtc,hdc->btd", self.outputs, self.matrix)

    def seen_by_heads(self, written: Tensor) -> Tensor:
        """What is written `[B, T, d]`, seen by each head through its own matrix: `[B, H, T, d_h]`."""
        return torch.einsum("btd,hdc->bhtc", written, self.matrix)

    def sizes(self) -> tuple[Tensor, Tensor]:
        """Norms `[B, H, S]` of the values, and of the values through the output matrix."""
        gram = self.matrix.transpose(1, 2) @ self.matrix
        through = torch.einsum("bhsc,hce,bhse->bhs", self.values, gram, self.values)
        return self.values.norm(dim=-1), through.clamp_min(0).sqrt()

    def disagreement(self) -> float:
        """How far weights times values are from the heads' outputs, as a share of the largest, in the first row."""
        made = self.weights[:1].float() @ self.values[:1]
        return ((made - self.outputs[:1]).abs().max() / self.outputs[:1].abs().max().clamp_min(_TINY)).item()


def contribution_maps(parts: Parts, queries: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Contribution weights of `queries`: in head space `[B, H, q, S]`, in layer space `[B, q, S]`.

    Nothing of the shape `[B, H, T, S, d]` is made: the projections are products of head width.
    """
    weights, keys = parts.weights[:, :, queries].float(), parts.values.transpose(-1, -2)
    out = parts.outputs[:, :, queries]
    head = weights * (out @ keys) / out.square().sum(-1, keepdim=True).clamp_min(_TINY)
    written = parts.written()[:, queries]
    back = parts.seen_by_heads(written)
    layer = (weights * (back @ keys)).sum(1) / written.square().sum(-1, keepdim=True).clamp_min(_TINY)
    return head, layer


class ContributionReduction:
    """The reduction behind `superweights anatomy contributions`: answers with `Contributions`.

    Queries from `first` on are counted: the earliest see too few tokens to choose from.
    """

    def __init__(self, first: int = 8):
        self.first = first
        self._shape = (0, 0)
        self._kept = {name: PerRow() for name in MEASURES}
        self._opposing = PerRow()
        self._last: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
        self._now: dict[str, Tensor] = {}
        self._values: Tensor | None = None
        self._weights: Tensor | None = None
        self._checked: set[int] = set()
        self._error = 0.0
        self._curve = torch.zeros(2, _BINS, dtype=torch.float64)

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        taps: dict[Site, Tap] = {}
        for layer in body.attending():
            for kind in ("v", "head_out"):
                body.sites.place(Site(kind, layer))
            taps[Site("v", layer)] = self._hold_values
            taps[Site("weights", layer)] = self._hold_weights
            taps[Site("head_out", layer)] = self._on_out(body, layer)
        return taps

    def begin(self, ids: Tensor) -> None:
        if ids.shape[1] <= self.first:
            raise SuperweightsError(
                f"Windows of {ids.shape[1]} tokens have no query from position {self.first} on.",
                hint=f"use windows of at least {self.first + 1} tokens.",
            )
        self._close()
        self._shape = self._shape[0] + ids.shape[0], ids.shape[1]

    def answer(self) -> Contributions:
        self._close()
        layers = self._kept[MEASURES[0]].layers
        count, norm = self._curve
        return Contributions(
            *self._shape,
            self.first,
            layers,
            {name: held.means() for name, held in self._kept.items()},
            self._opposing.means(),
            self._error,
            tuple((norm / count).tolist()),
            tuple(int(each) for each in count.tolist()),
            tuple(held.score(f"token 0: {name}", "share") for name, held in self._kept.items()),
        )

    def last_query(self, measure: str) -> Tensor:
        """What each token is to the last query by `measure` (one of `MEASURES`): `[n, T]`, mean over layers."""
        self._close()
        return torch.cat(self._last[measure]) / len(self._kept[measure].layers)

    def _hold_values(self, values: Tensor) -> None:
        self._values = values

    def _hold_weights(self, weights: Tensor) -> None:
        self._weights = weights

    def _on_out(self, body: Body, layer: int) -> Tap:
        site = Site("head_out", layer)

        def look(head_out: Tensor) -> None:
            weights, values = self._weights, self._values
            self._weights = self._values = None
            if (
                weights is None
                or values is None
                or values.shape[1] == 0
                or weights.shape[1] % values.shape[1]
            ):
                raise _hidden(layer, "its values and weights do not belong to the same heads")
            parts = Parts.of(weights, values, head_out, body.matrix(site))
            if layer not in self._checked:
                check_causal(weights, layer)
                if parts.values.shape[-1] != parts.outputs.shape[-1] or parts.disagreement() > _AGREE:
                    raise _hidden(
                        layer, "a head's output is not its weights times its values (a gate, or several maps)"
                    )
                self._checked.add(layer)
            self._reduce(layer, parts)

        return look

    def _reduce(self, layer: int, parts: Parts) -> None:
        """Of each measure's map, what the answer needs: token 0's column, and the last query's row."""
        rows, _, tokens, _ = parts.weights.shape
        value_norms, through_norms = parts.sizes()
        written = parts.written()
        back, written_square = parts.seen_by_heads(written), torch.linalg.vecdot(written, written)
        keys = parts.values.transpose(-1, -2)
        norms = parts.outputs.norm(dim=-1)
        sums = {name: torch.zeros(rows, device=norms.device) for name in (*MEASURES, "opposing")}
        for part in query_slices(parts.weights, self.first):
            weights, outputs = parts.weights[:, :, part].float(), parts.outputs[:, :, part]
            whole = (back[:, :, part] @ keys).mul_(weights).sum(1)
            whole /= written_square[:, part, None].clamp_min(_TINY)
            self._error = max(self._error, (whole.sum(-1) - 1).abs().max().item())
            sizes = norms[:, :, part].square().clamp_min(_TINY)
            pulls = (outputs @ keys[..., :1])[..., 0], outputs[:, :, -1:] @ keys
            ends = {
                "attention": (weights[..., 0].mean(1), weights[:, :, -1].mean(1)),
                "value norm": _ends_of_shares(weights, value_norms),
                "Kobayashi norm": _ends_of_shares(weights, through_norms),
                "contribution, head": (
                    (weights[..., 0] * pulls[0] / sizes).mean(1),
                    (weights[:, :, -1] * pulls[1][:, :, 0] / sizes[..., -1:]).mean(1),
                ),
                "contribution, layer": (whole[..., 0], whole[:, -1]),
            }
            for name, (first, last) in ends.items():
                sums[name] += first.sum(-1)
                if part.stop == tokens:
                    self._now[name] = self._now.get(name, 0) + last
            sums["opposing"] += whole.clamp(max=0).sum((-1, -2))
        counted = tokens - self.first
        for name in MEASURES:
            self._kept[name].add(layer, sums[name] / counted)
        self._opposing.add(layer, sums["opposing"] / counted)
        self._note_curve(parts.weights[:, :, self.first :, 0], norms[:, :, self.first :])

    def _note_curve(self, mass: Tensor, norms: Tensor) -> None:
        """Output norms over their head's mean, binned by the weight on token 0."""
        relative = norms / norms.mean((0, 2), keepdim=True).clamp_min(_TINY)
        bins = (mass.float() * _BINS).long().clamp(0, _BINS - 1).flatten()
        for row, values in enumerate((torch.ones_like(relative), relative)):
            held = torch.zeros(_BINS, device=bins.device).scatter_add_(0, bins, values.flatten())
            self._curve[row] += held.double().cpu()

    def _close(self) -> None:
        """A batch has ended: its last queries' rows are complete over layers."""
        for name, rows in self._now.items():
            self._last[name].append(rows.cpu())
        self._now = {}


def _ends_of_shares(weights: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row's shares of its sum of `weights [B, H, q, S]` times `sizes [B, H, S]`, means over heads: those of
    token 0 `[B, q]`, and the last row's `[B, S]`."""
    sums = (weights @ sizes[..., None])[..., 0].clamp_min(_TINY)
    first = weights[..., 0] * sizes[..., :1] / sums
    return first.mean(1), (weights[:, :, -1] * sizes / sums[..., -1:]).mean(1)


def _hidden(layer: int, reason: str) -> SuperweightsError:
    return SuperweightsError(
        f"The contributions in layer {layer} cannot be told: {reason}.",
        hint="ask about its sinks instead, which need the weights alone.",
    )


def reduction(study: Study) -> ContributionReduction:
    """The reduction for `study`."""
    return ContributionReduction()
