"""Weights under suspicion: which spikes reach the residual stream, and how many of them are put to the proof."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from superweights.address import Address, Layout
from superweights.branch import Visit
from superweights.discovery.findings import Search
from superweights.discovery.residual import ChannelChange, LayerSpike, channel_change
from superweights.discovery.spikes import Fan, Spike
from superweights.discovery.trials import Trial
from superweights.editing import Edit
from superweights.record import Score
from superweights.subject import Batch

# A shared spike, made by several neurons together, is still worth a row where the residual stream steps.
_SHARED_DOMINANCE = 0.1
# A gain writes the residual stream only if what it puts out is a fair part of what the block adds.
_GAIN_SHARE = 0.3
# A product must be this share of the residual stream's largest value after the block, and may overshoot its
# own output, which other products pull back, by this factor.
_SHARE_OF_PEAK, _OVERSHOOT = 0.05, 2.0
# So many candidates of one kind, block and pass are put to the proof, and more where several are nearly as strong
# as the strongest (Phi-3 has four rows in one column); so many fans.
_PER_BLOCK, _EQUALS, _EQUAL, _FANS = 2, 6, 0.25, 2


@dataclass(eq=False)
class Candidate:
    """A weight under suspicion, as the passes fill it in.

    `trial` is the model without it, on text; `effect` and `kl` are what the first pass saw, on the prompts. `masked`:
    it came to light in the model without the strongest. `layer` counts the blocks of its `tower`, `number` all that
    have run before.
    """

    address: Address
    spike: Spike
    layer: int
    role: str
    position: int | None
    token_id: int | None
    round: int
    trial: Trial
    effect: Score | None = None
    kl: Score | None = None
    masked: bool = False
    tower: str | None = None
    number: int = 0

    @property
    def edit(self) -> Edit:
        return Edit(self.address, factor=0.0)


@dataclass(eq=False)
class Column:
    """The weights through which one neuron writes, and the model without all of them (`trial`)."""

    name: str
    writers: dict[Address, Spike]
    layer: int
    round: int
    trial: Trial


@dataclass
class Cap:
    """How many of each kind are put to the proof, and how many were left out for want of room."""

    most: int
    taken: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def takes(self, kind: str) -> bool:
        """Whether there is room for one more of this kind; it is counted either way."""
        room = self.taken[kind] < self.most
        (self.taken if room else self.left_out)[kind] += 1
        return room

    def notes(self) -> list[str]:
        """What was left out, a sentence for each kind."""
        return [
            f"{count} more spikes of the kind {kind} were not put to the proof: at most {self.most} of a kind are."
            for kind, count in self.left_out.items()
        ]


def accept(
    spikes: Iterable[Spike], visit: Visit, layer: LayerSpike, search: Search, post_norm: bool = False
) -> list[Spike]:
    """The spikes that reach the residual stream, of each kind the strongest of the block first.

    The block's own change must spike in the same channel; where the block ends in a norm (`post_norm`), which cuts
    every spike down, the product's own output must. Where the residual stream steps up or down, the strongest product
    of the stepping channel is kept even when several neurons share the work.
    """
    changes = channel_change(visit)
    steps = layer.phase in ("step_up", "step_down")
    kept: dict[str, dict[tuple[str, tuple[int, ...]], Spike]] = {}
    for spike in sorted(spikes, key=lambda s: -abs(s.spike_in * s.value)):
        change = changes.of_width(spike.width)
        if change is None or not _reaches(spike, change, search, post_norm):
            continue
        of_kind = kept.setdefault(spike.kind, {})
        writes = spike.kind == "weight" or (
            abs(spike.spike_out) >= _GAIN_SHARE * change.peak(spike.out_channel)
        )
        shared = steps and spike.out_channel == change.top_channel and not of_kind
        enough = _SHARED_DOMINANCE if shared else search.min_dominance
        strong = abs(spike.spike_out) >= _SHARE_OF_PEAK * layer.peak
        if writes and strong and enough <= spike.dominance <= _OVERSHOOT:
            of_kind.setdefault((spike.parameter, spike.index), spike)
    return [spike for of_kind in kept.values() for spike in _strongest(list(of_kind.values()))]


def _reaches(spike: Spike, change: ChannelChange, search: Search, post_norm: bool) -> bool:
    """Whether a spike stands out in what the block adds to its stream."""
    ratio = spike.ratio_out if post_norm else change.ratio(spike.out_channel)
    return ratio >= search.min_ratio


def _strongest(spikes: list[Spike]) -> list[Spike]:
    """The two strongest, and up to six where they are nearly equal."""
    strongest = max((abs(spike.spike_out) for spike in spikes), default=0.0)
    equals = [spike for spike in spikes if abs(spike.spike_out) >= _EQUAL * strongest]
    return equals[:_EQUALS] if len(equals) > _PER_BLOCK else spikes[:_PER_BLOCK]


def accept_fans(
    fans: Iterable[Fan], visit: Visit, layer: LayerSpike, search: Search, post_norm: bool = False
) -> list[Fan]:
    """The fans whose weights reach the residual stream, the strongest of the block: no share is asked of them.

    Only the weights whose channel spikes in what the block adds are kept; at least two.
    """
    changes = channel_change(visit)
    kept: dict[tuple, Fan] = {}
    for fan in fans:
        change = changes.of_width(fan.writers[0].width)
        if change is None:
            continue
        reach = tuple(s for s in fan.writers if _reaches(s, change, search, post_norm))
        strong = any(abs(s.spike_in * s.value) >= _SHARE_OF_PEAK * layer.peak for s in reach)
        if len(reach) > 1 and strong:
            kept.setdefault(column_of(reach[0]), Fan(reach))
    ordered = sorted(kept.values(), key=lambda fan: -abs(fan.writers[0].spike_in * fan.writers[0].value))
    return ordered[:_FANS]


def column_of(spike: Spike) -> tuple[str, tuple[int, ...]]:
    """What the weights of one neuron in one product have in common: the parameter, and the index but for the output."""
    rest = list(spike.index)
    axis = out_axis(spike)
    if axis is not None:
        rest[axis] = -1
    return spike.parameter, tuple(rest)


def out_axis(spike: Spike) -> int | None:
    """The axis of the parameter along which output channels run; None where the index does not show it."""
    place = (spike.out_channel, spike.in_neuron)
    if len(spike.index) < 2 or place[0] == place[1]:
        return None
    if spike.index[-2:] == place:
        return len(spike.index) - 2
    return len(spike.index) - 1 if spike.index[-2:] == place[::-1] else None


def role_of(visit: Visit, spike: Spike) -> str:
    """`writes` where the block makes the channel's largest change larger in magnitude, `erases` where smaller."""
    change = channel_change(visit).of_width(spike.width)
    return "writes" if change is not None and change.grows(spike.out_channel) else "erases"


def candidate_of(spike: Spike, visit: Visit, batch: Batch, layout: Layout, number: int) -> Candidate:
    """The candidate that a spike seen in pass `number` is."""
    # an expert's rows are not in the order of the tokens, and a model may prepend tokens of its own
    row = position = None
    ids = batch.ids_at(tuple(visit.after.shape), last=visit.tower is not None and visit.number > visit.layer)
    if spike.row is not None and ids is not None:
        row, position = divmod(spike.row, ids.shape[1])
    address = layout.address_of(spike.parameter, spike.index)
    return Candidate(
        address=address,
        spike=spike,
        layer=visit.layer,
        tower=visit.tower,
        number=visit.number,
        role=role_of(visit, spike),
        position=position,
        token_id=None if row is None or ids is None else int(ids[row, position]),
        round=number,
        trial=Trial.without([address]),
        masked=visit.branch is not None,
    )
