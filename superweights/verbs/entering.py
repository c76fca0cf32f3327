"""One model of a census as a job: searched, profiled, and what was found of it as lines of the index."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import shaped
from superweights.checkpoint import Checkpoint, open_checkpoint
from superweights.discovery import Findings
from superweights.errors import SuperweightsError, explain_os_error
from superweights.findings.census import Entered
from superweights.index import Architecture, Effect, Evidence, KnownWeight, fingerprint_of
from superweights.jobs import Kind
from superweights.progress import Progress, silent
from superweights.record import Score, SuperWeight, plain
from superweights.stopping import go_on_stopping
from superweights.subject import Source
from superweights.subject.facts import CANNOT_RUN
from superweights.verbs.find import find, search_of
from superweights.verbs.profile import profile

# All models of all lists are one subject: a store may hold more than this list asks for.
SUBJECT = "census"
_HINT = "the store was changed: remove it, the same command makes it anew."
_SOURCE = "superweights census (our own run)"


@dataclass(frozen=True)
class Enlisted:
    """A model that is to be entered, with all that its numbers depend on."""

    name: str
    """As the list has it."""
    fingerprint: str
    """The checkpoint's: another one under the same name is another job."""
    quick: bool
    """Whether it is searched on eight short windows."""
    rounding: bool
    """Whether the profile measures what rounding costs."""
    seed: int
    """Of everything drawn."""
    dtype: str
    """The type to compute in, as `Source` says it."""
    objective: str
    """What is predicted, as `Source` says it."""

    @property
    def key(self) -> str:
        """A hash of all that it says."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    @property
    def subject(self) -> str:
        """The census: its models have nothing in common to open."""
        return SUBJECT

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, where: str = "a model of a census") -> Enlisted:
        """The model that `to_json` wrote. Raises `SuperweightsError` naming `where` for anything else."""
        return shaped(cls, parse_json(text, where, hint=_HINT), where, _HINT)


CENSUS = Kind("census", Enlisted, Entered)


@dataclass(frozen=True)
class Entering:
    """The task of a census's workers: nothing to open, a model at a time."""

    source: Source
    """How each model is opened; its name is the model's own."""
    keys: tuple[str, ...]
    """The keys of the models that are wanted."""
    progress: Progress = silent
    """Hears from inside a search, where that is in this process."""
    name: str = SUBJECT
    """What messages call it."""

    @property
    def kind(self) -> Kind:
        """Models in, what was found of them out."""
        return CENSUS

    @property
    def fingerprint(self) -> str:
        """One for every census."""
        return SUBJECT

    def shared(self, workers: int) -> Entering:
        """The task for other processes, which cannot be heard from here."""
        return replace(self, progress=silent)

    @contextmanager
    def opened(self) -> Iterator[Clerk]:
        """A worker."""
        yield Clerk(self.source, self.progress)


@dataclass(frozen=True)
class Clerk:
    """A worker that enters one model after the other."""

    source: Source
    """How each is opened."""
    progress: Progress
    """Who is told how far a search is."""
    together: int = 1
    """How many models it takes at once."""

    def do(self, payloads: Sequence[Enlisted]) -> list[Entered | SuperweightsError]:
        """What was found of each model, or why nothing could be."""
        return [self._entered(each) for each in payloads]

    def _entered(self, asked: Enlisted) -> Entered | SuperweightsError:
        """The model's own code may fail in any way that code can: that is the model's fault, and costs the others
        nothing."""
        try:
            with open_checkpoint(asked.name, **self.source.trust) as checkpoint:
                return enter(asked, checkpoint, self.source, self.progress)
        except SuperweightsError as error:
            return error
        except OSError as error:
            said, hint = explain_os_error(error)
            return SuperweightsError(said, hint=hint)
        except (*CANNOT_RUN, MemoryError, ImportError) as error:
            said = (str(error).strip() or "no more is said").splitlines()[0]
            return SuperweightsError(
                f"It could not be run: {type(error).__name__}, {said}.",
                hint=f"superweights find {asked.name} shows where.",
            )


def enter(asked: Enlisted, checkpoint: Checkpoint, how: Source, progress: Progress = silent) -> Entered:
    """What `find` and `profile` say of the open `checkpoint`; a model that has no profile is entered without one.

    Raises `SuperweightsError` as `find` does, and for a checkpoint that is not the one that is `asked` for; an
    interrupt that has shortened the search goes on.
    """
    if checkpoint.fingerprint() != asked.fingerprint:
        raise SuperweightsError(
            f"It is not the checkpoint that was enlisted (fingerprint {checkpoint.fingerprint()[:12]}, not "
            f"{asked.fingerprint[:12]}).",
            hint="start again, and leave the files alone meanwhile.",
        )
    source = replace(how, name=checkpoint, dtype=asked.dtype, objective=asked.objective)

    def told(label: str, done: int, total: int) -> None:
        progress(f"{asked.name}, {label}", done, total)

    found = find(source, search_of(asked.quick, seed=asked.seed), progress=told)
    if found.conditions["interrupted"]:
        go_on_stopping()
    numbers, refused = _profiled(source, asked, told)
    return Entered(
        name=asked.name,
        revision=checkpoint.revision,
        fingerprint=asked.fingerprint,
        model_type=checkpoint.config.get("model_type"),
        parameters=sum(math.prod(info.shape) for info in checkpoint.tensors.values()),
        layers=len(found.layers),
        verdict=found.verdict,
        loss=_finite(found.base_loss),
        peaks=tuple(each.peak if math.isfinite(each.peak) else None for each in found.layers),
        weights=index_lines(asked.name, checkpoint, found),
        profile=numbers,
        unprofiled=refused,
        notes=found.notes,
    )


def index_lines(name: str, checkpoint: Checkpoint, found: Findings) -> tuple[KnownWeight, ...]:
    """What a search has put to the proof, as lines of the index: `known --index` reads them."""
    proven = {each.address: each for each in (*found.candidates, *found.super_weights)}
    return tuple(_line(name, checkpoint, found, weight) for weight in proven.values())


def _profiled(
    source: Source, asked: Enlisted, progress: Progress
) -> tuple[dict[str, Any] | None, str | None]:
    """The numbers of the profile; or why there are none, for not every model predicts the next token."""
    try:
        record = profile(source, rounding=asked.rounding, seed=asked.seed, progress=progress)
    except SuperweightsError as error:
        return None, error.message
    return plain(record.findings.to_json()), None


def _line(name: str, checkpoint: Checkpoint, found: Findings, weight: SuperWeight) -> KnownWeight:
    address, shape = weight.address, tuple(checkpoint.tensors[weight.address.tensor].shape)
    rows, columns = (*shape[-2:], None)[:2]
    expert = address.index[0] if len(shape) == 3 else None
    if len(shape) > 1 and address.index[-2:] != (weight.out_channel, weight.in_neuron):
        rows = columns = (
            None  # it is stored the other way round, and sizes would be taken for rows and columns
        )
    layers = sum(each.tower == weight.tower for each in found.layers)
    undecided = weight.verdict not in ("critical", "joint", "partial", "benign")
    told = found.conditions
    notes = ("The windows did not tell whether it matters.",) if weight.verdict == "undecided" else ()
    return KnownWeight(
        model=name.partition("@")[0],
        tensor=address.tensor,
        index=address.index,
        out_channel=weight.out_channel,
        verdict="unknown" if undecided else str(weight.verdict),
        sources=(_SOURCE,),
        revision=checkpoint.revision,
        architecture=Architecture(rows, columns, layers),
        layer=weight.layer,
        in_neuron=weight.in_neuron,
        value=_number(weight.value),
        evidence=_evidence(weight, told),
        notes=notes if weight.kind == "weight" else (*notes, f"A {weight.kind}, not a weight of a matrix."),
        fingerprint=fingerprint_of(checkpoint, address) if weight.matters else None,
        group=weight.group,
        expert=expert,
        conditions=(f"windows begin {'with' if told['bos'] else 'without'} BOS",),
    )


def _evidence(weight: SuperWeight, conditions: dict[str, Any]) -> Evidence:
    text = f"set to 0: rise of the loss on {conditions['confirmed_on']}"
    held = None if weight.effect is None else _finite(weight.effect)
    effects = () if held is None else (Effect(text, held.value, held.unit, held.standard_error),)
    return Evidence(_number(weight.spike_in), _number(weight.spike_out), _number(weight.dominance), effects)


def _finite(score: Score) -> Score | None:
    """`score`, where it is a number; its error, where that is one."""
    known = math.isfinite(score.value)
    return replace(score, standard_error=_number(score.standard_error)) if known else None


def _number(value: float | None) -> float | None:
    """`value`, where it is one."""
    return value if value is not None and math.isfinite(value) else None
