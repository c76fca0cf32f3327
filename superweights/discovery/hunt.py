"""One search: a pass over the prompts that finds and first proves, then passes over text that confirm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from superweights.address import Address
from superweights.branch import Branch, Branching, Visit, branching
from superweights.checkpoint import Checkpoint
from superweights.discovery.findings import Search
from superweights.discovery.proof import Effect, control_edits, judge, measure, score
from superweights.discovery.residual import LayerSpike, channel_change, read_layer
from superweights.discovery.spikes import Spike, SpikeReader
from superweights.editing import Edit
from superweights.progress import Progress
from superweights.record import RANDOM_TENSOR, Control, Score, SuperWeight
from superweights.subject import layout_of
from superweights.watch import watching

# A shared spike, made by several neurons together, is still worth a row where the residual stream steps.
_SHARED_DOMINANCE = 0.1
# A gain writes the residual stream only if what it puts out is a fair part of what the block adds.
_GAIN_SHARE = 0.3
# A product must be this share of the residual stream's largest value after the block, and may overshoot its
# own output, which other products pull back, by this factor.
_SHARE_OF_PEAK, _OVERSHOOT = 0.05, 2.0
# So many candidates of one block and pass are put to the proof, and more where several are nearly as strong as
# the strongest (Phi-3 has four rows in one column); so many weights are removed together.
_PER_BLOCK, _EQUALS, _EQUAL, _TOGETHER = 2, 6, 0.25, 6


@dataclass(eq=False)
class Candidate:
    """A weight under suspicion, as the passes fill it in."""

    address: Address
    spike: Spike
    layer: int
    role: str
    position: int | None
    token_id: int | None
    round: int
    effect: Score | None = None
    kl: Score | None = None
    with_others: Score | None = None
    controls: list[Control] = field(default_factory=list)
    on_text: bool = False
    loss: Tensor | None = None  # the loss rise of each row of the latest batch it was measured on

    @property
    def edit(self) -> Edit:
        return Edit(self.address, factor=0.0)

    def note(self, effect: Effect) -> None:
        """Take over what a pass has measured."""
        self.effect, self.loss = score("loss rise", effect.loss), effect.loss
        self.kl = score("KL divergence", effect.kl) if effect.kl is not None else self.kl

    def strength(self) -> float:
        """How much it has been seen to matter, in nats per token: alone, or beside the others.

        After the prompts alone, whose few tokens say little about loss, the divergence decides; after text
        the lower end of the loss rise.
        """
        return max(self.alone(), self.with_others.interval()[0] if self.with_others else 0.0)

    def alone(self) -> float:
        """The part of `strength` that it has shown alone."""
        assert self.effect is not None, "measured before it is compared"
        return self.effect.interval()[0] if self.on_text or self.kl is None else self.kl.value


@dataclass(eq=False)
class Comparison:
    """A branch without weights that should not matter, for all the candidates that it is a control of."""

    branch: Branch
    kind: str
    count: int
    members: list[Candidate]

    def note(self, effect: Effect) -> None:
        for candidate in self.members:
            candidate.controls.append(
                Control(self.kind, score(f"loss rise without {self.count}", effect.loss))
            )


@dataclass(eq=False)
class Pair:
    """A branch without two candidates: what each adds when the other is gone."""

    branch: Branch
    strongest: Candidate
    other: Candidate

    def note(self, effect: Effect) -> None:
        pairs = [(self.other, self.strongest)]
        if self.strongest.with_others is None:  # the first pair is with the second strongest
            pairs.append((self.strongest, self.other))
        for candidate, gone in pairs:
            assert gone.loss is not None, "each has been measured alone"
            candidate.with_others = score(f"loss rise beside {gone.address}", effect.loss - gone.loss)


class Hunt:
    """The state of one search. `look` makes a pass, `confirm` judges what the passes have found."""

    def __init__(
        self,
        model: nn.Module,
        checkpoint: Checkpoint,
        search: Search,
        progress: Progress,
        name_token: Callable[[int | None], str | None],
    ):
        self.model, self.checkpoint, self.search = model, checkpoint, search
        self.progress, self.name_token = progress, name_token
        self.candidates: dict[Address, Candidate] = {}
        self.layers: list[LayerSpike] = []
        self.joint: Score | None = None
        self.base_loss: Score | None = None
        self.removed: list[Candidate] = []
        self.notes: list[str] = []
        self.round = 1
        self._reader = SpikeReader(search.min_ratio)
        self._beside: dict[Address, Branch] = {}
        self._unmeasured: list[Candidate] = []

    def look(self, ids: Tensor) -> None:
        """Find candidates on these prompts, and what each of them changes there, in one pass."""
        alone: dict[Address, Branch] = {}
        with self._passing(ids, [], alone, "looking") as run:
            loss, effects = measure(run, list(alone.values()), ids)
        self.base_loss = score("loss", loss)
        for address, effect in zip(alone, effects, strict=True):
            self.candidates[address].note(effect)

    def confirm(self, ids: Tensor) -> None:
        """Judge every candidate on text: alone, together, beside controls; and look again without the strongest.

        Each round measures only what the rounds before have not: at first all candidates, later those that
        came to light when others were removed.
        """
        self._unmeasured = list(self.candidates.values())
        self.removed = []
        last = self.search.rounds + 2
        while self.round < last:
            self.round += 1
            strongest = self._strongest()
            unlike = any(c not in self.removed for c in strongest)
            if not self._unmeasured and not unlike and not self._controls():
                break
            self._confirm_once(ids, strongest, look_again=unlike and self.round < last)

    def verdicts(self) -> list[SuperWeight]:
        """Every candidate with its verdict, in the order of the layers."""
        ordered = sorted(self.candidates.values(), key=lambda c: (c.layer, -abs(c.spike.spike_out)))
        return [self._verdict(candidate) for candidate in ordered]

    def _strongest(self) -> list[Candidate]:
        """The candidates to remove together: those that have shown an effect, then the largest writers.

        Weights that back each other up (several rows of one column) show little alone, so the writers of the
        largest spikes are removed with the proven, proven or not.
        """
        strong = sorted(self._suspects(), key=Candidate.strength, reverse=True)
        writers = [c for c in self.candidates.values() if c.role == "writes" and c not in strong]
        writers.sort(key=lambda c: -abs(c.spike.spike_out))
        return [*strong, *writers][:_TOGETHER]

    def _suspects(self) -> list[Candidate]:
        """The candidates whose removal has shown an effect so far."""
        return [c for c in self.candidates.values() if c.effect and c.strength() >= self.search.bars.partial]

    def _confirm_once(self, ids: Tensor, strongest: list[Candidate], look_again: bool) -> None:
        alone = {c.address: Branch((c.edit,)) for c in self._unmeasured}
        together = Branch(tuple(c.edit for c in strongest), watched=look_again)
        groups = [*pairs_of(strongest), *self._controls()]
        planned = [*alone.values(), *([together] if strongest else []), *(group.branch for group in groups)]
        self._beside, self._unmeasured = {}, []
        with self._passing(ids, planned, alone, "confirming") as run:
            loss, effects = measure(run, run.branches, ids, loss_only={group.branch for group in groups})
        found = dict(zip(run.branches, effects, strict=True))
        self.base_loss = score("loss", loss)
        for address, branch in alone.items():
            self.candidates[address].note(found[branch])
            self.candidates[address].on_text = True
        for candidate in strongest:
            candidate.with_others = None
        for group in groups:
            group.note(found[group.branch])
        if strongest:
            self.removed, self.joint = strongest, score("loss rise, all removed", found[together].loss)
        for address, branch in self._beside.items():
            rise = found[branch].loss - found[together].loss
            self.candidates[address].with_others = score("loss rise beside all that were removed", rise)

    def _controls(self) -> list[Comparison]:
        """Weights that should not matter: for all, random ones of every tensor at once; for those that text has
        shown to matter also the largest other, others of the column and others of the row."""
        suspects = [c for c in self._suspects() if c.on_text]
        avoid = set(self.candidates)
        members: dict[tuple, list[Candidate]] = {}
        edits: dict[tuple, dict[Edit, None]] = {}
        for candidate in self.candidates.values():
            if candidate.controls and candidate not in suspects:
                continue
            for key, chosen in control_edits(self.checkpoint, candidate, self.search, avoid).items():
                seen = any(control.kind == key[0] for control in candidate.controls)
                if seen or (key[0] != RANDOM_TENSOR and candidate not in suspects):
                    continue
                members.setdefault(key, []).append(candidate)
                edits.setdefault(key, {}).update(dict.fromkeys(chosen))
        return [
            Comparison(Branch(tuple(edits[key])), key[0], len(edits[key]), members[key]) for key in members
        ]

    @contextmanager
    def _passing(
        self, ids: Tensor, branches, alone: dict[Address, Branch], label: str
    ) -> Iterator[Branching]:
        """A pass over `ids` in which the branches ride and new candidates join `alone`."""
        self.layers = []
        self._reader.take()
        with (
            watching(self.model, self._reader.see) as watch,
            branching(self.model, branches, watch=watch) as run,
        ):
            self._of = len(run.blocks)
            run.pass_over(ids, lambda visit: self._discover(visit, ids, alone, label))
            watch.paused = True
            yield run
        if run.broken_at and not any(run.broken_at in note for note in self.notes):
            self.notes.append(
                f"something happens between the blocks at {run.broken_at}: each proof took a pass of its own."
            )

    def _discover(self, visit: Visit, ids: Tensor, alone: dict[Address, Branch], label: str) -> list[Branch]:
        """The branches that prove the new candidates of the block just visited."""
        spikes = [s for s in self._reader.take() if s.parameter.startswith(f"{visit.path}.")]
        layer = read_layer(visit)
        if visit.branch is None:
            self.layers.append(layer)
            self.progress(label, visit.number + 1, self._of)
        started = []
        for spike in accept(spikes, visit, layer, self.search):
            candidate = self._candidate(spike, visit, ids)
            if candidate.address in self.candidates or len(self.candidates) >= self.search.most:
                continue
            self.candidates[candidate.address] = candidate
            alone[candidate.address] = Branch((candidate.edit,))
            started.append(alone[candidate.address])
            if visit.branch is not None:
                beside = Branch((*visit.branch.edits, candidate.edit), hidden=visit.before)
                self._beside[candidate.address] = beside
                started.append(beside)
        return started

    def _candidate(self, spike: Spike, visit: Visit, ids: Tensor) -> Candidate:
        # an expert's rows are not in the order of the tokens, and a model may prepend tokens of its own
        row = position = None
        if spike.row is not None and visit.after.shape[:2] == ids.shape:
            row, position = divmod(spike.row, ids.shape[1])
        return Candidate(
            address=layout_of(self.model).address_of(spike.parameter, spike.index),
            spike=spike,
            layer=visit.number,
            role=role_of(visit, spike),
            position=position,
            token_id=None if row is None else int(ids[row, position]),
            round=self.round,
        )

    def _verdict(self, c: Candidate) -> SuperWeight:
        return SuperWeight(
            address=c.address,
            value=c.spike.value
            if c.spike.kind != "gain"
            else self.checkpoint.element(c.address.tensor, c.address.index),
            spike_in=c.spike.spike_in,
            spike_out=c.spike.spike_out,
            dominance=c.spike.dominance,
            effect=c.effect,
            kl=c.kl,
            effect_with_others=c.with_others,
            controls=tuple(c.controls),
            verdict=judge(c.effect, c.with_others, c.controls, self.search.bars) if c.effect else None,
            role=c.role,
            kind=c.spike.kind,
            parameter=c.spike.parameter,
            out_channel=c.spike.out_channel,
            in_neuron=c.spike.in_neuron,
            layer=c.layer,
            token=self.name_token(c.token_id),
            position=c.position,
            round=c.round,
        )


def pairs_of(removed: list[Candidate]) -> list[Pair]:
    """The candidate that costs most alone with each of the others: two zeroed at a time.

    With more gone at once the model is ruined anyway, and what one more adds says little.
    """
    measured = [c for c in removed if c.effect is not None]
    if len(measured) < 2:
        return []
    strongest, *others = sorted(measured, key=Candidate.alone, reverse=True)
    return [Pair(Branch((strongest.edit, other.edit)), strongest, other) for other in others]


def accept(spikes: list[Spike], visit: Visit, layer: LayerSpike, search: Search) -> list[Spike]:
    """The spikes that reach the residual stream, the strongest of the block first.

    The block's own change must spike in the same channel. Where the residual stream steps up or down, the
    strongest product of the stepping channel is kept even when several neurons share the work.
    """
    changes = channel_change(visit)
    steps = layer.phase in ("step_up", "step_down")
    kept: dict[tuple[str, tuple[int, ...]], Spike] = {}
    for spike in sorted(spikes, key=lambda s: -abs(s.spike_in * s.value)):
        change = changes.of_width(spike.width)
        if change is None or change.ratio(spike.out_channel) < search.min_ratio:
            continue
        writes = spike.kind == "weight" or (
            abs(spike.spike_out) >= _GAIN_SHARE * change.peak(spike.out_channel)
        )
        shared = steps and spike.out_channel == change.top_channel and not kept
        enough = _SHARED_DOMINANCE if shared else search.min_dominance
        strong = abs(spike.spike_out) >= _SHARE_OF_PEAK * layer.peak
        if writes and strong and enough <= spike.dominance <= _OVERSHOOT:
            kept.setdefault((spike.parameter, spike.index), spike)
    strongest = max((abs(spike.spike_out) for spike in kept.values()), default=0.0)
    equals = [spike for spike in kept.values() if abs(spike.spike_out) >= _EQUAL * strongest]
    return equals[:_EQUALS] if len(equals) > _PER_BLOCK else list(kept.values())[:_PER_BLOCK]


def role_of(visit: Visit, spike: Spike) -> str:
    """`writes` where the block makes the channel's largest change larger in magnitude, `erases` where smaller."""
    change = channel_change(visit).of_width(spike.width)
    return "writes" if change is not None and change.grows(spike.out_channel) else "erases"
