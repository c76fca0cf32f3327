"""A saved TokenFormer, grown into a new folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM

from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.lab.tokenformer.config import TokenFormerConfig
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


def grow_folder(
    folder: Path | str,
    slots: int,
    to: Path | str,
    *,
    ffn_slots: int | None = None,
    way: Way = "exact",
    optimizer: Literal["carry", "restart"] = "carry",
    seed: int = 0,
) -> Growth:
    """The TokenFormer in `folder` with more slots, written to the new folder `to`; see `growth.grown`.

    The state of a Trainer's optimizer (`optimizer.pt`) is carried, or left behind as in the paper (`restart`). Written
    beside `to` first and renamed when all is there. Raises `SuperweightsError` for a folder that holds no TokenFormer,
    fewer than one slot, a `to` that holds anything, and, with `exact`, a difference in a single bit; nothing is written
    then.
    """
    if optimizer not in ("carry", "restart"):
        raise SuperweightsError(f"{optimizer!r} says nothing about the optimizer.", hint="carry or restart.")
    to = Path(to)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise SuperweightsError(f"{to} is not an empty folder.", hint="give the name of a new folder.")
    model = _opened(folder)
    larger = grown(model, slots, ffn_slots=ffn_slots, way=way, seed=seed).eval()
    equal, change = _compared(model, larger)
    if way == "exact" and not equal:
        raise SuperweightsError(
            f"On this machine growth changes a logit by {change:.3g}, which it must not.",
            hint="report this with the processor and the torch version; nothing was written.",
        )
    stored = Path(folder) / "optimizer.pt"
    state = None
    if stored.is_file() and optimizer == "carry":
        state = carried_state(torch.load(stored, weights_only=True, map_location="cpu"), model, larger)
    _write(Path(folder), larger, state, to)
    sizes = tuple(sum(p.numel() for p in m.parameters()) for m in (model, larger))
    done = "none" if not stored.is_file() else "restarted" if state is None else "carried"
    return Growth(to, larger.config.slots, (sizes[0], sizes[1]), equal, change, done)


def _opened(folder: Path | str) -> TokenFormerForCausalLM:
    """The model of the folder as it is stored; its config is asked first, so that nothing else is loaded."""
    with open_checkpoint(str(folder)) as checkpoint:
        config = checkpoint.model_config()
        if not isinstance(config, TokenFormerConfig):
            raise SuperweightsError(
                f"{folder} holds a {config.model_type}, which has no slots to add to.",
                hint="only a TokenFormer grows this way; its config.json says superweights_tokenformer.",
            )
        if checkpoint.path is None:
            raise SuperweightsError(f"{folder} is not on this machine.", hint="download it first.")
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype="auto")
        return model.eval()


@torch.no_grad()
def _compared(model: TokenFormerForCausalLM, larger: TokenFormerForCausalLM) -> tuple[bool, float]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (_ROWS, _TOKENS), generator=generator)
    before, after = model(ids).logits, larger(ids).logits
    return torch.equal(before, after), float((before.float() - after.float()).abs().max())


def _write(folder: Path, model: TokenFormerForCausalLM, state: dict[str, Any] | None, to: Path) -> None:
    partial = to.with_name(f".{to.name}.{os.getpid()}.partial")
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        model.save_pretrained(partial)
        if state is not None:
            torch.save(state, partial / "optimizer.pt")
        for pattern in _BESIDE if folder.is_dir() else ():
            for file in folder.glob(pattern):
                shutil.copy2(file, partial)
        if to.exists():
            to.rmdir()
        os.replace(partial, to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
