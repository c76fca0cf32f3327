"""The story of one weight: what triggers it, what it writes, who carries and erases that, what was lost without it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from superweights.errors import SuperweightsError
from superweights.tables.numbers import with_error
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.address import Address
    from superweights.discovery import Findings
    from superweights.record import Score, SuperWeight


def told(findings: Findings, address: Address) -> Iterator[str]:
    """The sentences. Raises `SuperweightsError` where the weight is none that spiked in this search."""
    weight = next((c for c in findings.candidates if c.address == address), None)
    if weight is None:
        raise SuperweightsError(
            f"{address} did not spike in this search, so there is no story to tell.",
            hint=f"see what it costs with superweights ablate MODEL '{address}'.",
        )
    yield f"{weight.address} = {weight.value:z.4g}: {weight.verdict}"
    yield from _spike(weight)
    yield from _journey(findings, weight)
    yield from _measured(findings, weight)


def _spike(w: SuperWeight) -> Iterator[str]:
    token = f" {w.token!r}" if w.token is not None else ""
    where = "an expert's token" if w.position is None else f"token{token} at position {w.position}"
    if w.kind == "weight":
        yield (
            f"trigger: at {where}, neuron {w.in_neuron} is {w.spike_in:z,.4g}; times this weight that is "
            f"{_share(w)} of the output {w.spike_out:z,.4g} in channel {w.out_channel}."
        )
    else:
        yield f"trigger: at {where}, this {w.kind} makes {w.spike_out:z,.4g} of channel {w.out_channel}."


def _share(w: SuperWeight) -> str:
    return "part" if w.dominance is None else f"{w.dominance:z.0%}"


def _journey(findings: Findings, w: SuperWeight) -> Iterator[str]:
    """Who carries what it writes, and who erases it."""
    later = [s for s in findings.layers if w.layer is not None and s.layer >= w.layer]
    carried = []
    for state in later:
        if state.channel != w.out_channel or state.phase in ("calm", "step_down"):
            break
        carried.append(state.layer)
    doing = "takes away from" if w.role == "erases" else "writes"
    yield f"it {doing} channel {w.out_channel} of the residual stream in layer {w.layer}."
    if carried and w.role == "writes":
        yield f"carried: channel {w.out_channel} holds the largest value after layers {carried[0]} to {carried[-1]}."
    same = [c for c in findings.candidates if c.out_channel == w.out_channel and c is not w]
    for role, word in (("writes", "also written by"), ("erases", "erased by")):
        others = [c for c in same if c.role == role]
        if others:
            yield f"{word}: " + ", ".join(f"{c.address} ({c.spike_out or 0.0:z,.0f})" for c in others) + "."
    steps = [str(s.layer) for s in findings.layers if s.phase == "step_down"]
    if steps:
        yield f"the residual stream steps down in layer {', '.join(steps)}."


def _measured(findings: Findings, w: SuperWeight) -> Iterator[str]:
    if w.effect is None:
        return
    low, high = w.effect.interval()
    yield (
        f"without it the loss rises by {with_error(w.effect, '+')} {w.effect.unit} (95 %: {low:+z.3f} to {high:+z.3f}, "
        f"{counted(w.effect.n, 'window')}): {costs(w.effect)}."
    )
    if w.effect_at_mean is not None:
        yield (
            f"held at its mean over other windows instead: {with_error(w.effect_at_mean, '+')}. What differs between "
            "the two is lost as a constant that the model relies on, not as information."
        )
    for control in w.controls:
        yield f"{control.score.name} ({control.kind}): {with_error(control.score, '+')}."
    for group in findings.groups:
        if str(w.address) in group.members:
            adds = "" if w.adds is None else f" Of that it adds {with_error(w.adds, '+')} to the rest."
            yield f"group ({group.kind}) {group.name}: {with_error(group.effect, '+')} {group.effect.unit}.{adds}"
    if w.effect_with_others is not None:
        yield f"{w.effect_with_others.name}: {with_error(w.effect_with_others, '+')}."
    if w.kl is not None:
        yield f"{w.kl.name}: {with_error(w.kl)} nats/token."
    said = findings.conditions
    bos = {True: ", with BOS", False: ", without BOS", None: ""}[said.get("bos")]
    yield (
        f"on {said.get('confirmed_on')}, windows of {said.get('window_tokens')} tokens{bos}; the model's own loss "
        f"{findings.base_loss}."
    )


def costs(rise: Score) -> str:
    """What a rise means: by what perplexity grows, or how far the embedding of a model without a head moves."""
    if rise.unit == "1 - cosine":
        return f"the embedding moves by {rise.value:z.3g} (1 - cosine)"
    return f"perplexity is {times(rise.value)} times as high"


def times(rise: float) -> str:
    """By what a loss rise in nats multiplies perplexity."""
    return f"{math.exp(rise):z.3g}" if rise < 700 else "over 1e+304"
