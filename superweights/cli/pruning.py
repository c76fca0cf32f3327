"""What `superweights prune` drops: chosen on one half of a text, judged on the other, beside random choices."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superweights.cli.console import progress
from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from superweights.checkpoint import Checkpoint
    from superweights.interpretability.redundancy import Part
    from superweights.pruning import DropEffect, Dropped
    from superweights.record import Record, Score


@dataclass(frozen=True)
class Wanted:
    """What the user asked to drop, and under which conditions."""

    what: str
    drop: int
    layers: tuple[int, ...] | None
    carriers: bool
    draws: int
    seed: int


def chosen(
    checkpoint: Checkpoint,
    wanted: Wanted,
    tokens: Tensor,
    weights: list[str] | None,
    record: Path | None,
    device: str,
) -> tuple[Record, Dropped]:
    """What goes, by the first half of the windows, and what that costs on the second, beside random choices."""
    from superweights.cli.weights import weights_if_any
    from superweights.interpretability.redundancy import choose_at_random
    from superweights.pruning import drop_effects
    from superweights.stream import streaming

    half = len(tokens) // 2
    addresses = weights_if_any(checkpoint, weights, record)
    for address in addresses:
        checkpoint.element(address.tensor, address.index)  # refuses what is not there
    with streaming(checkpoint, dtype="float32", device=device) as model, progress() as bar:
        found, massive = _read(model, tokens[:half], bar)
        carried = _carriers(model, tokens[:1], addresses, massive)
        dropped = _selected(found, wanted, carried)
        kept = () if wanted.carriers else tuple(carried)
        controls = [
            choose_at_random(found, wanted.what, dropped.count, wanted.seed + draw, kept)
            for draw in range(wanted.draws)
        ]
        base, effects = drop_effects(
            model,
            tokens[half:],
            [dropped, *controls],
            progress=bar,
        )
    return _recorded(checkpoint, wanted, tokens, found, carried, base, effects), dropped


def _read(model: nn.Module, tokens: Tensor, bar: Any) -> tuple[Any, Any]:
    """The redundancy of every sub-layer, and the massive activations where the model's writes can be told."""
    from superweights.interpretability import MassiveReduction, Study
    from superweights.interpretability.redundancy import Redundancies

    study = Study(model, tokens, progress=bar)
    try:
        found, massive = study.ask(Redundancies(), MassiveReduction())
    except SuperweightsError:
        return study.ask(Redundancies())[0], None
    return found, massive


def _carriers(model: Any, tokens: Tensor, addresses: Any, massive: Any) -> dict[Part, str]:
    """The sub-layers that should stay, each with the reason."""
    from superweights.pruning import carriers
    from superweights.pruning.sublayers import sublayers_of
    from superweights.subject import device_of

    found: dict[Part, str] = {}
    for event in massive.events if massive is not None else ():
        if event.writer is not None:
            does = "writes" if event.kind == "born" else "erases"
            kind = "mlp" if event.writer == "MLP" else "attention"
            found[kind, event.layer] = f"{does} the massive activation of channel {event.channel}"
    sublayers = sublayers_of(model, tokens[:, :16].to(device_of(model)))
    for part, address in carriers(model, sublayers, addresses).items():
        found[part] = f"holds the super weight {address}"
    return found


def _selected(found: Any, wanted: Wanted, carried: Mapping[Part, str]) -> Dropped:
    from superweights.interpretability.redundancy import choose
    from superweights.pruning import Dropped

    if wanted.layers is None:
        return choose(found, wanted.what, wanted.drop, () if wanted.carriers else tuple(carried))
    name = {"block": "blocks"}.get(wanted.what, wanted.what)
    dropped = Dropped(**{name: wanted.layers})
    dropped.check(len(found.layers))
    kinds = ("attention", "mlp") if wanted.what == "block" else (wanted.what,)
    held = [(kind, layer) for layer in wanted.layers for kind in kinds if (kind, layer) in carried]
    if held and not wanted.carriers:
        kind, layer = held[0]
        raise SuperweightsError(
            f"The {kind} of layer {layer} {carried[held[0]]}.",
            hint="to drop it all the same, add --carriers.",
        )
    return dropped


def _recorded(
    checkpoint: Checkpoint,
    wanted: Wanted,
    tokens: Tensor,
    found: Any,
    carried: Mapping[Part, str],
    base: Score,
    effects: list[DropEffect],
) -> Record:
    from superweights.record import Record, versions

    def told(effect: DropEffect) -> dict[str, Any]:
        return {
            "dropped": str(effect.dropped),
            "perplexity": asdict(effect.perplexity),
            "loss_change": asdict(effect.loss),
        }

    gone = effects[0].dropped
    parts = {("attention", n) for n in (*gone.attention, *gone.blocks)} | {
        ("mlp", n) for n in (*gone.mlp, *gone.blocks)
    }
    return Record(
        command="prune",
        inputs={**checkpoint.origin(), "windows": len(tokens), "window": tokens.shape[1]},
        versions=versions(),
        seed=wanted.seed,
        scores=(base, effects[0].perplexity, effects[0].loss),
        findings={
            "what": wanted.what,
            "dropped": asdict(gone),
            "similarities": [asdict(each) for each in found.layers],
            "carriers": [
                {"kind": kind, "layer": layer, "reason": reason, "dropped": (kind, layer) in parts}
                for (kind, layer), reason in sorted(carried.items(), key=lambda each: each[0][::-1])
            ],
            "effect": told(effects[0]),
            "controls": [told(each) for each in effects[1:]],
        },
    )
