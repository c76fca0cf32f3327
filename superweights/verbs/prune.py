"""`superweights.prune`: whole attentions, MLPs or blocks dropped, chosen on one half of a text, judged on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from superweights.address import Address
from superweights.artefacts.place import check_new
from superweights.checkpoint import Checkpoint, opened_checkpoint
from superweights.errors import SuperweightsError
from superweights.findings import Carrier, DropTold, Pruned
from superweights.index.choice import choose_weights
from superweights.interpretability import MassiveReduction, Study
from superweights.interpretability.redundancy import Part, Redundancies, choose, choose_at_random
from superweights.progress import Progress, labelled, silent
from superweights.pruning import DropEffect, Dropped, carriers, drop_effects
from superweights.pruning import prune as write
from superweights.pruning.sublayers import sublayers_of
from superweights.record import Record
from superweights.stream import streaming
from superweights.subject import Reading, Source, check_next_token, device_of
from superweights.subject.layers import layers_of

WHAT = ("attention", "mlp", "block", "joint", "run")


@dataclass(frozen=True)
class Dropping:
    """What is to be dropped."""

    what: str = "attention"
    """attention, mlp, block, joint (attentions and MLPs in one order), run (blocks in a row)."""
    count: int = 4
    """How many: the most redundant ones."""
    layers: tuple[int, ...] | None = None
    """These instead (with attention, mlp or block)."""
    carriers: bool = False
    """Whether even what carries a super weight or a massive activation may go."""
    draws: int = 3
    """How many random choices of as many stand beside it."""

    def __post_init__(self) -> None:
        if self.what not in WHAT:
            raise SuperweightsError(
                f"There is nothing called {self.what!r} to drop.", hint=f"choose one of {', '.join(WHAT)}."
            )
        if self.layers is not None and self.what in ("joint", "run"):
            raise SuperweightsError(
                f"--layers does not say what is to go where --what is {self.what}.",
                hint="use --what attention, mlp or block with it.",
            )

    @classmethod
    def parse_layers(cls, text: str | None) -> tuple[int, ...] | None:
        """`25,26` or `20-29` as layers. Raises `SuperweightsError` for anything else."""
        return layers_of(text)


def prune(
    model: Any = None,
    dropping: Dropping = Dropping(),
    reading: Reading = Reading(window=128, windows=32),  # noqa: B008 - frozen
    *,
    to: Path | str | None = None,
    weights: Sequence[Address | str] = (),
    record: Record | Path | str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Pruned`: which sub-layers go, what that costs, beside as many drawn at random.

    Half of the windows chooses, the other half judges. `weights` and `record` say which super weights hold their
    sub-layers in place (else the known ones do). With `to` the pruned checkpoint is written to that new folder.

    >>> record = prune("embedded", Dropping("attention", 4), to="smollm2-pruned")     # doctest: +SKIP
    """
    if reading.windows < 2:
        raise SuperweightsError("One window cannot both choose and judge.", hint="use --windows 2 or more.")
    if to is not None:
        check_new(Path(to), "folder")
    source = Source.of(model)
    with opened_checkpoint(source) as checkpoint:
        held = choose_weights(checkpoint, weights, record).addresses
        tokens = reading.tokens_of(checkpoint, seed)
        found, gone, scores = _chosen(checkpoint, dropping, tokens, held, source.device, seed, progress)
        if to is not None:
            made = write(
                checkpoint, gone, Path(to), device=source.device, progress=labelled(progress, "writing")
            )
            told = {**asdict(made), "folder": str(made.folder)}
            found = replace(found, written={key: told[key] for key in told if key != "dropped"})
        return Record.of("prune", checkpoint, seed=seed, scores=scores, findings=found, **_cut(tokens))


def _cut(tokens: Tensor) -> dict[str, Any]:
    return {"windows": str(len(tokens)), "window": str(tokens.shape[1])}


def _chosen(
    checkpoint: Checkpoint,
    dropping: Dropping,
    tokens: Tensor,
    held: Sequence[Address],
    device: str,
    seed: int,
    progress: Progress,
) -> tuple[Pruned, Dropped, tuple[Any, ...]]:
    """What goes, by the first half of the windows, and what that costs on the second."""
    half = len(tokens) // 2
    with streaming(checkpoint, dtype="float32", device=device) as model:
        check_next_token(model)
        similar, massive = _similarities(model, tokens[:half], progress)
        carried = _carriers(model, tokens[:1], held, massive)
        dropped = _selected(similar, dropping, carried)
        kept = () if dropping.carriers else tuple(carried)
        controls = [
            choose_at_random(similar, dropping.what, dropped.count, seed + draw, kept)
            for draw in range(dropping.draws)
        ]
        base, effects = drop_effects(model, tokens[half:], [dropped, *controls], progress=progress)
    scores = (base, effects[0].perplexity, effects[0].loss)
    return _found(dropping, similar, carried, effects), dropped, scores


def _similarities(model: Any, tokens: Tensor, progress: Progress) -> tuple[Any, Any]:
    """The redundancy of every sub-layer, and the massive activations where the model's writes can be told."""
    study = Study(model, tokens, progress=progress)
    try:
        similar, massive = study.ask(Redundancies(), MassiveReduction())
    except SuperweightsError:
        return study.ask(Redundancies())[0], None
    return similar, massive


def _carriers(model: Any, tokens: Tensor, weights: Sequence[Address], massive: Any) -> dict[Part, str]:
    """The sub-layers that should stay, each with the reason."""
    found: dict[Part, str] = {}
    for event in massive.events if massive is not None else ():
        if event.writer is not None:
            does = "writes" if event.kind == "born" else "erases"
            kind = "mlp" if event.writer == "MLP" else "attention"
            found[kind, event.layer] = f"{does} the massive activation of channel {event.channel}"
    sublayers = sublayers_of(model, tokens[:, :16].to(device_of(model)))
    for part, address in carriers(model, sublayers, weights).items():
        found[part] = f"holds the super weight {address}"
    return found


def _selected(similar: Any, dropping: Dropping, carried: Mapping[Part, str]) -> Dropped:
    if dropping.layers is None:
        return choose(similar, dropping.what, dropping.count, () if dropping.carriers else tuple(carried))
    name = {"block": "blocks"}.get(dropping.what, dropping.what)
    dropped = Dropped(**{name: dropping.layers})
    dropped.check(len(similar.layers))
    kinds = ("attention", "mlp") if dropping.what == "block" else (dropping.what,)
    held = [(kind, layer) for layer in dropping.layers for kind in kinds if (kind, layer) in carried]
    if held and not dropping.carriers:
        kind, layer = held[0]
        raise SuperweightsError(
            f"The {kind} of layer {layer} {carried[held[0]]}.",
            hint="to drop it all the same, add --carriers.",
        )
    return dropped


def _found(
    dropping: Dropping, similar: Any, carried: Mapping[Part, str], effects: Sequence[DropEffect]
) -> Pruned:
    told = [DropTold(str(each.dropped), each.perplexity, each.loss) for each in effects]
    gone = effects[0].dropped
    parts = {("attention", n) for n in (*gone.attention, *gone.blocks)} | {
        ("mlp", n) for n in (*gone.mlp, *gone.blocks)
    }
    stay = tuple(
        Carrier(kind, layer, reason, (kind, layer) in parts)
        for (kind, layer), reason in sorted(carried.items(), key=lambda each: each[0][::-1])
    )
    similarities = tuple(asdict(each) for each in similar.layers)
    return Pruned(dropping.what, asdict(gone), similarities, stay, told[0], tuple(told[1:]))
