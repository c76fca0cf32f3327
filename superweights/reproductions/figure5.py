"""Figure 5: how the mean next-token distribution moves when the super weights go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from superweights.editing import edited, zero
from superweights.errors import SuperweightsError
from superweights.findings.reproduction import Column, Plot, Published, Reproduction
from superweights.record import Score
from superweights.reproductions.losses import losses_of
from superweights.reproductions.subject import Subject
from superweights.scoring import TokenChange, TokenShift, Variant, match_damage, token_shift

_GROUPS = {"leading": "likeliest before", "gained": "most gained", "lost": "most lost"}
# Noise of the control at full strength, in standard deviations of the embeddings.
_NOISE = 8.0


def run(subject: Subject) -> Reproduction:
    """The experiment. Source: arXiv 2411.07191, section 3.2, Figures 5 and 11 to 13.

    We differ: the whole vocabulary is followed, means are float64, errors are bootstrapped over prompts, stop
    words are a declared list, and a control of equal damage tells what any broken model does.
    """
    weights = zero(subject.chosen.addresses)
    pruned = Variant(subject.model, lambda: edited(subject.model, weights, verify=False))
    shift = _shift(subject, pruned, "prompts")
    published = subject.published("figure5")
    rows = [row for name in _GROUPS for row in _rows(_GROUPS[name], getattr(shift, name), published)]
    scores, notes = list(_scores(shift, "")), []
    if subject.setting.control:
        control, note = _control(subject)
        notes.append(note)
        if control is not None:
            rows += _rows("most gained, control", control.gained, published)
            scores += _scores(control, ", control")
    return Reproduction(
        experiment="figure5",
        title="Figure 5: mean probability of the next token, %",
        columns=(
            Column("group", "", "label"),
            Column("token", "token", "label"),
            Column("original", "original"),
            Column("without", "no super weights"),
            Column("ratio", "times"),
            Column("ratio_interval", "95 %"),
            Column("published_original", published.model, "published"),
            Column("published_without", "without", "published"),
        ),
        rows=tuple(rows),
        published=published,
        weights=tuple(weight.to_json() for weight in subject.weights()),
        chosen=subject.chosen.how,
        scores=tuple(scores),
        sentences=_sentences(scores, shift),
        notes=tuple(notes),
        conditions=subject.conditions(text=True) | {"prompts": shift.prompts},
        plot=Plot("token", ("original", "without"), "probability, %"),
    )


def _shift(subject: Subject, other: Variant, label: str) -> TokenShift:
    s = subject.setting
    return token_shift(
        subject.model,
        other,
        subject.tokenizer,
        subject.stretches(),
        top=s.top,
        seed=s.seed,
        progress=subject.reporter(label),
    )


def _control(subject: Subject) -> tuple[TokenShift | None, str]:
    """The shift of a model broken as badly by other means, noise on its token embeddings; and what to say of it."""
    windows = subject.windows()
    losses = losses_of(subject.model, windows, [zero(subject.chosen.addresses)])

    def at(strength: float) -> Variant:
        return Variant(subject.model, lambda: noisy(subject.model, _NOISE * strength, subject.setting.seed))

    try:
        matched = match_damage(at, windows, losses[1].mean().item())
    except SuperweightsError as error:
        return None, f"No control: noise on the token embeddings does no equal damage. {error.message}"
    note = (
        f"Control: noise of {_NOISE * matched.strength:.3g} standard deviations on the token embeddings costs as "
        f"much: {matched.loss:.3g} nats on the windows, the missing super weights {losses[1].mean().item():.3g}."
    )
    return _shift(subject, matched.variant, "control"), note


@contextmanager
def noisy(model: nn.Module, deviations: float, seed: int) -> Iterator[None]:
    """`model` inside the `with`, with seeded normal noise on its token embeddings: so many standard deviations."""
    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]

    def add(_: nn.Module, __: tuple, output: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
        return output + noise.to(output) * deviations * output.std()

    hook = embedding.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def _rows(group: str, changes: Sequence[TokenChange], published: Published) -> list[dict[str, Any]]:
    """A row for each token; the paper's figures beside the first token that reads the same, spaces aside."""
    told = {text.strip(): (before, after) for text, before, after in reversed(published.figures["tokens"])}
    found = []
    for change in changes:
        before, after = told.pop(change.text.strip(), (None, None))
        found.append(
            {
                "group": group,
                "token": change.text,
                "id": change.token,
                "original": 100 * change.base,
                "without": 100 * change.other,
                "change": asdict(change.change),
                "ratio": change.ratio,
                "ratio_interval": change.ratio_interval,
                "published_original": before,
                "published_without": after,
            }
        )
    return found


def _scores(shift: TokenShift, which: str) -> Iterator[Score]:
    for side in ("base", "other"):
        for name in ("entropy", "stop_words"):
            score: Score = getattr(shift, f"{name}_{side}")
            told = f"{score.name}, {'original' if side == 'base' else 'changed'}{which}"
            yield Score(told, score.value, score.unit, score.n, score.standard_error)
    yield Score(f"{shift.kl.name}{which}", shift.kl.value, shift.kl.unit, shift.kl.n, shift.kl.standard_error)


def _sentences(scores: Sequence[Score], shift: TokenShift) -> tuple[str, ...]:
    leading = sum(t.base for t in shift.leading), sum(t.other for t in shift.leading)
    return (
        f"The {len(shift.leading)} likeliest tokens hold {leading[0]:.1%} of the probability before and "
        f"{leading[1]:.1%} after.",
        *(f"{score.name}: {score}" for score in scores),
    )
