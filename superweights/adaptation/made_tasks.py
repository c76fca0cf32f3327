"""Small tasks with known answers that are made here: what an expert can be trained and judged on without a download."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from superweights.adaptation.hub_tasks import PREFIX, hub_task
from superweights.adaptation.tasks import Example, Task, read_task, split_task
from superweights.errors import SuperweightsError

_WORDS = Path(__file__).parent / "kinds_of_words.json"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def made_task(name: str, *, seed: int = 0, size: int = 130) -> Task:
    """The task `name` (see `MADE`), drawn and split by `seed`; at most `size` examples.

    Raises `SuperweightsError` for a name that is not there.
    """
    if name not in MADE:
        raise SuperweightsError(
            f"There is no task called {name!r}.", hint=f"choose one of {', '.join(MADE)}."
        )
    drawn = random.Random(f"{name} {seed}")
    examples = MADE[name](drawn)
    drawn.shuffle(examples)
    new_tokens, stop = _FORMS.get(name, (1, None))
    return split_task(name, [(e, None) for e in examples[:size]], new_tokens=new_tokens, stop=stop, seed=seed)


def task_named(name: str, *, new_tokens: int = 8, stop: str | None = "\n", seed: int = 0) -> Task:
    """The made task of this name, or the task in the file or data set (`hub:`) of this name, which `new_tokens` and
    `stop` are about."""
    if name in MADE:
        return made_task(name, seed=seed)
    if name.startswith(PREFIX):
        return hub_task(name, new_tokens=new_tokens, stop=stop, seed=seed)
    if not Path(name).exists():
        raise SuperweightsError(
            f"There is no file {name}, and no task of that name.",
            hint=f"the made tasks are {', '.join(MADE)}; hub:OWNER/NAME:CONFIG is a data set of the Hub.",
        )
    return read_task(Path(name), new_tokens=new_tokens, stop=stop, seed=seed)


def arithmetic(drawn: random.Random) -> list[Example]:
    """Sums below ten of two digits, asked after another one: a token each."""
    found = []
    for a in range(10):
        for b in range(10 - a):
            for c, d in drawn.sample([(c, d) for c in range(1, 6) for d in range(1, 5)], 4):
                found.append(Example(f"{c}+{d}={c + d}\n{a}+{b}=", str(a + b)))
    return found


def copying(drawn: random.Random) -> list[Example]:
    """The second letter of three, asked after two examples of the same: attention to a place."""
    found: dict[str, Example] = {}
    while len(found) < 240:
        rows = ["".join(drawn.sample(_LETTERS, 3)) for _ in range(3)]
        lines = [f"{' '.join(row)} -> {row[1]}" for row in rows[:2]]
        prompt = "\n".join([*lines, f"{' '.join(rows[2])} ->"])
        found[prompt] = Example(prompt, f" {rows[2][1]}")
    return list(found.values())


def classification(drawn: random.Random) -> list[Example]:
    """What kind of thing a word names, of three kinds, after an example of each."""
    kinds = {kind: words.split() for kind, words in json.loads(_WORDS.read_text(encoding="utf-8")).items()}
    choices = tuple(f" {kind}" for kind in kinds)
    shown = {kind: drawn.choice(words) for kind, words in kinds.items()}
    asked = "\n".join(f"{word}: {kind}" for kind, word in shown.items())
    return [
        Example(f"{asked}\n{word}:", f" {kind}", choices)
        for kind, words in kinds.items()
        for word in words
        if word not in shown.values()
    ]


def relations(drawn: random.Random) -> list[Example]:
    """Capitals, languages and opposites of the prompt set in this package, each asked after another of its kind."""
    from superweights.interpretability.relations.prompts import read_relations

    found = []
    for relation in read_relations():
        (subject, answer), *asked = drawn.sample(relation.pairs, len(relation.pairs))
        shown = f"{relation.template.format(subject)} {answer}"
        found += [
            Example(f"{shown}\n{relation.template.format(subject)}", f" {answer}")
            for subject, answer in asked
        ]
    return found


MADE: dict[str, Callable[[random.Random], list[Example]]] = {
    "arithmetic": arithmetic,
    "copying": copying,
    "classification": classification,
    "relations": relations,
}
# How long an answer may be and where it ends, for those whose answers are more than one token.
_FORMS: dict[str, tuple[int, str | None]] = {"relations": (5, "\n")}
