"""Figure 6: quality against the factor on the super weights, 0 to 3."""

from __future__ import annotations

from typing import Any

from superweights.editing import edited, scale
from superweights.errors import SuperweightsError
from superweights.findings.reproduction import Column, Plot, Reproduction
from superweights.record import Score
from superweights.reproductions.losses import losses_of
from superweights.reproductions.subject import Subject
from superweights.scoring import loss_change, perplexity_of, predict_last_words


def run(subject: Subject) -> Reproduction:
    """The experiment. Source: arXiv 2411.07191, section 3.3, Figures 6 and 8.

    We differ: perplexity, and the rise of the loss over factor 1 window by window, in place of seven tasks;
    with passages, the accuracy of their last words. All super weights are scaled together, as in the paper.
    """
    factors = sorted(set(subject.setting.scales) | {1.0})
    if factors[0] < 0:
        raise SuperweightsError(f"The factor {factors[0]:g} is below 0.", hint="factors run from 0 upwards.")
    addresses = subject.chosen.addresses
    moved = [factor for factor in factors if factor != 1]
    losses = losses_of(
        subject.model,
        subject.windows(),
        [scale(addresses, factor) for factor in moved],
        batch_size=subject.setting.batch_size,
        progress=subject.reporter("windows"),
    )
    by_factor = dict(zip([1.0, *moved], losses, strict=True))
    published = subject.published("figure6")
    known = {float(x): y for x, y in published.figures}
    rows: list[dict[str, Any]] = []
    for factor in sorted(set(factors) | (set(known) if published.same_model else set())):
        row: dict[str, Any] = {"scale": factor, "published_accuracy": known.get(factor)}
        if factor in by_factor:
            row["perplexity"] = perplexity_of(by_factor[factor], seed=subject.setting.seed)
            row["loss"] = loss_change(by_factor[1.0], by_factor[factor]) if factor != 1 else None
            row["accuracy"] = _accuracy(subject, factor)
        rows.append(row)
    return Reproduction(
        experiment="figure6",
        title="Figure 6: quality against the factor on the super weights",
        columns=(
            Column("scale", "factor", "label"),
            Column("perplexity", "perplexity"),
            Column("loss", "loss against 1, nats"),
            *((Column("accuracy", "last words right"),) if subject.setting.passages else ()),
            Column("published_accuracy", f"{published.model}, 7 tasks, %", "published"),
        ),
        rows=tuple(rows),
        published=published,
        weights=tuple(weight.to_json() for weight in subject.weights()),
        chosen=subject.chosen.how,
        sentences=(_best(rows),),
        conditions=subject.conditions(text=True),
        plot=Plot("scale", ("perplexity",), "perplexity", logarithmic=True),
    )


def _accuracy(subject: Subject, factor: float) -> Score | None:
    s = subject.setting
    if not s.passages:
        return None
    with edited(subject.model, scale(subject.chosen.addresses, factor), verify=False):
        report = subject.reporter(f"last words, factor {factor:g}")
        found = predict_last_words(
            subject.model, subject.tokenizer, s.passages, bos=subject.bos, progress=report
        )
    return found.accuracy


def _best(rows: list[dict[str, Any]]) -> str:
    """Whether any factor is better than 1, by the paired change of the loss."""
    measured = [row for row in rows if row.get("loss") is not None]
    if not measured:
        return "Only factor 1 was measured."
    best = min(measured, key=lambda row: row["loss"].value)
    low, high = best["loss"].interval()
    said = f"The best factor but 1 is {best['scale']:g}: {best['loss'].value:+.4f} nats, 95 % {low:+.4f} to {high:+.4f}"
    if high < 0:
        return f"{said}; better than 1 on this text, though chosen on it."
    return f"{said}: no factor is better than 1 beyond the error."
