"""Where the tokens of a call stand: behind what a cache has, and which of them each may look at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask


def placed(
    config: Any,
    hidden: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cache: Any,
    use_cache: bool | None,
) -> tuple[Tensor, Any, Any]:
    """Positions `[1, T]` (or those given), the causal mask in transformers' own form, and the cache of a call.

    `hidden [B, T, d]` are the embeddings. A cache is made where one is asked for and none is given.
    """
    if use_cache and cache is None:
        cache = DynamicCache(config=config)
    if position_ids is None:
        seen = cache.get_seq_length() if cache is not None else 0
        position_ids = torch.arange(seen, seen + hidden.shape[1], device=hidden.device)[None]
    mask = create_causal_mask(
        config=config,
        inputs_embeds=hidden,
        attention_mask=attention_mask,
        past_key_values=cache,
        position_ids=position_ids,
    )
    return position_ids, mask, cache
