"""Tasks from data sets of the Hub (`datasets`, extra `eval`): prompts, answers and choices by their usual names."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from superweights.adaptation.tasks import SPLITS, Example, Task, split_task
from superweights.checkpoint.complaints import COMPLAINTS, first_line
from superweights.errors import SuperweightsError

PREFIX = "hub:"
# The columns that data sets keep these in, the first one there counts.
_PROMPTS, _ANSWERS = ("prompt", "question"), ("answer", "answerKey", "label")
_CALLED = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}
_HINT = "name one whose rows have prompt or question, and answer; choices may be a list of texts."


def hub_task(name: str, *, new_tokens: int = 8, stop: str | None = "\n", seed: int = 0) -> Task:
    """The task in the data set `hub:OWNER/NAME` or `hub:OWNER/NAME:CONFIG`, in its own splits.

    Without a validation split a seeded fifth of the training split stops; with one split only, it is dealt out. The
    answer to a question with choices may be a choice, its place from 0, or its label. Prompts that stand in it twice
    count once, where they stand first.

    Raises `SuperweightsError` where the Hub cannot be reached, and for rows without a prompt or an answer.
    """
    rows = _rows(*name.removeprefix(PREFIX).partition(":")[::2])
    examples: dict[str, tuple[Example, str | None]] = {}
    for split in sorted(rows, key=lambda each: SPLITS.index(_CALLED.get(each, "train")), reverse=True):
        said = _CALLED.get(split) if len(rows) > 1 else None
        for number, row in enumerate(rows[split]):
            example = _example(row, f"row {number} of {split} of {name}")
            examples.setdefault(example.prompt, (example, said))
    listed = list(examples.values())
    if len(rows) > 1 and not any(said == "valid" for _, said in listed):
        learnt = [n for n, (_, said) in enumerate(listed) if said == "train"]
        for n in random.Random(seed).sample(learnt, len(learnt) // 5):
            listed[n] = (listed[n][0], "valid")
    return split_task(name, listed, new_tokens=new_tokens, stop=stop, seed=seed)


def _rows(name: str, config: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """The rows of each split that learns, stops or judges; of the first one where none is called so."""
    try:
        import datasets
        from datasets.exceptions import DatasetGenerationError, DatasetsError
    except ModuleNotFoundError as error:
        raise SuperweightsError(
            "Tasks of the Hub need datasets.", hint="pip install 'superweights[eval]'"
        ) from error
    if not name:
        raise SuperweightsError(
            f"{PREFIX} names no data set.", hint="give hub:OWNER/NAME or hub:OWNER/NAME:CONFIG."
        )
    try:
        held: Any = datasets.load_dataset(name, config or None)
    except (*COMPLAINTS, DatasetsError) as error:
        # A generation error says only that there was one; what it was is its cause.
        told = error.__cause__ if isinstance(error, DatasetGenerationError) else None
        raise SuperweightsError(
            f"The data set {name} cannot be read: {first_line(told or error)}",
            hint="give hub:OWNER/NAME:CONFIG and a way to the Hub, or a file of JSON lines.",
        ) from error
    known = {split: held[split] for split in held if split in _CALLED}
    return known or {split: held[split] for split in list(held)[:1]}


def _example(row: Mapping[str, Any], where: str) -> Example:
    prompt = next((row[column] for column in _PROMPTS if row.get(column)), None)
    answer = next((row[column] for column in _ANSWERS if row.get(column) is not None), None)
    if not isinstance(prompt, str) or not isinstance(answer, str | int | float):
        raise SuperweightsError(f"{where} has no text and answer that could be asked.", hint=_HINT)
    choices = row.get("choices") or ()
    if not choices:
        return Example(prompt, str(answer))
    texts, labels = _choices(choices, where)
    known = dict(zip(labels, texts, strict=False)) | {text: text for text in texts}
    found = texts[answer] if type(answer) is int and 0 <= answer < len(texts) else known.get(str(answer))
    if found is None:
        raise SuperweightsError(f"{where}: the answer {answer!r} is none of its choices.", hint=_HINT)
    return Example(prompt, found, tuple(texts))


def _choices(held: Any, where: str) -> tuple[list[str], list[str]]:
    """Texts and labels of choices: a list of texts, or an object with both."""
    texts, labels = (held.get("text"), held.get("label")) if isinstance(held, Mapping) else (held, None)
    labels = texts if labels is None else labels
    if not isinstance(texts, list) or not isinstance(labels, list):
        raise SuperweightsError(f"{where} has choices that are no list: {held!r}.", hint=_HINT)
    return list(map(str, texts)), list(map(str, labels))
