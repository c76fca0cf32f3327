"""What each sub-layer adds to the residual stream: new directions (innovation), or a new mixture (reconfiguration).

Source: "Large Vision-Language Models Get Lost in Attention" (arXiv 2605.05668): effective rank, the change of it
(dS), the share of the new stream outside the old one's column and row spaces (dD), their sum RID, and the rise
of the token-mixing entropy (MixIG), for one sequence and one update X -> X'.

Where we differ from the paper's code, and agree with its text: dD is half the sum of both parts (the code takes
the root of their squares against the block's input, for the MLP too), and the entropy is averaged over tokens
(the code takes the last token, with weights to the eighth power, over log T). The control is ours: the same
update with random numbers of the same norm in each token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from superweights.axes import Float
from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.interpretability.kinds import kinds_of
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score
from superweights.taps import Site, Tap
from superweights.wording import counted

# Sequences measured: each costs six singular value decompositions for each layer.
SEQUENCES = 4
_CHUNK = 512
# RID and MixIG, means over fifteen models that see: arXiv 2605.05668.
PUBLISHED = {"attention": (0.06, 0.61), "mlp": (0.21, 0.02)}


def effective_rank(singular: Float[Tensor, " r"]) -> float:
    """exp of the entropy of `singular [r]` values as shares: k for k equal ones (Roy and Vetterli 2007)."""
    shares = singular.double() / singular.double().sum()
    return torch.special.entr(shares).sum().exp().item()


@dataclass(frozen=True, eq=False)
class Spaces:
    """One sequence's residual stream `[T, d]` taken apart: singular values, and the spaces it spans."""

    columns: Tensor
    """An orthonormal basis of its columns (over tokens)."""
    rows: Tensor
    """An orthonormal basis of its rows (over features)."""
    singular: Tensor
    """Singular values, the largest first."""

    @classmethod
    def of(cls, stream: Tensor) -> Spaces:
        """The spaces of `stream [T, d]`: rank by `s > max(T, d) eps s_max`, in float64 arithmetic."""
        u, s, vh = torch.linalg.svd(stream.double(), full_matrices=False)
        eps = torch.finfo(stream.dtype if stream.is_floating_point() else torch.float64).eps
        rank = int((s > max(stream.shape) * eps * s[0]).sum())
        return cls(u[:, :rank], vh[:rank].T, s)


@dataclass(frozen=True)
class Update:
    """What one update did: change of the effective rank over min(T, d), the parts of the new stream outside the
    old column (token) and row (feature) spaces over its norm, and the rise of the mixing entropy in nats.
    """

    rank_change: float
    """Of the effective rank, over min(T, d)."""
    outside_columns: float
    """The part outside the old column space, a share of the norm."""
    outside_rows: float
    """The part outside the old row space, a share of the norm."""
    mixing_nats: float
    """Rise of the mixing entropy."""

    @property
    def innovation(self) -> float:
        """dD, 0 to 1. With no more tokens than channels the column part is 0, so at most 1/2."""
        return (self.outside_columns + self.outside_rows) / 2

    @property
    def rid(self) -> float:
        """dS + dD, 0 to 2."""
        return self.rank_change + self.innovation


def update_of(
    before: Float[Tensor, "T d"], after: Float[Tensor, "T d"], spaces: Spaces | None = None
) -> Update:
    """What the update from `before` to `after`, both `[T, d]`, did."""
    old = spaces or Spaces.of(before)
    new = after.double()
    norm = new.norm().item() or 1.0
    columns = (new - old.columns @ (old.columns.T @ new)).norm().item() / norm
    rows = (new - (new @ old.rows) @ old.rows.T).norm().item() / norm
    change = abs(effective_rank(torch.linalg.svdvals(new)) - effective_rank(old.singular)) / min(new.shape)
    return Update(change, columns, rows, mixing_entropy(after) - mixing_entropy(before))


def mixing_entropy(stream: Float[Tensor, "T d"]) -> float:
    """How evenly each token resembles the others: entropy in nats of (cosine + 1) / 2 as shares, mean over tokens.

    log T for T equal rows. Rows of zeros resemble every row half. Memory: 512 rows of cosines.
    """
    unit = torch.nn.functional.normalize(stream.double(), dim=1)
    total = 0.0
    for start in range(0, len(unit), _CHUNK):
        weights = (unit[start : start + _CHUNK] @ unit.T + 1).clamp_min(0) / 2
        total += torch.special.entr(weights / weights.sum(1, keepdim=True)).sum().item()
    return total / len(unit)


def noise_like(update: Float[Tensor, "T d"], generator: torch.Generator) -> Float[Tensor, "T d"]:
    """Random directions with the norm of each row of `update [T, d]`."""
    noise = torch.randn(update.shape, generator=generator, dtype=torch.float64)
    return noise * (update.double().norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True))


@dataclass(frozen=True)
class SubLayer:
    """One sub-layer (`attention` or `mlp`), means over sequences; `noise_*` the same for a random update."""

    layer: int
    """The block, counted from 0."""
    part: str
    """attention or mlp."""
    effective_rank: float
    """Of the stream behind it."""
    rank_change: float
    """Of the effective rank, over min(T, d)."""
    innovation: float
    """Half the sum of the parts outside the old column and row spaces, 0 to 1."""
    rid: float
    """RID: the rank change and the innovation together, 0 to 2."""
    mixing_nats: float
    """Rise of the mixing entropy."""
    noise_innovation: float
    """The innovation of a random update of the same norm."""
    noise_mixing_nats: float
    """The mixing of a random update of the same norm."""


@dataclass(frozen=True)
class KindLayer:
    """One sub-layer measured on the tokens of one kind alone (`image`, `text`, `first`), means over sequences.

    `tokens` of them stand in a sequence; the numbers are those of `Update`, of these rows of the stream by themselves.
    """

    layer: int
    """The block, counted from 0."""
    part: str
    """attention or mlp."""
    kind: str
    tokens: float
    rank_change: float
    """Of the effective rank."""
    innovation: float
    """Half the sum of the parts outside the old column and row spaces, 0 to 1."""
    rid: float
    """The rank change and the innovation together."""
    mixing_nats: float
    """Rise of the mixing entropy."""


@dataclass(frozen=True)
class Information:
    """Innovation and reconfiguration of each sub-layer over `sequences` sequences of `tokens` tokens.

    `kinds` tells them by kind of token, where the model is given more than text.
    """

    parts: tuple[SubLayer, ...]
    """One for each sub-layer."""
    sequences: int
    tokens: int
    width: int
    """Channels of the residual stream."""
    kinds: tuple[KindLayer, ...] = ()
    """By kind of token; empty for text alone."""

    def mean(self, part: str, what: str) -> float:
        """The mean of a number over the layers' sub-layers of one kind, without the first layer's.

        The first block writes into bare embeddings, and would outweigh the others.
        """
        values = [getattr(each, what) for each in self.parts if each.part == part and each.layer > 0]
        return sum(values) / len(values) if values else float("nan")

    def scores(self) -> tuple[Score, ...]:
        return tuple(
            Score(f"{name} of {part}, mean without layer 0", self.mean(part, what), unit, self.sequences)
            for part in ("attention", "mlp")
            for name, what, unit in (
                ("innovation dD", "innovation", ""),
                ("RID", "rid", ""),
                ("MixIG", "mixing_nats", "nats"),
            )
        )

    def sheets(self) -> tuple[Sheet, ...]:
        titles = (
            "layer",
            "part",
            "effective rank",
            "dS",
            "dD",
            "RID",
            "MixIG, nats",
            "noise: dD",
            "noise: MixIG",
        )
        where = f"{counted(self.sequences, 'sequence')} of {counted(self.tokens, 'token')}"
        note = f"Means over {where}, {self.width} channels."
        if self.tokens <= self.width:
            note += " With no more tokens than channels dD is at most 1/2: no update leaves the column space."
        whole = Sheet("what sub-layers add", titles, [tuple(vars(e).values()) for e in self.parts], note)
        if not self.kinds:
            return (whole,)
        by_kind = ("layer", "part", "tokens of the kind", "how many", "dS", "dD", "RID", "MixIG, nats")
        rows = [tuple(vars(each).values()) for each in self.kinds]
        kinds = Sheet("by kind of token", by_kind, rows, "Each kind's rows of the stream by themselves.")
        return whole, kinds, self._beside_published()

    def _beside_published(self) -> Sheet:
        """Our means beside those of the paper: over its fifteen models that see, on other pictures and texts."""
        rows = [
            (
                part,
                self.mean(part, "rid"),
                PUBLISHED[part][0],
                self.mean(part, "mixing_nats"),
                PUBLISHED[part][1],
            )
            for part in PUBLISHED
        ]
        titles = ("part", "RID", "RID, published", "MixIG, nats", "MixIG, published")
        note = "Here without layer 0; published: the mean of 15 models that see (arXiv 2605.05668)."
        return Sheet("beside the published means", titles, rows, note)

    def panels(self) -> tuple[Panel, ...]:
        def lines(what: str, noise: str) -> list[Series]:
            found = []
            for part in ("attention", "mlp"):
                mine = [each for each in self.parts if each.part == part]
                found.append(Series(part, [(e.layer, getattr(e, what)) for e in mine]))
                found.append(
                    Series(
                        f"noise in place of {part}", [(e.layer, getattr(e, noise)) for e in mine], dashed=True
                    )
                )
            return found

        return (
            line_chart("innovation", "layer", "dD", lines("innovation", "noise_innovation")),
            line_chart("reconfiguration", "layer", "MixIG, nats", lines("mixing_nats", "noise_mixing_nats")),
        )


class Informations:
    """The question as a reduction: the first sequences, one at a time."""

    def __init__(self, sequences: int = SEQUENCES, seed: int = 0, config: Any = None):
        self._wanted, self._config = sequences, config
        self._masks: list[Mapping[str, Tensor]] = []
        self._by_kind: dict[tuple[int, str, str], list[tuple[int, Update]]] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._found: dict[tuple[int, str], list[tuple[float, Update, Update]]] = {}
        self._streams: list[Tensor] = []
        self._taken = self._now = 0
        self._shape = (0, 0)

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        body.every("block_in", "mid", "block_out")
        taps: dict[Site, Tap] = {}
        for layer in range(body.layers):
            taps[Site("block_in", layer)] = lambda h: self._start(h)
            taps[Site("mid", layer)] = lambda h, layer=layer: self._note(layer, "attention", h)
            taps[Site("block_out", layer)] = lambda h, layer=layer: self._note(layer, "mlp", h)
        return taps

    def begin(self, ids: Tensor) -> None:
        if ids.shape[1] < 2:
            raise SuperweightsError("Sequences of one token have no mixture.", hint="use longer windows.")
        self._now = min(len(ids), self._wanted - self._taken)
        self._taken += self._now
        kinds = {} if self._config is None else kinds_of(ids[: self._now].cpu(), self._config)
        senses = set(kinds) - {"first", "text"}
        self._masks = [
            {k: mask[row] for k, mask in kinds.items()} if senses else {} for row in range(self._now)
        ]

    def _start(self, hidden: Tensor) -> None:
        self._streams = [row.clone().cpu() for row in hidden[: self._now]]
        self._shape = (hidden.shape[1], hidden.shape[2])

    def _note(self, layer: int, part: str, hidden: Tensor) -> None:
        after = [row.clone().cpu() for row in hidden[: self._now]]
        for old, new in zip(self._streams, after, strict=True):
            spaces = Spaces.of(old)
            noisy = (old.double() + noise_like(new.double() - old.double(), self._generator)).to(old.dtype)
            measured = (
                effective_rank(spaces.singular),
                update_of(old, new, spaces),
                update_of(old, noisy, spaces),
            )
            self._found.setdefault((layer, part), []).append(measured)
        for old, new, masks in zip(self._streams, after, self._masks, strict=True):
            for kind, mask in masks.items():
                measured_here = int(mask.sum()), update_of(old[mask], new[mask])
                self._by_kind.setdefault((layer, part, kind), []).append(measured_here)
        self._streams = after

    def answer(self) -> Information:
        parts = []
        for (layer, part), measured in sorted(self._found.items()):
            n = len(measured)
            mean = lambda take, m=measured, n=n: sum(take(*each) for each in m) / n  # noqa: E731
            parts.append(
                SubLayer(
                    layer,
                    part,
                    mean(lambda rank, real, noise: rank),
                    mean(lambda rank, real, noise: real.rank_change),
                    mean(lambda rank, real, noise: real.innovation),
                    mean(lambda rank, real, noise: real.rid),
                    mean(lambda rank, real, noise: real.mixing_nats),
                    mean(lambda rank, real, noise: noise.innovation),
                    mean(lambda rank, real, noise: noise.mixing_nats),
                )
            )
        return Information(tuple(parts), self._taken, *self._shape, tuple(self._kinds()))

    def _kinds(self) -> Iterator[KindLayer]:
        for (layer, part, kind), measured in sorted(self._by_kind.items()):
            n = len(measured)
            updates = [update for _, update in measured]
            yield KindLayer(
                layer,
                part,
                kind,
                sum(count for count, _ in measured) / n,
                sum(each.rank_change for each in updates) / n,
                sum(each.innovation for each in updates) / n,
                sum(each.rid for each in updates) / n,
                sum(each.mixing_nats for each in updates) / n,
            )


def investigate(study: Any) -> Information:
    """The question for `study`, on its first four sequences."""
    config = study.model.config if study.tower is None else None
    return replace(study, ids=study.ids[:SEQUENCES]).ask(Informations(seed=study.seed, config=config))[0]
