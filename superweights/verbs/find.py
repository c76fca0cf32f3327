"""`superweights.find`: the super weights of a model, each proven by intervention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from superweights.address import Address
from superweights.checkpoint import opened_checkpoint
from superweights.discovery import Expert, Findings, Group, Search
from superweights.discovery import find as search_for
from superweights.discovery.published import find_as_published
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.record import Record, SuperWeight
from superweights.subject import Source, Text, read_text
from superweights.subject.given import read_inputs
from superweights.verbs.drift import drift

__all__ = [
    "Expert", "Findings", "Group", "Search", "explained", "find", "find_published", "found_record", "search_of",
    "searched",
]  # fmt: skip

# Settings that have an option of their own; `--quick` is seen by how many windows it takes at most.
_OPTIONS = {
    "most_windows": "--quick",
    "prompts": "--prompt",
    **{
        name: f"--{name}"
        for name in ("windows", "length", "budget", "bos", "rounds", "greedy", "seed", "tower")
    },
}
_PUBLISHED = "--mode reference runs the published procedure on its own prompt"


def find(
    model: Any = None,
    search: Search | None = None,
    *,
    text: Text | Path | str | None = None,
    token_ids: Tensor | Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
) -> Findings:
    """The super weights of `model` (as in `score`; None: the embedded one), each with its proof.

    `text` (or its file) is what effects are confirmed on (None: English prose that Python brings along);
    `token_ids [rows, tokens]` replace the prompts where there is no tokenizer, and so do the model's own arguments by
    name (pictures, sounds). `found_record` makes a record of it.
    See `discovery.find` for how it is done.

    >>> findings = find()                                                   # doctest: +SKIP
    >>> [str(weight.address) for weight in findings.super_weights]          # doctest: +SKIP
    """
    source = Source.of(model)
    read = text if isinstance(text, Text) or text is None else read_text(text)
    with opened_checkpoint(source) as checkpoint:
        return search_for(
            checkpoint, search, text=read, token_ids=token_ids, progress=progress, **source.shared_loading
        )


def find_published(model: Any = None, threshold: float = 50.0) -> list[SuperWeight]:
    """What the published script's procedure gives: coordinates without proof. See `discovery.published`.

    Raises `SuperweightsError` for a model that is to be divided: the procedure has it whole in memory.
    """
    source = Source.of(model)
    _refuse(_divided(source), _PUBLISHED)
    with opened_checkpoint(source) as checkpoint:
        return find_as_published(checkpoint, threshold, dtype=source.dtype, device=source.device)


def search_of(quick: bool = False, prompts: Sequence[str] | None = None, **settings: Any) -> Search:
    """A `Search`, or a quick one; settings that are None are left to its defaults."""
    given = {key: value for key, value in settings.items() if value is not None}
    given["prompts"] = tuple(prompts) if prompts else None
    if quick:
        most = {"most_windows": given["windows"]} if "windows" in given else {}
        return Search.quick(**given, **most)
    return Search(**given)


def searched(
    model: Any,
    mode: str,
    threshold: float,
    search: Search,
    *,
    text: Text | Path | str | None = None,
    inputs: Path | str | None = None,
    against: Any = None,
    shown: Mapping[str, Any] | None = None,
    out: Path | None = None,
    progress: Progress = silent,
) -> Record | list[SuperWeight]:
    """The record of a search; for `mode` reference what the published procedure gives; where `against` names the base
    that the model was made from, the record of `superweights.drift`, without a search.

    `inputs` is a .safetensors file of the model's own arguments. `shown` are the options, by name, that say what of a
    search is told, and `out` where its record will be written. Raises `SuperweightsError` for another mode than default
    and reference, and for what only a search answers beside `against` and that mode.
    """
    if mode not in ("default", "reference"):
        raise SuperweightsError(f"There is no mode {mode!r}.", hint="use --mode default or --mode reference.")
    asked = {
        **_divided(Source.of(model)),
        "--text": text,
        "--inputs": inputs,
        **_set(search),
        **(shown or {}),
    }
    if against is not None:
        _refuse({**asked, "--mode": mode != "default"}, "--against compares two checkpoints without one")
        return drift(model, against, progress=progress)
    if mode == "reference":
        _refuse({**asked, "--out": out}, _PUBLISHED)
        return find_published(model, threshold)
    given = None if inputs is None else read_inputs(inputs)
    return found_record(find(model, search, text=text, token_ids=given, progress=progress))


def explained(written: str | None) -> Address | None:
    """The weight whose story is asked for, None for none. Raises `SuperweightsError` for what is no address."""
    return None if written is None else Address.parse(written)


def _divided(source: Source) -> dict[str, Any]:
    """How the model is to be divided, by the names of the options."""
    return {"--tensor-parallel": source.tensor_parallel, "--device-map": source.device_map}


def _set(search: Search) -> dict[str, bool]:
    """Which settings of a search are not its defaults, by the names of their options."""
    usual, found = Search(), {}
    for name, option in _OPTIONS.items():
        found[option] = getattr(search, name) != getattr(usual, name)
    return found


def _refuse(asked: Mapping[str, Any], what: str) -> None:
    """Raise for the first option that was given and that only a search answers."""
    for option in (name for name, given in asked.items() if given):
        raise SuperweightsError(
            f"{option} is about a search, and {what}.",
            hint="leave one of them out.",
        )


def found_record(findings: Findings) -> Record:
    """What was found, with all it takes to find it again."""
    scores = (findings.base_loss, *((findings.joint,) if findings.joint else ()))
    seed = findings.conditions["search"]["seed"]
    return Record.of("find", _Searched(findings), seed=seed, scores=scores, findings=findings)


class _Searched:
    """The checkpoint that findings are about, by what they say of it."""

    def __init__(self, findings: Findings):
        told = findings.conditions
        self.name, self.revision, self._fingerprint = told["name"], told["revision"], told["fingerprint"]

    def fingerprint(self) -> str:
        """As the checkpoint's."""
        return self._fingerprint
