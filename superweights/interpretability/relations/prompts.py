"""Prompts that ask for a relation ("The capital of France is"), read from JSON.

```json
{"relations": {"capital": {"template": "The capital of {} is", "other_template": "{} has a capital called",
                           "neutral": "Someone wrote {} on the board.", "pairs": [["France", "Paris"]]}}}
```

`{}` is the subject (in `neutral`: the object). `other_template` and `neutral` may be left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superweights.errors import SuperweightsError
from superweights.subject.text import read_text

# Fewer pairs than this leave no positives on one of the two halves.
_FEWEST = 4
OWN = Path(__file__).parent / "relations.json"


@dataclass(frozen=True)
class Relation:
    """A relation: how it is asked for, in other words too, a sentence that only mentions the object, and its pairs."""

    name: str
    """What it is called."""
    template: str
    """How it is asked for."""
    other_template: str | None
    """The same in other words; None: there are none."""
    neutral: str | None
    """A sentence that only mentions the object; None: there is none."""
    pairs: tuple[tuple[str, str], ...]
    """Subject and object of each."""


def read_relations(path: Path | None = None) -> tuple[Relation, ...]:
    """The relations of a JSON file, or the small set that is built in: capitals, languages and opposites.

    Raises `SuperweightsError` with the relation's name for a file that does not say them as above, for fewer than two
    relations or four pairs, and for a subject that stands twice in a relation.
    """
    path = path or OWN
    try:
        held = json.loads(read_text(path).text)["relations"]
        relations = tuple(_relation(name, value) for name, value in held.items())
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SuperweightsError(f"{path} is no set of relations.", hint=_HINT) from error
    if len(relations) < 2:
        raise SuperweightsError(
            f"{path} has {len(relations)} relation; the negatives of one are the others.", hint=_HINT
        )
    return relations


_HINT = (
    'write {"relations": {"capital": {"template": "The capital of {} is", "pairs": [["France", "Paris"], ...]}, '
    "...}}, two relations or more."
)


def _relation(name: str, held: dict[str, Any]) -> Relation:
    pairs = tuple((str(subject), str(answer)) for subject, answer in held["pairs"])
    templates = {key: held.get(key) for key in ("template", "other_template", "neutral")}
    for key, template in templates.items():
        if template is not None and (not isinstance(template, str) or template.count("{}") != 1):
            raise SuperweightsError(f"The {key} of relation {name!r} needs one {{}}.", hint=_HINT)
    subjects = [subject for subject, _ in pairs]
    twice = next((each for each in subjects if subjects.count(each) > 1), None)
    if twice is not None:
        raise SuperweightsError(
            f"Relation {name!r} has the subject {twice!r} twice.",
            hint="a subject must not stand on both sides of the split.",
        )
    if len(pairs) < _FEWEST or not all(subject and answer for subject, answer in pairs):
        raise SuperweightsError(
            f"Relation {name!r} has {len(pairs)} pairs, some empty or too few.",
            hint=f"give {_FEWEST} or more pairs of a subject and an object.",
        )
    return Relation(name, held["template"], templates["other_template"], templates["neutral"], pairs)
