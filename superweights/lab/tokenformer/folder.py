"""A TokenFormer from one folder, grown into another."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from superweights.artefacts.folder import new_folder
from superweights.artefacts.manifest import Work
from superweights.errors import SuperweightsError
from superweights.lab.tokenformer.growth import Way, grown
from superweights.lab.tokenformer.model import TokenFormerForCausalLM
from superweights.lab.tokenformer.moments import carried_state

# Tokens on which the two models are compared before the new folder gets its name.
_ROWS, _TOKENS = 2, 24
# What stands beside the weights and is copied as it is.
_BESIDE = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "recipe.toml")


@dataclass(frozen=True)
class Growth:
    """What growing a folder gave.

    `folder`: where the grown model is. `slots`: each kind's generations afterwards. `parameters`: how many the model
    had and has. `logits_equal`: whether both gave the same logits to the bit on random tokens. `largest_change`: the
    largest difference of a logit there. `optimizer`: `carried`, `restarted`, or `none` where the folder had none.
    """

    folder: Path
    slots: dict[str, list[int]]
    parameters: tuple[int, int]
    logits_equal: bool
    largest_change: float
    optimizer: str


@dataclass(frozen=True)
class Growing:
    """How a folder is grown: slots in attention and FFN (None: in the model's ratio), the way (see `growth`), what
    becomes of a Trainer's `optimizer.pt` (`carry` or, as in the paper, `restart`), and the seed of the new values."""

    slots: int
    ffn_slots: int | None = None
    """Slots to add to every FFN; None: in the model's ratio."""
    way: Way = "exact"
    optimizer: Literal["carry", "restart"] = "carry"
    seed: int = 0


def grow_folder(
    model: TokenFormerForCausalLM, folder: Path, to: Path, growing: Growing, fingerprint: str
) -> Growth:
    """`model`, which stands in `folder` and has this fingerprint, with more slots, written to the new folder `to`.

    The folder appears when all of it is there. Raises `SuperweightsError` for fewer than one slot, a `to` that holds
    anything, and, with `exact`, a difference in a single bit; nothing is written then.
    """
    if growing.optimizer not in ("carry", "restart"):
        raise SuperweightsError(
            f"{growing.optimizer!r} says nothing about the optimizer.", hint="carry or restart."
        )
    larger = grown(
        model, growing.slots, ffn_slots=growing.ffn_slots, way=growing.way, seed=growing.seed
    ).eval()
    equal, change = _compared(model, larger)
    if growing.way == "exact" and not equal:
        raise SuperweightsError(
            f"On this machine growth changes a logit by {change:.3g}, which it must not.",
            hint="report this with the processor and the torch version; nothing was written.",
        )
    stored = folder / "optimizer.pt"
    state = None
    if stored.is_file() and growing.optimizer == "carry":
        state = carried_state(torch.load(stored, weights_only=True, map_location="cpu"), model, larger)
    with new_folder(to, Work("grown", fingerprint, repr(growing))) as draft:
        _write(folder, larger, state, draft.path)
    sizes = tuple(sum(p.numel() for p in m.parameters()) for m in (model, larger))
    done = "none" if not stored.is_file() else "restarted" if state is None else "carried"
    return Growth(to, larger.config.slots, (sizes[0], sizes[1]), equal, change, done)


@torch.no_grad()
def _compared(model: TokenFormerForCausalLM, larger: TokenFormerForCausalLM) -> tuple[bool, float]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (_ROWS, _TOKENS), generator=generator)
    before, after = model(ids).logits, larger(ids).logits
    return torch.equal(before, after), float((before.float() - after.float()).abs().max())


def _write(folder: Path, model: TokenFormerForCausalLM, state: dict[str, Any] | None, to: Path) -> None:
    model.save_pretrained(to)
    if state is not None:
        torch.save(state, to / "optimizer.pt")
    for pattern in _BESIDE if folder.is_dir() else ():
        for file in folder.glob(pattern):
            shutil.copy2(file, to)
