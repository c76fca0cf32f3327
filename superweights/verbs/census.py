"""`superweights.census`: many checkpoints searched, profiled and entered; one data set and one page."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from superweights.artefacts.disk import explained
from superweights.artefacts.file import write_text
from superweights.artefacts.reading import read_text
from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError, explain_os_error
from superweights.findings.census import Census, Duplicate, Entered, NotEntered
from superweights.jobs import Entry, Store, check_work, run_jobs
from superweights.progress import Progress, labelled, silent
from superweights.record import Record, Score, plain, to_json_line
from superweights.reports import render
from superweights.stopping import kept_in
from superweights.subject import Source
from superweights.verbs.entering import CENSUS, SUBJECT, Enlisted, Entering

__all__ = ["census", "names_in_list"]

# What stands in the folder.
STORE, WEIGHTS, MODELS, PAGE = "jobs.sqlite", "known.jsonl", "models.jsonl", "page.html"
_A_LIST = (
    "a list has one model a line: folder, file, org/name or org/name@revision; lines with # are passed over."
)


def census(
    models: Sequence[str] | str | Path,
    to: Path | str,
    *,
    quick: bool = False,
    rounding: bool = False,
    seed: int = 0,
    source: Source = Source(),  # noqa: B008 - frozen
    workers: int = 1,
    ray: bool = False,
    progress: Progress = silent,
) -> Record:
    """A record of a `findings.Census`: what `find` and `profile` say of every model of a list.

    `models` is a file with one model a line, or the names themselves; `source` says how each is opened (its own name
    is not read). `quick` searches on eight short windows, `rounding` also measures what rounding costs (with each model
    in memory). The folder `to` then holds the data set (`known.jsonl`, the weights as lines of the index, and
    `models.jsonl`, a line for each model), `page.html`, and `jobs.sqlite`: ended at any moment, the same call goes on
    from there and ends with the same data set; a longer list goes on too. `workers` processes of this machine share
    the models, or with `ray` actors of a Ray cluster whose machines find every model under its name.

    A model that cannot be read, or run, costs the others nothing: it is told in `findings.failed`, and tried
    again the next time. Names with the same numbers behind them are entered once. Raises `SuperweightsError` for a list
    without models, and for a folder that holds something else.

    >>> record = census("models.txt", "census")                             # doctest: +SKIP
    >>> [(model.name, model.verdict) for model in record.findings.models]   # doctest: +SKIP
    """
    place, called, names = Path(to), *_named(models)
    if not names:
        raise SuperweightsError(f"{called} names no model.", hint=_A_LIST)
    check_work(len(names), workers)
    _begin(place)
    listed = _Listing.of(names, source, quick, rounding, seed, progress)
    with kept_in(place):
        entries = _done(listed.enlisted, place / STORE, source, workers, ray, progress)
    conditions = {"quick": quick, "rounding": rounding, "dtype": source.dtype, "objective": source.objective}
    found = _gathered(names, listed, entries, {**conditions, "listed": len(names)})
    record = Record.of(
        "census",
        _Origin(called, found),
        seed=seed,
        scores=(Score("models entered", len(found.models), "models", len(names)),),
        findings=found,
    )
    write_text(place / WEIGHTS, "".join(f"{to_json_line(weight)}\n" for weight in found.weights))
    write_text(place / MODELS, "".join(f"{to_json_line(line)}\n" for line in _lines(found, listed, entries)))
    write_text(place / PAGE, render([record]))
    return record


def names_in_list(path: Path) -> list[str]:
    """The models that the file `path` lists, one a line; empty lines and those that begin with # are none."""
    lines = (line.strip() for line in read_text(path, hint=_A_LIST).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _named(models: Sequence[str] | str | Path) -> tuple[str, list[str]]:
    """What the list is called, and its models."""
    if isinstance(models, str | Path):
        return str(models), names_in_list(Path(models))
    return "The list", list(models)


@dataclass(frozen=True)
class _Listing:
    """A list whose models have been opened once: those to enter, and what is the matter with the other lines."""

    enlisted: tuple[Enlisted, ...]
    failed: tuple[NotEntered, ...]
    duplicates: tuple[Duplicate, ...]

    @classmethod
    def of(
        cls, names: Sequence[str], source: Source, quick: bool, rounding: bool, seed: int, progress: Progress
    ) -> _Listing:
        """Each line looked at in order; of a checkpoint only names, shapes and a sample of bytes are read."""
        firsts: dict[str, str] = {}
        enlisted, failed, duplicates = [], [], []
        seen: set[str] = set()
        for number, name in enumerate(names):
            progress("opening", number, len(names))
            if name in seen:
                duplicates.append(Duplicate(name, name))
                continue
            seen.add(name)
            told = _fingerprint(name, source)
            if isinstance(told, SuperweightsError):
                failed.append(NotEntered(name, told.message, told.hint))
            elif told in firsts:
                duplicates.append(Duplicate(name, firsts[told]))
            else:
                firsts[told] = name
                how = (quick, rounding, seed, source.dtype, source.objective)
                enlisted.append(Enlisted(name, told, *how))
        return cls(tuple(enlisted), tuple(failed), tuple(duplicates))


def _fingerprint(name: str, source: Source) -> str | SuperweightsError:
    """What tells the checkpoint apart, or why it cannot be opened."""
    try:
        with open_checkpoint(name, **source.trust) as checkpoint:
            return checkpoint.fingerprint()
    except SuperweightsError as error:
        return error
    except OSError as error:
        said, hint = explain_os_error(error)
        return SuperweightsError(said, hint=hint)


def _begin(place: Path) -> None:
    """Make the folder and its store, or check that they are those of a census."""
    store = place / STORE
    if not store.exists() and place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise SuperweightsError(f"{place} is not empty and holds no census.", hint="give a new folder.")
    with explained(place):
        place.mkdir(parents=True, exist_ok=True)
    with Store(store, {SUBJECT: SUBJECT}, CENSUS):
        pass


def _done(
    enlisted: Sequence[Enlisted], store: Path, source: Source, workers: int, ray: bool, progress: Progress
) -> dict[str, Entry]:
    """What became of each model, by key."""
    if not enlisted:
        return {}
    inside = progress if workers == 1 and not ray else silent
    task = Entering(replace(source, name=None), tuple(each.key for each in enlisted), inside)
    told = labelled(progress, "models")
    return run_jobs([task], enlisted, store, workers=workers, ray=ray, retry_failed=True, progress=told)


def _gathered(
    names: Sequence[str], listed: _Listing, entries: dict[str, Entry], conditions: dict[str, Any]
) -> Census:
    """The findings, in the order of the list."""
    held = [(each, entries[each.key]) for each in listed.enlisted]
    failed = [
        NotEntered(each.name, entry.sentence or "", entry.hint or "")
        for each, entry in held
        if entry.status == "failed"
    ]
    models: list[Entered] = [entry.result for _, entry in held if entry.status == "done"]
    failed = sorted((*listed.failed, *failed), key=lambda each: names.index(each.name))
    return Census(conditions, tuple(models), tuple(failed), listed.duplicates)


def _lines(found: Census, listed: _Listing, entries: dict[str, Entry]) -> Iterator[dict[str, Any]]:
    """The data set's models: each with what it was asked and the versions that its numbers were made with."""
    asked = {each.fingerprint: each for each in listed.enlisted}
    for model in found.models:
        mine = asked[model.fingerprint]
        yield {**model.line(), "asked": plain(mine), "versions": entries[mine.key].versions}


class _Origin:
    """What the record of a census is about: its list, told apart by the checkpoints that were entered."""

    revision = None

    def __init__(self, name: str, found: Census):
        self.name = name
        self._digest = hashlib.sha256("\n".join(model.fingerprint for model in found.models).encode())

    def fingerprint(self) -> str:
        """As a checkpoint's: equal for equal models in the same order."""
        return self._digest.hexdigest()[:32]
