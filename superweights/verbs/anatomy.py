"""`superweights.anatomy`: questions about what goes on inside a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.artefacts.file import write_text
from superweights.artefacts.place import check_picture
from superweights.errors import SuperweightsError
from superweights.findings import Anatomy
from superweights.index.choice import choose_weights
from superweights.interpretability import Study
from superweights.interpretability.questions import answer_all, question_named
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.stream.opening import Opened, opening
from superweights.subject import Reading, objective_of, resolve_bos

ALL = "all"


def anatomy(
    question: str,
    model: Any = None,
    reading: Reading = Reading(window=64, windows=32),  # noqa: B008 - frozen
    *,
    causal: bool = False,
    weights: Sequence[Address | str] | Address | str = (),
    record: Path | None = None,
    prompts: Path | None = None,
    plot: Path | None = None,
    tower: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Anatomy`: the answer to `question`, a word of `interpretability.QUESTIONS` or `all`.

    `model` as in `score`. `causal` intervenes too, beside random controls: on `weights`, on those of a `record` that
    `find` wrote, or on the known ones. `prompts` is a JSON file for the question about relations. The answer is drawn
    into `plot` (.svg).

    `tower` is one of several stacks of blocks (`encoder`, `vision`; None: the last one, which predicts).

    Raises `SuperweightsError` for a word that is no question, and for what a question itself refuses.

    >>> record = anatomy("sinks", "embedded")                # doctest: +SKIP
    >>> record.findings.answers["sinks"].scores()            # doctest: +SKIP
    """
    _check(question, causal)
    check_picture(plot)
    progress("opening", 0, 1)
    with opening(model) as opened:
        removed = choose_weights(opened.checkpoint, weights, record).addresses if causal else ()
        bos = resolve_bos(opened.tokenizer, reading.bos)
        study = Study(
            opened.model,
            reading.cut(opened.tokenizer),
            opened.tokenizer,
            bos,
            weights=removed,
            prompts=prompts,
            causal=causal,
            batch_size=reading.batch_size,
            seed=seed,
            progress=progress,
            tower=tower,
        )
        asked = answer_all(study) if question == ALL else {question: question_named(question).answer(study)}
        conditions = {
            **reading.conditions(opened.tokenizer),
            "objective": objective_of(opened.model).name,
            "tower": tower,
            "causal": causal,
            "weights": [str(address) for address in removed],
            "dtype": opened.conditions()["dtype"],
        }
        made = _recorded(question, opened, conditions, asked, seed)
    if plot is not None:
        write_text(plot, made.findings.picture())
    return made


def _check(question: str, causal: bool) -> None:
    if question != ALL:
        question_named(question)
    elif causal:
        raise SuperweightsError("All questions at once only look.", hint="ask one question with --causal.")


def _recorded(
    question: str, opened: Opened, conditions: dict[str, Any], asked: dict[str, Any], seed: int
) -> Record:
    answers = {word: answer for word, answer in asked.items() if not isinstance(answer, str)}
    refused = {word: answer for word, answer in asked.items() if isinstance(answer, str)}
    return Record.of(
        f"anatomy {question}",
        opened.checkpoint,
        seed=seed,
        scores=[score for answer in answers.values() for score in answer.scores()],
        findings=Anatomy(conditions, answers, refused),
        text_sha256=conditions["text_sha256"],
    )
