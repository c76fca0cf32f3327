"""A record that was written to a file, as the command that wrote it had it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError
from superweights.findings import Anatomy, typed
from superweights.interpretability.questions import QUESTIONS
from superweights.record import Record, Score

# The findings that need torch, or that no report reads: by the command's words, where their class lives.
_FURTHER = {
    "find": ("superweights.discovery", "Findings"),
    "facts": ("superweights.findings.facts", "Facts"),
    "audit": ("superweights.audits", "Audit"),
    "profile": ("superweights.lab.profile", "Profile"),
    "drift": ("superweights.findings.adaptation", "Drifted"),
    "adapt answer": ("superweights.findings.adaptation", "Answers"),
    "adapt compare": ("superweights.findings.adaptation", "Compared"),
    "adapt effects": ("superweights.findings.adaptation", "AdaptationEffects"),
    "adapt mix": ("superweights.findings.adaptation", "ExpertsMixed"),
    "adapt train": ("superweights.findings.adaptation", "ExpertTrained"),
    "adapt write": ("superweights.findings.adaptation", "ExpertWritten"),
}


def show(path: Path | str) -> Record:
    """The record in the file at `path`, its findings typed. Raises `SuperweightsError` for anything else.

    >>> show("found.json").findings.super_weights       # doctest: +SKIP
    """
    record = typed(_read(path), str(path))
    if isinstance(record.findings, Anatomy):
        return replace(record, findings=_answered(record.findings, str(path)))
    if record.command not in _FURTHER or is_dataclass(record.findings):
        return record
    module, name = _FURTHER[record.command]
    form: Any = getattr(import_module(module), name)
    held = _scored(record.findings) if record.command == "adapt compare" else record.findings
    return replace(
        record, findings=shaped(form, held, str(path), "run its command again with this version.", "some")
    )


def _read(path: Path | str) -> Record:
    try:
        return Record.read(path)
    except SuperweightsError as error:
        if "Extra data" not in error.message:
            raise
        raise SuperweightsError(
            f"{path} holds many lines of JSON, and a record is one object.",
            hint="lines are for programs; superweights sweep with the same --store prints its tables again.",
        ) from error


def _answered(found: Anatomy, where: str) -> Anatomy:
    """The answers as the dataclasses that their questions give; an answer of no question of ours stays as it is."""
    forms = {question.word: question.form(bool(found.conditions.get("causal"))) for question in QUESTIONS
             if question.word in found.answers}  # fmt: skip
    hint = "run its command again with this version."
    answers = {
        word: shaped(forms[word], value, f"{where}, {word}", hint, "lossy") if word in forms else value
        for word, value in found.answers.items()
    }
    return replace(found, answers=answers)


def _scored(value: Any) -> Any:
    """JSON values with the scores among them as scores: for findings whose rows are of no class of their own."""
    if isinstance(value, dict):
        if value.keys() == {each.name for each in fields(Score)}:
            return shaped(Score, value, "a score", "run its command again with this version.")
        return {key: _scored(item) for key, item in value.items()}
    return [_scored(item) for item in value] if isinstance(value, list) else value
