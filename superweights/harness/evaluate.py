"""Scores of a model on tasks."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.evaluator import evaluate
from torch import nn

from superweights.editing import Edit
from superweights.errors import SuperweightsError
from superweights.harness.model import SuperweightsLM
from superweights.harness.tasks import load_tasks
from superweights.record import Score

# Resamples for metrics without a closed form; lm-eval's 100,000 cost minutes and change the second digit.
_RESAMPLES = 1000
_SEED = 1234

_UNITS = {
    "acc": "of items",
    "acc_norm": "of items",
    "exact_match": "of items",
    "perplexity": "per answer",
    "word_perplexity": "per word",
    "byte_perplexity": "per byte",
    "bits_per_byte": "bits per byte",
}


@dataclass(frozen=True)
class Conditions:
    """How tasks are run: what lm-eval would be told on its command line. None is lm-eval's default.

    `max_length` is the context in tokens (texts longer than it are cut into windows; its logits are in
    memory at once), `bos` whether texts begin with the beginning-of-sequence token (None: as the tokenizer
    does it), `include_path` a folder of further task files.
    """

    batch_size: int | None = None
    """Requests that go through the model at once."""
    num_fewshot: int | None = None
    """Examples before each item."""
    max_length: int | None = None
    bos: bool | None = None
    include_path: str | Path | None = None


def accuracy(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str],
    limit: int | None = None,
    *,
    edits: str | Iterable[str | Edit] = (),
    conditions: Conditions | None = None,
) -> list[Score]:
    """The scores of `model` on `tasks`, one for each task and metric, under lm-eval's names (`last_word/acc`).

    `tasks` are `choice=FILE`, `last_word=FILE`, `perplexity=FILE` (local JSON lines, no network), the
    path of a task file, or a task that lm-eval knows; `limit` takes the first so many items of each. `edits`
    hold while the tasks run. The model may be streamed.

    Standard errors are lm-eval's, over items (1,000 resamples where it resamples); for the ratios it gives
    none for (perplexity per word, bits per byte) the linearised error of a ratio (Cochran 1977, 2.11).

    Raises `SuperweightsError` for tasks, files or edits that cannot be used.
    """
    conditions = conditions or Conditions()
    if limit is not None and limit < 1:
        raise SuperweightsError(f"A limit of {limit} leaves no items.", hint="use 1 or more, or no limit.")
    with _calm():
        loaded = load_tasks(tasks, conditions.include_path)
        for task in loaded["tasks"].values():
            _set_fewshot(task, conditions.num_fewshot)
        lm = SuperweightsLM(
            model,
            edits,
            tokenizer=tokenizer,
            batch_size=conditions.batch_size,
            max_length=conditions.max_length,
            add_bos_token=conditions.bos,
        )
        with contextlib.closing(lm):
            try:
                found: Any = evaluate(lm, loaded, limit=limit, bootstrap_iters=_RESAMPLES, log_samples=True)
            except OverflowError:  # in its errors: the squares of resampled perplexities
                raise SuperweightsError(
                    "A perplexity is so large here that lm-evaluation-harness cannot tell its error.",
                    hint="leave out what measures perplexity, as last_word does; superweights score can tell it.",
                ) from None
    return [score for name in found["results"] for score in _scores(name, found)]


def _set_fewshot(task: Any, number: int | None) -> None:
    """The number of examples before each item: as asked, unless the task fixes it at none."""
    own = task.get_config("num_fewshot")
    if own is None or (number is not None and own != 0):
        task.set_config(key="num_fewshot", value=number or 0)
    task.set_fewshot_seed(seed=_SEED)


def _scores(name: str, found: dict[str, Any]) -> Iterator[Score]:
    """The scores in one row of lm-eval's results."""
    row = found["results"][name]
    n = row.get("sample_len") or sum(found["results"][t].get("sample_len", 0) for t in _members(name, found))
    for key, value in row.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = row.get(f"{metric}_stderr,{filtered}")
        if not isinstance(error, int | float) or not math.isfinite(error):
            error = _ratio_error(found["samples"].get(name, ()), metric, value)
        label = f"{name}/{metric}" if filtered == "none" else f"{name}/{metric} ({filtered})"
        yield Score(label, float(value), _UNITS.get(metric, ""), n, None if error is None else float(error))


def _members(group: str, found: dict[str, Any]) -> list[str]:
    return [name for name in found.get("group_subtasks", {}).get(group, ()) if name in found["results"]]


def _ratio_error(samples: Sequence[Any], metric: str, value: float) -> float | None:
    """The standard error of a metric made of the ratio of two sums over items, or None.

    lm-eval's perplexities are `exp(-L / W)` and bits per byte `-L / (W log 2)`, with the log-likelihood `L`
    and the size `W` summed over items.
    """
    pairs: list[Any] = [sample.get(metric) for sample in samples]
    n = len(pairs)
    if n < 2 or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        return None
    likelihood, size = (sum(pair[i] for pair in pairs) for i in (0, 1))
    ratio = likelihood / size
    spread = math.sqrt(n / (n - 1) * sum((a - ratio * b) ** 2 for a, b in pairs)) / size
    if math.isclose(value, math.exp(-ratio), rel_tol=1e-6):
        return value * spread
    return spread / math.log(2) if math.isclose(value, -ratio / math.log(2), rel_tol=1e-6) else None


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """lm-eval without its warnings, its prints and bars on a terminal's stderr alone, resampling in this process."""
    logger, held = logging.getLogger("lm_eval"), os.environ.get("DISABLE_MULTIPROC")
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    shown = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            yield
    finally:
        logger.setLevel(level)
        if held is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = held
