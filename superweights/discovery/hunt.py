"""The passes of a search: each finds what spikes, and takes along the versions of the model that are on trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from superweights.address import Address
from superweights.branch import Branch, Branching, Visit, branching
from superweights.checkpoint import Checkpoint
from superweights.discovery.candidates import Candidate, Cap, Column, accept, accept_fans, candidate_of
from superweights.discovery.experts import ExpertReader
from superweights.discovery.findings import Search
from superweights.discovery.proof import bars_of, measure
from superweights.discovery.residual import LayerSpike, read_layer
from superweights.discovery.spikes import Fan, Spike, SpikeReader
from superweights.discovery.trials import Trial, mean_score
from superweights.progress import Progress
from superweights.record import Score
from superweights.subject import Batch, layout_of, objective_of
from superweights.subject.blocks import find_blocks, tower_named
from superweights.watch import Watch, watching

# What comes to light without the strongest must be this share of the largest value that was there with them.
_MASKED, _TAKES_OVER = 6, 0.05


class Hunt:
    """What a search has found so far. `look` finds on prompts; `ride` tries on windows of text, and finds there too.

    `candidates` and `columns` (of two or more weights) are under suspicion; `layers` are the residual stream's
    peaks in the latest pass; `number` counts the passes.
    """

    def __init__(
        self,
        model: nn.Module,
        checkpoint: Checkpoint,
        search: Search,
        progress: Progress,
    ):
        self.model, self.checkpoint, self.search, self.progress = model, checkpoint, search, progress
        self.objective = objective_of(model)
        self.unit = self.objective.unit
        self.bars = search.bars
        blocks = find_blocks(model)
        self.tower = (
            tower_named(blocks, search.tower, type(model).__name__) if search.tower is not None else None
        )
        self.candidates: dict[Address, Candidate] = {}
        self.columns: dict[str, Column] = {}
        self.layers: list[LayerSpike] = []
        self.base = Trial(lambda windows: Branch())  # the model's own loss, window by window
        self.notes: list[str] = []
        self.number = 0
        self.cap = Cap(search.most)
        self.experts: ExpertReader | None = None
        self._reader = SpikeReader(search.min_ratio)
        self._watch: Watch | None = None
        self._uses: Counter[str] = Counter()
        self._started: dict[Branch, Trial | Candidate] = {}

    @property
    def base_loss(self) -> Score:
        return self.base.score("loss")

    def look(self, batch: Batch) -> None:
        """Find candidates on these prompts, and what each of them changes there, in one pass."""
        with self._passing(batch, [], watched=None, label="looking", experts=True) as run:
            branches = [branch for branch, held in self._started.items() if isinstance(held, Candidate)]
            loss, effects = measure(run, branches, self.objective)
            if batch.labels is None:
                pool: Any = self.objective
                self.bars = bars_of(pool.pool(run.logits(None, slice(0, len(batch)))))
        self.notes += [
            f"{path} runs {times} times in a pass: each of its weights is one number with as many uses, and an edit "
            "changes all of them."
            for path, times in self._uses.items()
            if times > 1
        ]
        self.prompt_loss = mean_score("loss", loss.tolist(), self.unit)
        for branch, effect in zip(branches, effects, strict=True):
            candidate = self._started[branch]
            assert isinstance(candidate, Candidate), "chosen so above"
            candidate.effect = mean_score("loss rise on the prompts", effect.loss.tolist(), self.unit)
            if effect.kl is not None:
                candidate.kl = mean_score("KL divergence on the prompts", effect.kl.tolist())

    def ride(
        self, batch: Batch, windows: Sequence[int], trials: Sequence[Trial], strongest: Trial | None
    ) -> None:
        """Put `trials` to windows, the rows of `batch`, numbered `windows`; those that spike for the first time
        too. The model of the trial `strongest` is searched as the model itself is."""
        planned = {trial.branch(windows): trial for trial in trials}
        watched = None
        if strongest is not None:
            watched = strongest.branch(windows)
            watched.watched = True
        with self._passing(batch, list(planned), watched, label="proving") as run:
            found = {**planned, **{b: t for b, t in self._started.items() if isinstance(t, Trial)}}
            if watched is not None and strongest is not None:
                found[watched] = strongest
            loss, effects = measure(run, list(found), self.objective, loss_only=set(found))
        self.base.note(windows, loss, self.unit)
        for trial, effect in zip(found.values(), effects, strict=True):
            trial.note(windows, effect.loss, self.unit)

    @contextmanager
    def _passing(
        self, batch: Batch, branches: list[Branch], watched: Branch | None, label: str, experts: bool = False
    ) -> Iterator[Branching]:
        """A pass over `batch` in which the branches ride, and what is found starts branches of its own."""
        self.number += 1
        most = max(self.number, 1 + self.search.budget)
        label = f"{label}, pass {self.number} of {most} at most"
        self.layers, self._started = [], {}
        self._uses.clear()
        self._reader.take()
        everything = [*branches, *([watched] if watched is not None else [])]
        with (
            watching(self.model, self._reader.see) as watch,
            branching(self.model, everything, watch=watch) as run,
            ExitStack() as reading,
        ):
            self._watch, self._of = watch, len(run.blocks)
            if experts:
                self.experts = ExpertReader(list(run.blocks))
                reading.enter_context(self.experts.reading(self.model, self._aside))
            on_text = not experts
            run.pass_over(batch, lambda visit: self._discover(visit, batch, on_text, label))
            reading.close()
            watch.paused = True
            yield run
        if run.broken_at and not any(run.broken_at in note for note in self.notes):
            self.notes.append(
                f"something happens between the blocks at {run.broken_at}: each proof took a pass of its own."
            )

    @contextmanager
    def _aside(self) -> Iterator[bool]:
        """The watch looks away; yields whether it was looking, so whether the model's own rows are running."""
        assert self._watch is not None, "called inside a pass"
        own, self._watch.paused = not self._watch.paused, True
        try:
            yield own
        finally:
            self._watch.paused = not own

    def _discover(self, visit: Visit, batch: Batch, on_text: bool, label: str) -> list[Branch]:
        """The branches of the new candidates and columns of the block just visited."""
        spikes, fans = self._reader.take()
        spikes = [s for s in spikes if s.parameter.startswith(f"{visit.path}.")]
        fans = [f for f in fans if f.writers[0].parameter.startswith(f"{visit.path}.")]
        gains = self._reader.post_norm_gains(visit.after)
        spikes += [s for s in gains or [] if s.parameter not in {spike.parameter for spike in spikes}]
        post_norm, layer = gains is not None, read_layer(visit)
        if visit.branch is None:
            self.layers.append(layer)
            self._uses[visit.path] += 1
            self.progress(label, min(visit.number + 1, self._of), self._of)
        if self.tower is not None and visit.tower != self.tower:
            return []
        before = set(self._started)
        layout = layout_of(self.model)
        for spike in accept(spikes, visit, layer, self.search, post_norm):
            if visit.branch is not None and not self._takes_over(spike, visit.number):
                continue
            candidate = candidate_of(spike, visit, batch, layout, self.number)
            if candidate.address not in self.candidates and self.cap.takes(spike.kind):
                self.candidates[candidate.address] = candidate
                windows = range(len(batch))
                self._started[candidate.trial.branch(windows)] = candidate.trial if on_text else candidate
        for fan in accept_fans(fans, visit, layer, self.search, post_norm):
            column = self._column(fan, visit)
            if column.name not in self.columns and self.cap.takes("column"):
                self.columns[column.name] = column
                if on_text:
                    self._started[column.trial.branch(range(len(batch)))] = column.trial
        return [branch for branch in self._started if branch not in before]

    def _takes_over(self, spike: Spike, number: int) -> bool:
        """Whether what spikes without the strongest would be seen beside them too; a few such are looked at."""
        seen = sum(candidate.masked for candidate in self.candidates.values())
        return seen < _MASKED and abs(spike.spike_out) >= _TAKES_OVER * self.layers[number].peak

    def _column(self, fan: Fan, visit: Visit) -> Column:
        layout = layout_of(self.model)
        writers = {layout.address_of(spike.parameter, spike.index): spike for spike in fan.writers}
        name = column_name(list(writers))
        return Column(name, writers, visit.layer, self.number, Trial.without(writers))


def column_name(addresses: Sequence[Address]) -> str:
    """How a column is written: the tensor and the index, with a colon where its weights differ."""
    first = addresses[0]
    if any(address.tensor != first.tensor for address in addresses):
        return " + ".join(dict.fromkeys(address.tensor for address in addresses))
    parts = [
        str(place[0]) if len(set(place)) == 1 else ":"
        for place in zip(*(address.index for address in addresses), strict=True)
    ]
    return f"{first.tensor}[{', '.join(parts)}]"
