"""Which super weights of this model: one rule for everyone who asks, with its policies by name.

Policies are tried in order, and the first that gives any weights decides:

| policy | the weights |
|---|---|
| given | those that were named |
| record | the super weights of a record that `superweights find` wrote about this very checkpoint |
| authors | known ones whose coordinates the paper or its code publish |
| proven | known ones that were shown to matter: critical, joint or partial |
| unjudged | known ones that nobody has judged |
| search | those that a search finds now |

A known weight counts where the number at its place agrees with the published one (a fine-tune may have moved it a
little); where none was published, where it is among the largest thousandth of its tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.errors import SuperweightsError
from superweights.index import Match, fingerprint_of, look_up
from superweights.record import MATTERS, InExpert, Record, SuperWeight, super_experts, weights_of

# What is worth keeping exact, removing, pulling: whatever is known to matter here.
TO_PROTECT = ("given", "record", "proven", "unjudged")
# What the paper's experiments are about: its own coordinates where it has some.
TO_REPRODUCE = ("given", "record", "authors", "proven", "search")
# How the index says that the authors name a weight themselves, in the paper or in the table of their code.
_AUTHORS = ("arXiv 2411.07191", "mengxiayu/LLMSuperWeight, outliers/model.py")
_LARGE = 1e-3
_WRITES_ONE = "make one with superweights find MODEL --out FILE."


@dataclass(frozen=True)
class Choice:
    """The super weights of one model, and why these."""

    addresses: tuple[Address, ...]
    """The weights; empty where no policy gave any."""
    policy: str | None
    """The policy that decided; None where none did."""
    hub_names: tuple[str, ...] = ()
    """The names under which the index knows this model."""
    experts: tuple[InExpert, ...] = ()
    """The super experts that some of the weights stand for."""

    @property
    def how(self) -> str:
        """The policy in words."""
        return _WORDS.get(self.policy or "", "none known")

    def notes(self, whole: bool = False) -> tuple[str, ...]:
        """What a person must know who keeps these weights (`whole`: the matrices that they stand in): no more of a
        super expert is kept."""
        kept = "the matrix with " if whole else ""
        return tuple(
            f"Expert {each.expert} of {each.module} is {each.verdict} as a whole; of it only {kept}{each.inside} is "
            "kept, and the rest is rounded as in every other expert."
            for each in self.experts
        )


_WORDS = {
    "given": "as given",
    "record": "a record of find",
    "authors": "published by the authors; the numbers here agree",
    "proven": "known, critical or partial; the numbers here agree",
    "unjudged": "known, not judged yet; the numbers here agree",
    "search": "found by superweights find",
}


def choose_weights(
    checkpoint: Any,
    given: Sequence[Address | str] | Address | str = (),
    record: Record | Path | str | None = None,
    policies: Sequence[str] = TO_PROTECT,
    search: Callable[[], Sequence[SuperWeight]] | None = None,
) -> Choice:
    """The super weights of the open `checkpoint`, by the first of `policies` that gives any.

    `record` is one, or a file that holds one; once given it decides, also where it found nothing. `search` is asked
    for the policy of that name only. Raises `SuperweightsError` for an address that the checkpoint lacks, for
    a file that holds no record of a search, and for a record of another checkpoint.
    """
    addresses = Address.several(given)
    for address in addresses:
        checkpoint.check(address)
    believed = [match for match in look_up(checkpoint) if _believed(match, checkpoint)]
    names = tuple(dict.fromkeys(match.known.model for match in believed))
    if record is not None and not addresses:
        return Choice(recorded_weights(checkpoint, record), "record", names, _of_experts(record))
    for policy in policies:
        found = addresses if policy == "given" else _known(policy, believed)
        if policy == "search" and search is not None:
            found = [weight.address for weight in search()]
        if found:
            return Choice(tuple(dict.fromkeys(found)), policy, names)
    return Choice((), None, names)


def some_weights(checkpoint: Any, *how: Any, by_record: bool = True, **further: Any) -> Choice:
    """As `choose_weights`. Raises `SuperweightsError` where there are none; `by_record`: a record may name them."""
    choice = choose_weights(checkpoint, *how, **further)
    if not choice.addresses and choice.policy == "record":
        raise SuperweightsError(
            f"The record found no super weight in {checkpoint.name}.",
            hint="there is none to keep apart, any quantizer may take the model as it is; to treat other weights so, "
            "name them with --weights 'TENSOR[i, j]'.",
        )
    if not choice.addresses:
        raise SuperweightsError(
            f"No super weight of {checkpoint.name} is known.",
            hint="name some with --weights 'TENSOR[i, j]', or search with superweights find MODEL --out FILE "
            "and give --from FILE."
            if by_record
            else "name some with --weights 'TENSOR[i, j]'; superweights find MODEL finds them.",
        )
    return choice


def _of_experts(record: Record | Path | str) -> tuple[InExpert, ...]:
    held = record if isinstance(record, Record) else Record.read(record)
    return tuple(super_experts(held.findings))


def recorded_weights(checkpoint: Any, record: Record | Path | str) -> tuple[Address, ...]:
    """The super weights in a record of `superweights find` about this checkpoint; empty where it found none."""
    where = record.command if isinstance(record, Record) else str(record)
    held = record if isinstance(record, Record) else Record.read(record)
    fingerprint = held.inputs.get("fingerprint")
    if fingerprint is None:
        raise SuperweightsError(f"{where} is no record of a search.", hint=_WRITES_ONE)
    weights = weights_of(held.findings, where, _WRITES_ONE)
    if fingerprint != checkpoint.fingerprint():
        raise SuperweightsError(
            f"{where} is about another checkpoint (fingerprint {str(fingerprint)[:12]}, and {checkpoint.name} "
            f"has {checkpoint.fingerprint()[:12]}).",
            hint="search this one with superweights find MODEL --out FILE, or name the weights with --weights.",
        )
    return tuple(weight.address for weight in weights)


def _known(policy: str, believed: Sequence[Match]) -> list[Address]:
    """The believed weights that a policy takes."""
    takes: dict[str, Callable[[Match], bool]] = {
        "authors": lambda match: any(a in source for source in match.known.sources for a in _AUTHORS),
        "proven": lambda match: match.known.verdict in MATTERS,
        "unjudged": lambda match: match.known.verdict == "unknown",
    }
    take = takes.get(policy, lambda match: False)
    return [match.address for match in believed if match.address is not None and take(match)]


def _believed(match: Match, checkpoint: Any) -> bool:
    """Whether the number at a known coordinate agrees; without a published one, whether it is large."""
    if match.address is None or not match.agrees:
        return match.address is not None and match.agrees is None and _is_large(match.address, checkpoint)
    return True


def _is_large(address: Address, checkpoint: Any) -> bool:
    size = math.prod(checkpoint.tensors[address.tensor].shape)
    rank = fingerprint_of(checkpoint, address).value_rank
    return rank is not None and rank < _LARGE * size
