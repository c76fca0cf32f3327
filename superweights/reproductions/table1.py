"""Table 1: the model as it is, without its super weights, without 7,000 others, and with the super activation back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.editing import Edit, edited, zero
from superweights.findings.reproduction import Column, Published, Reproduction
from superweights.record import Score, SuperWeight
from superweights.reproductions.losses import losses_of
from superweights.reproductions.others import (
    CODE_SHARE,
    PAPER_SHARE,
    Others,
    Ranking,
    block_matrices,
)
from superweights.reproductions.restore import cannot_restore, restored
from superweights.reproductions.subject import Subject
from superweights.scoring import loss_change, loss_per_window, perplexity_of, predict_last_words
from superweights.scoring.error import bootstrap_error

# The columns of the paper that always stand beside ours.
_BESIDE = ("Wiki-2", "LAMBADA", "average")


@dataclass(frozen=True)
class Version:
    """One row: its heading, the row of the paper that it answers, and the weights it prunes."""

    heading: str
    paper: str | None
    edits: tuple[Edit, ...]
    """What is changed."""


def run(subject: Subject) -> Reproduction:
    """The experiment. Source: arXiv 2411.07191, section 3.2 and Table 1.

    We differ: perplexity on the text given, in windows that are stated, with errors; the last words of passages,
    and zero-shot tasks where asked for; and the other weights by four readings of "the other 7,000 largest".
    """
    if subject.setting.tasks:
        import superweights.harness  # noqa: F401 - to fail at once where lm-evaluation-harness is missing
    weights = subject.weights()
    versions, rules = _versions(subject)
    losses = losses_of(
        subject.model,
        subject.windows(),
        [version.edits for version in versions[1:]],
        batch_size=subject.setting.batch_size,
        progress=subject.reporter("windows"),
    )
    published = subject.published("table1")
    rows = [
        _row(version, own, losses[0], published, subject.setting.seed)
        | _quality(subject, edited(subject.model, version.edits, verify=False), version.heading)
        for version, own in zip(versions, losses, strict=True)
    ]
    row, problem, recovered = _restored_row(subject, weights, losses[:2], published)
    columns = _columns(rows[0], published)
    return Reproduction(
        experiment="table1",
        title="Table 1: what the model loses",
        columns=columns,
        rows=(*rows, row),
        published=published,
        weights=tuple(weight.to_json() for weight in weights),
        chosen=subject.chosen.how,
        scores=(recovered,) if recovered else (),
        sentences=_sentences(rows, recovered, published),
        notes=(*rules, *([problem] if problem else []), *_not_measured(columns, published)),
        conditions=subject.conditions(text=True),
    )


def _versions(subject: Subject) -> tuple[list[Version], list[str]]:
    """The rows but the last, and how the other weights were taken."""
    checkpoint, avoid = subject.checkpoint, set(subject.chosen.addresses)
    total = sum(checkpoint.tensors[name].size for name in block_matrices(checkpoint))
    wanted, in_paper = subject.setting.others, max(1, round(total * PAPER_SHARE))
    ranking = Ranking(checkpoint, avoid, max(wanted, in_paper), max(wanted / total, CODE_SHARE))
    everywhere = ranking.of_all(wanted)
    alike = ranking.of_each(len(everywhere.addresses) / total)
    as_code = ranking.of_each(CODE_SHARE)
    in_share = ranking.of_all(in_paper)
    chosen = {
        "all together": everywhere,
        "the same share of each tensor": alike,
        "the paper's share": in_share,
    }
    versions = [
        Version("original", "original", ()),
        Version(f"no super weights ({len(avoid)})", "without", zero(subject.chosen.addresses)),
        *(
            _others(others, which, "others" if others is everywhere else None)
            for which, others in chosen.items()
        ),
    ]
    rules = [f"{v.heading}: {_told(o)}." for v, o in zip(versions[2:], chosen.values(), strict=True)]
    if as_code.addresses:
        versions.append(_others(as_code, "as the code", None))
        rules.append(f"{versions[-1].heading}: {_told(as_code)}.")
    else:
        rules.append(
            f"The authors' code prunes int(size * {CODE_SHARE:g}) weights of each tensor, which is none in this model."
        )
    return versions, rules


def _others(others: Others, which: str, paper: str | None) -> Version:
    return Version(f"no other {len(others.addresses):,}, {which}", paper, zero(others.addresses))


def _told(others: Others) -> str:
    return f"{others.rule}, down to a magnitude of {others.smallest or 0:.4g}"


def _row(
    version: Version,
    losses: Tensor,
    base: Tensor,
    published: Published,
    seed: int,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "version": version.heading,
        "pruned": len(version.edits),
        "perplexity": perplexity_of(losses, seed=seed),
        "loss": loss_change(base, losses) if version.edits else None,
    }
    return row | _beside(version.paper, published)


def _beside(paper: str | None, published: Published) -> dict[str, Any]:
    """The paper's figures for one row."""
    columns = published.figures["columns"]
    told = dict(zip(columns, published.figures.get(paper, ()), strict=False))
    return {f"published_{column}": told.get(column) for column in columns}


def _columns(row: dict[str, Any], published: Published) -> tuple[Column, ...]:
    """What was measured, each task beside the paper's figure for it, then the paper's other figures."""
    told = published.figures["tasks"]
    ours = [Column("perplexity", "perplexity"), Column("loss", "loss against it, nats")]
    ours += [Column("accuracy", "last words right")] if "accuracy" in row else []
    shown = set(_BESIDE)
    for key in (key for key, value in row.items() if "/" in key and isinstance(value, Score)):
        ours.append(Column(key, key))
        task, _, metric = key.partition("/")
        if metric == "acc" and task in told:  # the paper's figures are plain accuracies
            ours.append(_published(told[task], published))
            shown.discard(told[task])
    rest = [_published(column, published) for column in _BESIDE if column in shown]
    return (Column("version", "version", "label"), *ours, *rest)


def _published(column: str, published: Published) -> Column:
    return Column(f"published_{column}", f"{published.model}: {column}", "published")


def _quality(
    subject: Subject, change: AbstractContextManager[Any], label: str, batch_size: int | None = None
) -> dict[str, Score]:
    """The accuracy of last words, where there are passages, and the tasks asked for, under a change."""
    s, found = subject.setting, {}
    if not (s.passages or s.tasks):
        return {}
    with change:
        if s.passages:
            words = predict_last_words(
                subject.model,
                subject.tokenizer,
                s.passages,
                batch_size=batch_size or 8,
                bos=subject.bos,
                progress=subject.reporter(f"last words, {label}"),
            )
            found["accuracy"] = words.accuracy
        if s.tasks:
            found |= _tasks(subject, batch_size)
    return found


def _tasks(subject: Subject, batch_size: int | None) -> dict[str, Score]:
    """The scores of the tasks, by lm-evaluation-harness's names of them."""
    from superweights.harness import Conditions, accuracy

    s = subject.setting
    conditions = Conditions(batch_size=batch_size or s.batch_size, bos=subject.bos or None)
    scores = accuracy(subject.model, subject.tokenizer, s.tasks, s.task_limit, conditions=conditions)
    return {score.name: score for score in scores}


def _restored_row(
    subject: Subject, weights: Sequence[SuperWeight], losses: Tensor, published: Published
) -> tuple[dict[str, Any], str | None, Score | None]:
    """The row '+SA', why it could not be measured, and how much of the loss it wins back."""
    heading = "no super weights, super activation back"
    row: dict[str, Any] = {"version": heading, "pruned": len(weights)} | _beside("restored", published)
    problem = cannot_restore(subject.model, weights)
    if problem:
        return row, f"{heading}: not measured. {problem}", None
    with restored(subject.model, weights):
        own = loss_per_window(
            subject.model, subject.windows(), batch_size=1, progress=subject.reporter(heading)
        )
    row["perplexity"] = perplexity_of(own, seed=subject.setting.seed)
    row["loss"] = loss_change(losses[0], own)
    row |= _quality(subject, restored(subject.model, weights), heading, batch_size=1)
    return row, None, _recovered(losses[0], losses[1], own, subject.setting.seed)


def _recovered(base: Tensor, without: Tensor, back: Tensor, seed: int) -> Score:
    """Which share of the loss rise goes away when the super activation is back; error over windows."""
    pairs = torch.stack([without - back, without - base], 1)
    value = (pairs[:, 0].sum() / pairs[:, 1].sum()).item()
    error = bootstrap_error(pairs, lambda means: means[:, 0] / means[:, 1], seed)
    return Score("loss rise undone by the super activation", value, "of the rise", len(pairs), error)


def _sentences(rows: list[dict[str, Any]], recovered: Score | None, published: Published) -> tuple[str, ...]:
    original, *ours = (row["perplexity"].value for row in rows[:5])
    before, *theirs = (
        _beside(row, published)["published_Wiki-2"] for row in ("original", "without", "others")
    )
    times = ", ".join(f"{value / original:,.3g}" for value in ours)
    said = [
        f"Perplexity times the original's, row by row: {times} ({published.model}, published: "
        f"{', '.join(f'{value / before:,.3g}' for value in theirs)} for the super weight and 7,000 others)."
    ]
    if recovered is not None:
        said.append(f"The super activation alone, put back at its token, undoes {recovered}.")
    return tuple(said)


def _not_measured(columns: Sequence[Column], published: Published) -> list[str]:
    told = {column.key for column in columns}
    left = [column for column in published.figures["columns"] if f"published_{column}" not in told]
    return [f"Not measured: {', '.join(left)}; name the tasks with --task."] if left else []
