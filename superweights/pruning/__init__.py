"""Prune: sub-layers dropped for real, so that files, time and key-value cache get smaller.

Which to drop is told by `superweights.interpretability.redundancy`; `without` leaves them out of a running model,
`prune` out of a checkpoint.

Source: "Uncovering the Redundancy in Transformers" (LLM-Drop, arXiv 2406.15786). Where we differ: no forks of model
code, the weights that are gone are not in the file, a dropped attention leaves no hole in the key-value cache, and
every written checkpoint has been run beside the original.
"""

from __future__ import annotations

from typing import Any

from superweights.lazy import found

_HOMES = {
    "Dropped": "dropped",
    "without": "leaving_out",
    "DropEffect": "effects",
    "drop_effects": "effects",
    "prune": "writing",
    "carriers": "guard",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    return found(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return __all__
