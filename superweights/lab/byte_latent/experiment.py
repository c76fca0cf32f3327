"""Do patches that end at high entropy predict bytes better than patches that end at spaces, or anywhere?

Same model, same bytes in the same order, patches of the same size on average; beside them the model without n-grams,
and two flat Llamas with the same multiplications for each byte: over bytes, and over BPE tokens. All in bits per byte,
every byte scored. Source of the question: arXiv 2412.09871, sections 4.3 and 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from superweights.lab.byte_latent.alphabet import BOS, OFFSET
from superweights.lab.byte_latent.config import ByteLatentConfig
from superweights.lab.byte_latent.entropy import EntropyModel
from superweights.lab.byte_latent.measuring import bits_per_byte, multiplications_per_byte
from superweights.lab.byte_latent.model import ByteLatentForCausalLM
from superweights.lab.byte_latent.noising import noised
from superweights.lab.byte_latent.patching import Patching, threshold_for
from superweights.lab.byte_latent.tokens import BytePairs
from superweights.lab.designs.fitting import Schedule, fit
from superweights.lab.designs.rows import ByteRows

Progress = Callable[[str, int, int], None]
PATCHED = ("entropy", "space", "static", "entropy, no n-grams")
ARMS = (*PATCHED, "flat, bytes", "flat, BPE")


@dataclass(frozen=True)
class PatchingSettings:
    """Sizes of the experiment: bytes in a row, rows in a batch, steps of every arm and of the entropy model."""

    length: int = 256
    """Bytes in a row."""
    rows: int = 8
    """Rows in a batch."""
    steps: int = 80
    """Updates of every arm."""
    entropy_steps: int = 120
    """Updates of the entropy model."""
    rate: float = 3e-3
    """The largest learning rate."""
    window: int = 128
    """Bytes that local attention looks back."""
    merges: int = 1024
    """Merges of the BPE arm."""
    held_out: int = 32
    """Rows that are judged."""


@dataclass(frozen=True)
class PatchingRun:
    """One seed. For each arm: held-out bits per byte, the same on noised text, bytes in a patch (or token) on average,
    multiplications for each byte, parameters."""

    seed: int
    bits: dict[str, float]
    noised_bits: dict[str, float]
    """Held-out bits per byte on noised text."""
    patch: dict[str, float]
    multiplications: dict[str, float]
    parameters: dict[str, int]


def blt_config(settings: PatchingSettings, table: int = 4096) -> ByteLatentConfig:
    """The small model: bytes 64 wide (1 encoder and 2 decoder blocks), patches 128 wide (3 blocks), k = 2."""
    local = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 172}
    cross = {"cross_attn_k": 2, "hidden_size_global": 128}
    return ByteLatentConfig(
        patch_in_forward=False,
        local_attention_window_len=settings.window,
        encoder_hash_byte_group_size=[3, 4, 5],
        encoder_hash_byte_group_vocab=table,
        patcher_config={**local, "num_hidden_layers": 2, "sliding_window": settings.window},
        encoder_config={**local, **cross, "num_hidden_layers": 1},
        decoder_config={**local, **cross, "num_hidden_layers": 2},
        global_config={
            "hidden_size": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "intermediate_size": 344,
        },
    )


def entropy_model(rows: ByteRows, settings: PatchingSettings, seed: int) -> EntropyModel:
    """The small byte model that every seed's entropy arms are cut by, trained by itself."""
    torch.manual_seed(seed)
    whole = blt_config(settings)
    whole._attn_implementation = "sdpa"
    model = EntropyModel(whole.patcher_config, whole)

    def loss(step: int) -> Tensor:
        ids = with_bos(rows.batch(seed, step, settings.rows, settings.length))
        return nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    fit(model, loss, Schedule(settings.entropy_steps, settings.rate))
    return model


def patching_run(rows: ByteRows, settings: PatchingSettings, seed: int, progress: Progress) -> PatchingRun:
    """All arms of one seed, on the same bytes in the same order."""
    progress(f"seed {seed}: entropy model", 0, len(ARMS) + 1)
    patcher = entropy_model(rows, settings, seed)
    held = with_bos(rows.validation(settings.held_out, settings.length))
    dirty = noised(held, seed)
    rules = _rules(patcher, held)
    run = PatchingRun(seed, {}, {}, {}, {}, {})
    for number, arm in enumerate(ARMS):
        progress(f"seed {seed}: {arm}", number + 1, len(ARMS) + 1)
        torch.manual_seed(seed)
        if arm in PATCHED:
            _patched_arm(run, arm, rules[arm.split(",")[0]], patcher, rows, settings, (held, dirty))
        else:
            _flat_arm(run, arm, rows, settings, (held, dirty))
    return run


def _rules(patcher: EntropyModel, held: Tensor) -> dict[str, Patching]:
    """The three rules, the entropy rule's threshold and the stride such that patches are as long as between spaces."""
    space = Patching("space")
    size = held.shape[1] / float(space.starts(held)[:, :-1].sum(1).float().mean())
    threshold = threshold_for(patcher.entropies(held), size)
    return {
        "entropy": Patching("entropy", threshold),
        "space": space,
        "static": Patching("static", stride=round(size)),
    }


def _patched_arm(
    run: PatchingRun,
    arm: str,
    rule: Patching,
    patcher: EntropyModel,
    rows: ByteRows,
    settings: PatchingSettings,
    held: tuple[Tensor, Tensor],
) -> None:
    model = ByteLatentForCausalLM(blt_config(settings, 1 if "no n-grams" in arm else 4096))

    def starts(ids: Tensor) -> Tensor:
        return rule.starts(ids, patcher.entropies(ids) if rule.needs_entropies else None)

    def loss(step: int) -> Tensor:
        ids = with_bos(rows.batch(run.seed, step, settings.rows, settings.length))
        found = model(ids, starts=starts(ids), labels=ids).loss
        assert found is not None
        return found

    fit(model, loss, Schedule(settings.steps, settings.rate))
    run.bits[arm], run.noised_bits[arm] = (
        bits_per_byte(lambda ids: model(ids, starts=starts(ids)).logits, part) for part in held
    )
    run.patch[arm] = held[0].shape[1] / float(starts(held[0])[:, :-1].sum(1).float().mean())
    run.multiplications[arm] = multiplications_per_byte(model, settings.length, run.patch[arm]).total
    run.parameters[arm] = sum(p.numel() for p in model.parameters())


def _flat_arm(
    run: PatchingRun, arm: str, rows: ByteRows, settings: PatchingSettings, held: tuple[Tensor, Tensor]
) -> None:
    """A Llama whose blocks cost as much for each byte as the entropy arm, over bytes or over BPE tokens."""
    budget = run.multiplications["entropy"]
    pairs = BytePairs.trained(rows.training[:1_000_000], settings.merges) if "BPE" in arm else None
    size = 1.0 if pairs is None else pairs.size_on(held[0])
    model = flat_llama(budget * size, 260 if pairs is None else pairs.vocabulary, settings.length / size)

    def loss(step: int) -> Tensor:
        ids = with_bos(rows.batch(run.seed, step, settings.rows, settings.length))
        if pairs is None:
            found: Any = model(ids, labels=ids).loss
            return found
        tokens, labels = pairs.padded(ids)
        return model(tokens, labels=labels).loss  # type: ignore[return-value]

    fit(model, loss, Schedule(settings.steps, settings.rate))
    if pairs is None:
        found = [bits_per_byte(lambda ids: model(ids).logits, part) for part in held]
    else:
        found = [pairs.bits_per_byte(model, part) for part in held]
    run.bits[arm], run.noised_bits[arm] = found
    run.patch[arm] = size
    run.multiplications[arm] = llama_multiplications(model, settings.length / size) / size
    run.parameters[arm] = sum(p.numel() for p in model.parameters())


def flat_llama(budget: float, vocabulary: int, n: float) -> LlamaForCausalLM:
    """The Llama of 3 blocks whose multiplications for each token of rows of `n` come nearest to `budget` from below."""
    best = None
    for width in range(32, 513, 8):
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=8 * round(width / 3),
            num_hidden_layers=3,
            num_attention_heads=4,
            tie_word_embeddings=True,
            max_position_embeddings=512,
        )
        cost = 3 * (4 * width**2 + 3 * width * config.intermediate_size + width * n) + vocabulary * width
        if best is not None and cost > budget:
            break
        best = config
    assert best is not None
    return LlamaForCausalLM(best)


def llama_multiplications(model: LlamaForCausalLM, n: float) -> float:
    """Multiplications for each token of rows of `n`: blocks, head, attention under a causal mask."""
    c: Any = model.config
    blocks = sum(p.numel() for p in model.model.layers.parameters() if p.dim() == 2)
    return blocks + c.vocab_size * c.hidden_size + c.num_hidden_layers * c.hidden_size * n


def with_bos(values: Tensor) -> Tensor:
    """Bytes as ids with BOS in front, so that every byte is predicted by something."""
    return nn.functional.pad(values + OFFSET, (1, 0), value=BOS)
