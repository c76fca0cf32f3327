"""What massive activations do, and how the emergence layer makes them: interventions beside random controls.

- Zero against the mean (Sun et al., arXiv 2402.17762, section 3): are they biases, or do they carry something?
- The emergence layer's ingredients (after Shi et al., arXiv 2605.08504): its norm's gain made flat, and the
  neurons' size capped at that of ordinary tokens.
- The mitigation that weakens what attention reads of the token afterwards (`wemask`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.asking import ask
from superweights.interpretability.body import Body
from superweights.interpretability.interventions import DRAWS, Change, Outcome, Trials, sheet_of, tapped
from superweights.interpretability.massive.answer import Massive
from superweights.interpretability.massive.question import MassiveReduction
from superweights.interpretability.massive.wemask import masked_sink
from superweights.interpretability.study import Study
from superweights.picture import Panel
from superweights.progress import labelled
from superweights.record import Score
from superweights.taps import Site, SuperActivation, Tap, assigned, record_activations, tapping, zeroed

_COUNTS = (1, 2, 4)
_RATES = (0.01, 0.05, 0.2)


@dataclass(frozen=True)
class MassiveTested:
    """The massive activations, and what the model loses under each intervention.

    `activations`: the largest channels of the token set to zero and to their mean over other windows;
    `making`: the emergence layer changed, with what is left of its write (`left`, a share); `masking`: the
    mitigation. All empty in a model without massive activations. `gain_share`: what the unevenness of the
    emergence layer's norm gain adds to the write, None where the layer has no norm of its own or is streamed.
    """

    massive: Massive
    activations: tuple[Outcome, ...] = ()
    making: tuple[Outcome, ...] = ()
    masking: tuple[Outcome, ...] = ()
    gain_share: float | None = None

    def scores(self) -> tuple[Score, ...]:
        return self.massive.scores()

    def sheets(self) -> tuple[Sheet, ...]:
        if not self.activations:
            return self.massive.sheets()
        return (
            *self.massive.sheets(),
            sheet_of(
                f"The token's activations after layer {self.massive.emergence} replaced",
                self.activations,
                "means over other windows than those that are scored",
            ),
            sheet_of(
                "How the emergence layer makes them", self.making, "left: of the write to the largest channel"
            ),
            sheet_of("What attention reads of the token after that layer, masked", self.masking),
        )

    def panels(self) -> tuple[Panel, ...]:
        return self.massive.panels()


def investigate(study: Study, position: int = 0) -> MassiveTested:
    """The massive activations of the token at `position`, and what they do.

    Half of the windows are scored, the others give the means. Raises `SuperweightsError` for one window.
    """
    massive = study.ask(MassiveReduction(position))[0]
    if massive.emergence is None:
        return MassiveTested(massive)
    if len(study.ids) < 2:
        raise SuperweightsError(
            "One window cannot give the means and be scored too.", hint="use two windows or more."
        )
    half = (len(study.ids) + 1) // 2
    bench = Trials(
        study.model,
        study.ids[:half],
        study.batch_size,
        labelled(study.progress, "losses"),
    )
    making, gain_share = _making(study, bench, massive)
    return MassiveTested(
        massive,
        tuple(_activations(study, bench, massive, study.ids[half:])),
        tuple(making),
        tuple(_masking(study, bench, massive)),
        gain_share,
    )


def _activations(study: Study, bench: Trials, massive: Massive, others: Tensor) -> Iterator[Outcome]:
    """The largest channels at zero, at their mean, and as many random ones at zero."""
    layer, place = massive.emergence, massive.position
    assert layer is not None
    top = [channel.channel for channel in massive.layers[layer].channels]
    rest = [channel for channel in range(massive.width) if channel not in top]
    yield bench.as_it_is()
    for count in _COUNTS:
        if count > len(top):
            break
        here = [SuperActivation(layer, channel, place) for channel in top[:count]]
        means = record_activations(study.model, here, others).mean()
        named = f"{count} largest ({', '.join(map(str, top[:count]))})"
        yield bench.outcome(f"{named} to zero", tapped(study.model, zeroed(here)))
        yield bench.outcome(f"{named} to their mean", tapped(study.model, assigned(here, means)))
        draws = [random.Random(study.seed + n).sample(rest, count) for n in range(DRAWS)]
        changes = [
            tapped(study.model, zeroed([SuperActivation(layer, channel, place) for channel in drawn]))
            for drawn in draws
        ]
        yield bench.outcome(f"{count} random channels to zero", *changes, control=True)


def _making(study: Study, bench: Trials, massive: Massive) -> tuple[list[Outcome], float | None]:
    """The emergence layer with a flat norm gain and with capped neurons, and another layer likewise."""
    layer = massive.emergence
    assert layer is not None
    body = Body.of(study.model)
    calm = [n for n in range(body.layers) if n not in {event.layer for event in massive.events}]
    control = random.Random(study.seed).choice(calm) if calm else None
    found, share = [bench.as_it_is()], None
    for at in (layer, control):
        if at is None:
            continue
        named = f"layer {at}"
        if _has_gain(body, at):
            change = lambda at=at: _flat_gain(body, at)  # noqa: E731
            left = _write_left(study, bench.ids, massive, change)
            share = 1 - left if at == layer else share
            found.append(bench.outcome(f"norm gain of {named} flat", change, control=at != layer, left=left))
        if Site("mlp_act", at) in body.sites.places:
            change = tapped(study.model, _capped(at, massive.position))
            left = _write_left(study, bench.ids, massive, change)
            found.append(bench.outcome(f"neurons of {named} capped", change, control=at != layer, left=left))
    return found, share


def _masking(study: Study, bench: Trials, massive: Massive) -> Iterator[Outcome]:
    layer, place = massive.emergence, massive.position
    assert layer is not None
    if Site("attn_norm_in", layer) not in Body.of(study.model).sites.places or layer + 1 >= len(
        massive.layers
    ):
        return
    yield bench.as_it_is()
    for rate in _RATES:
        if int(rate * massive.width) == 0:
            continue

        def change(draw: int | None = None, rate: float = rate) -> AbstractContextManager[Any]:
            return masked_sink(study.model, layer, rate, position=place, draw=draw)

        yield bench.outcome(f"largest {rate:.0%} of channels masked", change)
        draws = [lambda n=n, change=change: change(study.seed + n) for n in range(DRAWS)]
        yield bench.outcome(f"random {rate:.0%} of channels masked", *draws, control=True)


def _write_left(study: Study, ids: Tensor, massive: Massive, change: Change) -> float:
    """What is left, under `change`, of the step into the emergence layer's largest channel."""
    layer = massive.emergence
    assert layer is not None
    channel = massive.layers[layer].channels[0].channel
    seen: dict[str, list[Tensor]] = {"block_in": [], "block_out": []}

    def step() -> float:
        for kept in seen.values():
            kept.clear()
        taps: dict[Site, Tap] = {
            Site(kind, layer): lambda h, kept=kept: kept.append(h[:, massive.position, channel].clone())
            for kind, kept in seen.items()
        }
        with tapping(study.model, taps):
            ask(study.model, ids, batch_size=study.batch_size)
        before, after = (torch.cat(kept).double().mean() for kept in seen.values())
        return (after - before).item()

    whole = step()
    with change():
        return step() / whole


def _has_gain(body: Body, layer: int) -> bool:
    if Site("mlp_norm_in", layer) not in body.sites.places:
        return False
    gain = getattr(body.module(Site("mlp_norm_in", layer)), "weight", None)
    return gain is not None and gain.ndim == 1 and not gain.is_meta


@contextmanager
def _flat_gain(body: Body, layer: int) -> Iterator[None]:
    """The gain of the norm before the MLP at its mean; put back bit for bit."""
    norm: Any = body.module(Site("mlp_norm_in", layer))
    gain = norm.weight.data
    held = gain.clone()
    try:
        gain.fill_(held.mean().item())
        yield
    finally:
        gain.copy_(held)


def _capped(layer: int, position: int) -> dict[Site, Tap]:
    """A tap that scales each token's neurons so that their root mean square is at most the other tokens' median."""

    def cap(neurons: Tensor) -> Tensor:
        rms = neurons.float().square().mean(-1).sqrt()
        others = torch.cat([rms[:, :position], rms[:, position + 1 :]], 1)
        limit = others.median(1, keepdim=True).values
        return neurons * (limit / rms.clamp_min(1e-30)).clamp(max=1)[..., None].to(neurons.dtype)

    return {Site("mlp_act", layer): cap}
