"""Designs of text beside Llamas of equal parameters and of equal multiplications: loss, sinks, super weights, rounding.

All read bytes with BOS in front, so that bits per byte compare. What a design does not have is None, with the reason.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from superweights.discovery import Search, find
from superweights.errors import SuperweightsError
from superweights.lab.byte_latent.experiment import (
    PatchingSettings,
    blt_config,
    flat_llama,
    llama_multiplications,
    with_bos,
)
from superweights.lab.byte_latent.measuring import bits_per_byte, multiplications_per_byte
from superweights.lab.byte_latent.model import ByteLatentForCausalLM
from superweights.lab.byte_latent.stacks import StackProfile, stack_profiles
from superweights.lab.designs.fitting import Schedule, fit
from superweights.lab.designs.rows import ByteRows
from superweights.lab.profile import profile_of
from superweights.lab.tokenformer.config import TokenFormerConfig
from superweights.lab.tokenformer.model import TokenFormerForCausalLM
from superweights.quantization import Blocks, Scheme
from superweights.quantization.tensor import quantize_tensor

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BesideSettings:
    """Rows of a batch, bytes of a row, steps and largest learning rate of every design."""

    rows: int = 8
    """Rows of a batch."""
    length: int = 256
    """Bytes of a row."""
    steps: int = 600
    rate: float = 3e-3
    held_out: int = 16
    """Rows that are judged."""


@dataclass(frozen=True)
class Beside:
    """One design and seed. `bits`, `bits_int4`: held-out bits per byte, and with every matrix of the blocks in 4 bits
    (symmetric, one scale an output channel). `sink`: pairs of head and query that look at byte 0 most, `massive`: rows
    with a massive activation, both None with the reason in `why`. `verdict`, `super_weights`: what `find` says of the
    saved folder, by text of its own windows left out."""

    design: str
    seed: int
    parameters: int
    """How many numbers it has."""
    multiplications: float
    """Of one forward pass, for each byte."""
    bits: float
    bits_int4: float
    sink: float | None
    massive: float | None
    verdict: str | None
    super_weights: int | None
    why: str
    stacks: tuple[StackProfile, ...] = ()
    """For a model of several stacks, what each of them shows; `sink` and `massive` are then of none of them."""


def beside_run(
    rows: ByteRows, settings: BesideSettings, seed: int, folder: Path, progress: Progress
) -> list[Beside]:
    """Every design of one seed, trained on the same bytes in the same order; each is saved below `folder`."""
    made = _designs(settings, seed)
    found = []
    for number, (name, (model, cost)) in enumerate(made.items()):
        progress(f"seed {seed}: {name}", number, len(made))
        _trained(model, rows, settings, seed)
        place = folder / f"{name} {seed}".replace(",", "").replace(" ", "-")
        model.save_pretrained(place)
        held = with_bos(rows.validation(settings.held_out, settings.length))
        found.append(_measured(name, seed, model, cost, held, place))
    return found


def _designs(settings: BesideSettings, seed: int) -> dict[str, tuple[Any, float]]:
    """Each design with its multiplications for a byte; the Llamas are sized after the two."""
    torch.manual_seed(seed)
    n = settings.length
    token = TokenFormerForCausalLM(TokenFormerConfig(260, 64, 2, 4, max_position_embeddings=n + 1))
    token_cost = sum(p.numel() for p in token.parameters() if p.dim() == 2) + 2 * 64 * n
    config = blt_config(PatchingSettings(length=n))
    config.patching_mode = "space"
    patched = ByteLatentForCausalLM(config)
    patched_cost = multiplications_per_byte(patched, n, 7.8).total
    made: dict[str, tuple[Any, float]] = {
        "TokenFormer": (token, token_cost),
        "BLT, space": (patched, patched_cost),
    }
    for name, (model, cost) in list(made.items()):
        for what, llama in (
            ("parameters", _of_parameters(sum(p.numel() for p in model.parameters()))),
            ("multiplications", flat_llama(cost, 260, n)),
        ):
            made[f"Llama, {what} of {name.split(',')[0]}"] = (llama, llama_multiplications(llama, n))
    return made


def _of_parameters(count: int) -> LlamaForCausalLM:
    """The largest of `flat_llama`'s family with at most `count` parameters."""
    low, high = 1.0, 4.0 * count
    best = flat_llama(low, 260, 0.0)
    for _ in range(12):
        middle = (low + high) / 2
        model = flat_llama(middle, 260, 0.0)
        if sum(p.numel() for p in model.parameters()) <= count:
            best, low = model, middle
        else:
            high = middle
    return best


def _trained(model: Any, rows: ByteRows, settings: BesideSettings, seed: int) -> None:
    def loss(step: int) -> Tensor:
        ids = with_bos(rows.batch(seed, step, settings.rows, settings.length))
        return model(ids, labels=ids).loss

    fit(model, loss, Schedule(settings.steps, settings.rate))


@torch.no_grad()
def _measured(name: str, seed: int, model: Any, cost: float, held: Tensor, place: Path) -> Beside:
    def bits(of: Any) -> float:
        return bits_per_byte(lambda ids: of(ids).logits, held)

    sink = massive = None
    why = []
    stacks: tuple[StackProfile, ...] = ()
    if isinstance(model, ByteLatentForCausalLM):
        stacks = tuple(stack_profiles(model, held))
        why.append("sinks: its stacks have other widths and lengths, and are told one by one")
    else:
        try:
            profile = profile_of(model, held)
            sink, massive = profile.argmax_share, profile.massive
        except SuperweightsError as error:
            why.append(f"sinks: {error.message}")
    verdict = count = None
    try:
        findings = find(str(place), Search(windows=0))
        verdict, count = str(findings.verdict), len(findings.super_weights)
    except SuperweightsError as error:
        why.append(f"find: {error.message}")
    return Beside(
        name,
        seed,
        sum(p.numel() for p in model.parameters()),
        cost,
        bits(model),
        bits(rounded(model)),
        sink,
        massive,
        verdict,
        count,
        "; ".join(why),
        stacks,
    )


def rounded(model: nn.Module) -> nn.Module:
    """A copy of `model` with every linear layer but the head in 4 bits, one scale for each output channel."""
    other = copy.deepcopy(model)
    scheme = Scheme("int4", blocks=Blocks("channel", ()))
    head = getattr(other, "lm_head", None)
    for module in other.modules():
        if isinstance(module, nn.Linear) and module is not head:
            module.weight.data.copy_(quantize_tensor(module.weight.data, scheme).dequantize())
    return other
