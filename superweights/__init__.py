"""superweights: find, prove, protect and explain the few numbers that hold a large language model up."""

from __future__ import annotations

from typing import Any

from superweights.lazy import found
from superweights.plugin import teach_transformers
from superweights.telling import tell_by

__version__ = "0.1.0.dev0"

# The verbs: each lives in a file of its name.
_VERBS = (
    "ablate", "activations", "adapt_answer", "adapt_compare", "adapt_effects", "adapt_mix",
    "adapt_train", "adapt_write", "anatomy", "attach", "audit", "census", "designs", "drift", "estimate", "evaluate",
    "explore", "facts", "find", "grow", "known", "lab_compare", "lab_list", "lab_page", "lab_run",
    "peel", "plan", "profile", "prune", "push", "quantize", "recipe", "report", "reproduce", "scale", "scan",
    "score", "show", "sweep", "tour", "train",
)  # fmt: skip
# Where each public name lives; `__init__.pyi` says the same to type checkers. Nothing is imported until it is asked
# for, so that `import superweights` costs milliseconds and brings neither torch nor transformers.
_HOMES = {
    "Address": "address",
    "SuperWeight": "record",
    "Control": "record",
    "Score": "record",
    "Record": "record",
    "SuperweightsError": "errors",
    "Checkpoint": "checkpoint",
    "open_checkpoint": "checkpoint",
    "Edit": "editing",
    "edited": "editing",
    "Findings": "discovery",
    "Search": "discovery",
    "opened": "stream",
    "streaming": "stream",
    "Grids": "verbs.sweep",
    "watching": "watch",
    "Reading": "subject",
    "Source": "subject",
    "Text": "subject",
    "Passages": "scoring.effects",
    "Writing": "scoring.effects",
    "Rounding": "quantization.defaults",
    "Scheme": "quantization",
    "Plan": "quantization.plan",
    "Dropping": "verbs.prune",
    "progress_bar": "bar",
    **{verb: f"verbs.{verb}" for verb in _VERBS},
}

# Packed and pruned checkpoints load through transformers' own `from_pretrained`; nothing but the standard library is
# imported for it.
teach_transformers()


def _told(record: Any) -> str:
    """A record as its command prints it, as wide as the terminal where there is one."""
    from superweights.tables import printed

    return printed(record)


tell_by(_told)

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    return found(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return __all__
