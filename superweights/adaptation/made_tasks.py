"""Small tasks with known answers that are made here: what an expert can be trained and judged on without a download."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from superweights.adaptation.tasks import Example, Task, split_task
from superweights.errors import SuperweightsError

_KINDS: dict[str, tuple[str, ...]] = {
    "animal": (
        *("dog", "cat", "horse", "cow", "lion", "tiger", "bear", "wolf", "sheep", "goat", "mouse", "rabbit", "fox", "pig"),
        *("duck", "eagle", "shark", "whale", "snake", "frog", "monkey", "camel", "zebra", "deer", "owl", "bee", "ant"),
        *("spider", "crab", "penguin", "donkey", "turtle", "hawk", "otter", "moose", "crow"),
    ),
    "food": (
        *("bread", "cheese", "rice", "apple", "banana", "soup", "pasta", "cake", "butter", "honey", "potato", "tomato"),
        *("carrot", "onion", "orange", "grape", "lemon", "salad", "pizza", "cookie", "bean", "corn", "peach", "cherry"),
        *("sugar", "milk", "yogurt", "sausage", "pancake", "waffle", "mango", "spinach", "garlic", "biscuit", "jam", "pie"),
    ),
    "tool": (
        *("hammer", "saw", "drill", "wrench", "knife", "shovel", "rake", "axe", "pliers", "chisel", "ladder", "nail"),
        *("screw", "rope", "broom", "mop", "scissors", "needle", "clamp", "file", "level", "crowbar", "hoe", "spade"),
        *("tongs", "vise", "mallet", "plane", "anvil", "torch", "pump", "lever", "brush", "bucket", "tape", "sickle"),
    ),
}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def made_task(name: str, *, seed: int = 0, size: int = 160) -> Task:
    """The task `name` (see `MADE`), drawn and split by `seed`; at most `size` examples.

    Raises `SuperweightsError` for a name that is not there.
    """
    if name not in MADE:
        raise SuperweightsError(f"There is no task called {name!r}.", hint=f"choose one of {', '.join(MADE)}.")
    drawn = random.Random(f"{name} {seed}")
    examples = MADE[name](drawn)
    drawn.shuffle(examples)
    return split_task(name, [(e, None) for e in examples[:size]], new_tokens=1, stop=None, seed=seed)


def arithmetic(drawn: random.Random) -> list[Example]:
    """Sums of two digits below ten, asked after two others: one token, exact."""
    found = []
    for a in range(10):
        for b in range(10 - a):
            c, d = drawn.randrange(1, 5), drawn.randrange(1, 5)
            found.append(Example(f"{c}+{d}={c + d}\n{d}+{c}={c + d}\n{a}+{b}=", str(a + b)))
            found.append(Example(f"{d}+{c}={c + d}\n{a}+{b}=", str(a + b)))
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
    """What kind of thing a word names, of three kinds, without an example."""
    kinds = tuple(_KINDS)
    return [
        Example(f"animal, food or tool? {word}:", f" {kind}", tuple(f" {each}" for each in kinds))
        for kind, words in _KINDS.items()
        for word in words
    ]


def relations(drawn: random.Random) -> list[Example]:
    """The first token of what a subject is related to, from the package's own prompts of relations."""
    path = Path(__file__).parent.parent / "interpretability" / "relations.json"
    held = json.loads(path.read_text(encoding="utf-8"))["relations"]
    return [
        Example(relation["template"].format(subject), f" {answer}")
        for relation in held.values()
        for subject, answer in relation["pairs"]
    ]


MADE: dict[str, Callable[[random.Random], list[Example]]] = {
    "arithmetic": arithmetic,
    "copying": copying,
    "classification": classification,
    "relations": relations,
}
