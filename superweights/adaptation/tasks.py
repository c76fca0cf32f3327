"""A task: prompts with known answers, split in three, and how an answer is rewarded."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import random
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from superweights.artefacts.reading import parse_json, read_text
from superweights.errors import SuperweightsError

SPLITS = ("train", "valid", "test")
_HINT = 'write one {"prompt": "2+3=", "answer": "5"} a line; "choices" and "split" may follow.'
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Example:
    """A prompt, its answer, and the choices among which the answer is (empty: none given)."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()


# What a completion is worth for an example: 1 where it is right, -1 where it is wrong, or a number of the user's own.
Reward = Callable[[str, Example], float]


@dataclass(frozen=True)
class Task:
    """Examples to learn from, to stop by and to judge by; no prompt stands in two of them.

    `new_tokens` is how long an answer may be, `stop` the text at which it ends (None: nothing ends it).
    """

    name: str
    """What it is called in records and tables."""
    train: tuple[Example, ...]
    """Examples to learn from."""
    valid: tuple[Example, ...]
    """Examples to stop by."""
    test: tuple[Example, ...]
    """Examples to judge by."""
    new_tokens: int = 8
    stop: str | None = "\n"

    def digest(self) -> str:
        """A short hash of all that the task asks, for telling one from another."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def read_task(path: Path, *, new_tokens: int = 8, stop: str | None = "\n", seed: int = 0) -> Task:
    """The task in a file of JSON lines, each with `prompt` and `answer`, and `choices` and `split` where it has them.

    Without `split`, a seeded 60 % learn, 20 % stop and 20 % judge. Raises `SuperweightsError` with the line's number
    for missing fields, and for a task that leaves a split empty or has a prompt twice.
    """
    lines = read_text(Path(path), hint=_HINT, largest=1 << 30).splitlines()
    examples: list[tuple[Example, str | None]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            examples.append(_example(line, f"{path}, line {number}"))
    return split_task(Path(path).stem, examples, new_tokens=new_tokens, stop=stop, seed=seed)


def split_task(
    name: str,
    examples: Iterable[tuple[Example, str | None]],
    *,
    new_tokens: int = 8,
    stop: str | None = "\n",
    seed: int = 0,
) -> Task:
    """The task of these examples, each with its split or None; those without one are dealt out by `seed`."""
    listed = list(examples)
    prompts = [example.prompt for example, _ in listed]
    twice = (
        next((p for p in prompts if prompts.count(p) > 1), None) if len(set(prompts)) < len(prompts) else None
    )
    if twice is not None:
        raise SuperweightsError(
            f"Task {name} has the prompt {twice!r} twice.", hint="a prompt must not stand in two splits."
        )
    dealt = {split: [e for e, said in listed if said == split] for split in SPLITS}
    free = [e for e, said in listed if said is None]
    random.Random(seed).shuffle(free)
    first, second = round(0.6 * len(free)), round(0.8 * len(free))
    for split, part in zip(SPLITS, (free[:first], free[first:second], free[second:]), strict=True):
        dealt[split] += part
    empty = [split for split in SPLITS if not dealt[split]]
    if empty:
        raise SuperweightsError(
            f"Task {name} has {len(listed)} examples and none for {empty[0]}.", hint="give five or more."
        )
    return Task(name, *(tuple(dealt[split]) for split in SPLITS), new_tokens=new_tokens, stop=stop or None)


def _example(line: str, where: str) -> tuple[Example, str | None]:
    try:
        held = parse_json(line, where, hint=_HINT)
        prompt, answer = held["prompt"], held["answer"]
        choices, split = held.get("choices") or (), held.get("split")
    except KeyError as error:
        raise SuperweightsError(f"{where} has no {error.args[0]!r}.", hint=_HINT) from error
    except (TypeError, AttributeError) as error:
        raise SuperweightsError(f"{where} is no object with a prompt and an answer.", hint=_HINT) from error
    if not isinstance(prompt, str) or not prompt or isinstance(answer, dict | list | None.__class__):
        raise SuperweightsError(f"{where} needs a prompt and an answer that are text.", hint=_HINT)
    if split is not None and split not in SPLITS:
        raise SuperweightsError(
            f"{where} has the split {split!r}.", hint=f"write one of {', '.join(SPLITS)}."
        )
    if not isinstance(choices, list | tuple):
        raise SuperweightsError(f"{where} has choices that are no list: {choices!r}.", hint=_HINT)
    if choices and str(answer) not in map(str, choices):
        raise SuperweightsError(f"{where}: the answer {answer!r} is none of its choices.", hint=_HINT)
    return Example(prompt, str(answer), tuple(map(str, choices))), split


def reward_named(name: str) -> Reward:
    """The reward called `exact`, `starts`, `choice` or `number`, or the function in `FILE.py:FUNCTION`.

    Raises `SuperweightsError` for anything else.
    """
    if name in REWARDS:
        return REWARDS[name]
    file, _, function = name.rpartition(":")
    if not file.endswith(".py"):
        raise SuperweightsError(
            f"There is no reward called {name!r}.",
            hint=f"choose one of {', '.join(REWARDS)}, or FILE.py:FUNCTION with (completion, example) -> number.",
        )
    return _checked(_from_file(Path(file), function), name)


def reward_digest(name: str) -> str:
    """A hash of the file of a reward of one's own; empty for those that have a name."""
    file = Path(name.rpartition(":")[0])
    return (
        hashlib.sha256(file.read_bytes()).hexdigest()[:16] if name not in REWARDS and file.is_file() else ""
    )


def exact(completion: str, example: Example) -> float:
    """1 where the completion is the answer, spaces at the ends and runs of them aside; else -1."""
    return 1.0 if " ".join(completion.split()) == " ".join(example.answer.split()) else -1.0


def starts(completion: str, example: Example) -> float:
    """1 where the completion begins with the answer as whole words; else -1."""
    said, wanted = completion.lstrip(), example.answer.strip()
    after = said[len(wanted) : len(wanted) + 1]
    return 1.0 if said.startswith(wanted) and not (after.isalnum() and wanted[-1:].isalnum()) else -1.0


def choice(completion: str, example: Example) -> float:
    """1 where the first choice named in the completion is the answer (the longest one there); else -1."""
    said = completion.lower()
    found = [(said.find(each.lower()), -len(each), each) for each in example.choices if each.lower() in said]
    return 1.0 if found and min(found)[2] == example.answer else -1.0


def number(completion: str, example: Example) -> float:
    """1 where the last number of the completion equals the last one of the answer; else -1. Commas are passed over."""
    said, wanted = (_NUMBER.findall(text) for text in (completion, example.answer))
    if not wanted:
        raise SuperweightsError(
            f"The answer {example.answer!r} is no number.", hint="use another reward for this task."
        )
    return 1.0 if said and math.isclose(_value(said[-1]), _value(wanted[-1])) else -1.0


def _value(written: str) -> float:
    return float(written.replace(",", ""))


REWARDS: dict[str, Reward] = {"exact": exact, "starts": starts, "choice": choice, "number": number}


def _from_file(file: Path, function: str) -> Reward:
    spec = importlib.util.spec_from_file_location(file.stem, file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise SuperweightsError(f"There is no file {file}.", hint="write FILE.py:FUNCTION.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise SuperweightsError(f"{file} has no function {function!r}.", hint="write FILE.py:FUNCTION.")
    return found  # type: ignore[return-value]  # what it gives is checked at each call


def _checked(reward: Reward, name: str) -> Reward:
    """The reward, which is refused where it gives no finite number or ends in an error of its own."""

    def checked(completion: str, example: Example) -> float:
        try:
            given = reward(completion, example)
        except SuperweightsError:
            raise
        except Exception as error:  # it is a person's own code
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise SuperweightsError(
                f"{name} failed for the completion {completion!r}: {type(error).__name__}: {error}.",
                hint=f"see line {place.lineno} of {place.filename}.",
            ) from error
        if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
            raise SuperweightsError(
                f"{name} gave {given!r} for the completion {completion!r}.",
                hint="it must return a finite number.",
            )
        return float(given)

    return checked


def disjoint(shots: Sequence[Example], test: Sequence[Example]) -> None:
    """Raise `SuperweightsError` where a prompt of `shots` is among those that judge."""
    shared = {e.prompt for e in shots} & {e.prompt for e in test}
    if shared:
        raise SuperweightsError(
            f"The shot {sorted(shared)[0]!r} is also a test prompt.",
            hint="take shots from the training split.",
        )
