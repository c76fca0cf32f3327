"""Continuations side by side: what a model writes before and after a change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from superweights.errors import SuperweightsError
from superweights.findings import Continuation
from superweights.scoring.loss import as_variant
from superweights.scoring.predictions import Variant
from superweights.subject import check_windows, device_of
from superweights.subject.text import encode


def continue_beside(
    base: nn.Module | Variant,
    other: nn.Module | Variant,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    bos: bool = False,
) -> tuple[Continuation, ...]:
    """What `base` and `other` write after each prompt, at most `new_tokens` tokens.

    Temperature 0 takes the likeliest token each time; any other samples from the whole distribution, both
    models from the same `seed`. The random state of the program is left as it was.
    """
    if not 0 <= temperature < float("inf") or new_tokens < 1:
        raise SuperweightsError(
            f"Temperature {temperature} and {new_tokens} new tokens cannot be used.",
            hint="use a temperature of 0 (greedy) or more, and at least one new token.",
        )
    found = []
    for prompt in prompts:
        ids = encode(tokenizer, prompt)
        if bos and tokenizer.bos_token_id is not None:
            ids = [tokenizer.bos_token_id, *ids]
        ours, theirs = (
            tokenizer.decode(_continue(as_variant(model), ids, new_tokens, temperature, seed))
            for model in (base, other)
        )
        found.append(Continuation(prompt, ours, theirs, temperature, seed if temperature else None))
    return tuple(found)


@torch.no_grad()
def _continue(variant: Variant, ids: list[int], new_tokens: int, temperature: float, seed: int) -> list[int]:
    model: Any = variant.model
    prompt = torch.tensor([ids])
    check_windows(model, prompt, shortest=1)
    if not (hasattr(model, "can_generate") and model.can_generate()):
        raise SuperweightsError(
            f"{type(model).__name__} cannot generate text.",
            hint="use a causal language model of transformers.",
        )
    manner: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature:
        manner = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    end = model.generation_config.eos_token_id
    end = end[0] if isinstance(end, list) and end else end
    device = device_of(model)
    with variant.change(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        prompt = prompt.to(device)
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new_tokens,
            num_beams=1,
            pad_token_id=0 if end is None else end,
            **manner,
        )
    return out[0, len(ids) :].tolist()
