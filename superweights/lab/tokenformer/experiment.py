"""Does a small TokenFormer with slots added learn better than others of the same budget? With the arm that must not be
left out: the small one, simply continued.

Source of the question: arXiv 2410.23168, section 4.3. All arms see the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from superweights.lab.designs.fitting import Schedule, fit, optimizer_of
from superweights.lab.designs.rows import ByteRows
from superweights.lab.tokenformer.config import TokenFormerConfig
from superweights.lab.tokenformer.growth import grown
from superweights.lab.tokenformer.model import TokenFormerForCausalLM
from superweights.lab.tokenformer.moments import carry_moments
from superweights.lab.tokenformer.usage import slot_usage

Progress = Callable[[str, int, int], None]
ARMS = (
    "zero keys, tau kept",
    "the same, moments carried",
    "paper text",
    "released code",
    "not grown",
    "large, stage",
)
LONG = "large, whole budget"


@dataclass(frozen=True)
class GrowthSettings:
    """Sizes of the experiment: width, layers, slots at first and added, steps of the base and of a stage, batch."""

    width: int = 64
    layers: int = 2
    slots: int = 16
    added: int = 80
    base_steps: int = 700
    """Updates before growing."""
    stage_steps: int = 150
    """Updates of a stage after it."""
    rows: int = 8
    """Rows of a batch."""
    length: int = 128
    """Tokens of a row."""
    rate: float = 3e-3
    """The largest learning rate."""
    at: tuple[int, ...] = (0, 1, 5, 20, 100)

    def config(self, slots: int) -> TokenFormerConfig:
        kinds = {kind: [slots] for kind in ("q", "k", "v", "o")} | {"ffn": [4 * slots]}
        return TokenFormerConfig(
            256, self.width, self.layers, 4, max_position_embeddings=self.length, slots=kinds
        )


@dataclass(frozen=True)
class GrowthRun:
    """One seed. `losses[arm][step]`: held-out nats/byte. `parameters`: small and large. `new_mass`: the share of the
    new slots in what all slots say, at the end of the first arm (mean over Pattentions)."""

    seed: int
    losses: dict[str, dict[int, float]]
    parameters: tuple[int, int]
    new_mass: float


def growth_run(rows: ByteRows, settings: GrowthSettings, seed: int, progress: Progress) -> GrowthRun:
    """All arms of one seed. The base is trained once; every stage begins at its weights, or from nothing."""
    torch.manual_seed(seed)
    small = TokenFormerForCausalLM(settings.config(settings.slots))
    base = Schedule(settings.base_steps, settings.rate)
    adam = optimizer_of(small.parameters(), base)
    progress(f"seed {seed}: base", 0, len(ARMS) + 2)
    fit(small, _loss(small, rows, settings, seed, 0), base, optimizer=adam)
    held = rows.validation(48, settings.length)
    losses: dict[str, dict[int, float]] = {}
    first = None
    for number, arm in enumerate((*ARMS, LONG)):
        progress(f"seed {seed}: {arm}", number + 1, len(ARMS) + 2)
        model, steps = _begun(arm, small, settings, seed)
        schedule = Schedule(steps, settings.rate)
        optimizer = optimizer_of(model.parameters(), schedule)
        if "carried" in arm:
            carry_moments(adam, small, optimizer, model)
        losses[arm] = {}
        marks = sorted({*(s for s in settings.at if s < steps), steps})
        at = {step: _noting(losses[arm], step, model, held) for step in marks}
        offset = settings.base_steps if arm != LONG else 0
        fit(model, _loss(model, rows, settings, seed, offset), schedule, at=at, optimizer=optimizer)
        first = first or model
    assert first is not None
    usage = [each.by_generation[-1] for each in slot_usage(first, held[:8])]
    sizes = tuple(sum(p.numel() for p in m.parameters()) for m in (small, first))
    return GrowthRun(seed, losses, (sizes[0], sizes[1]), sum(usage) / len(usage))


def _begun(
    arm: str, small: TokenFormerForCausalLM, settings: GrowthSettings, seed: int
) -> tuple[TokenFormerForCausalLM, int]:
    """The model with which an arm begins, and for how many steps it is trained."""
    if arm in ("large, stage", LONG):
        torch.manual_seed(seed)
        whole = settings.base_steps + settings.stage_steps
        steps = whole if arm == LONG else settings.stage_steps
        return TokenFormerForCausalLM(settings.config(settings.slots + settings.added)), steps
    if arm == "not grown":
        copy = TokenFormerForCausalLM(small.config)  # type: ignore[arg-type]
        copy.load_state_dict(small.state_dict())
        return copy, settings.stage_steps
    way = {"paper text": "paper", "released code": "released"}.get(arm, "exact")
    return grown(small, settings.added, way=way, seed=seed), settings.stage_steps  # type: ignore[arg-type]


def _loss(
    model: TokenFormerForCausalLM, rows: ByteRows, settings: GrowthSettings, seed: int, offset: int
) -> Callable[[int], Tensor]:
    def of(step: int) -> Tensor:
        ids = rows.batch(seed, offset + step, settings.rows, settings.length)
        loss = model(ids, labels=ids).loss
        assert loss is not None
        return loss

    return of


def _noting(
    losses: dict[int, float], step: int, model: TokenFormerForCausalLM, held: Tensor
) -> Callable[[], None]:
    def note() -> None:
        with torch.no_grad():
            parts = [float(model(part, labels=part).loss) for part in held.split(16)]  # type: ignore[arg-type]
        losses[step] = sum(parts) / len(parts)

    return note
