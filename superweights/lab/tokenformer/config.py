"""What a TokenFormer is made of, as `config.json` says it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal

from transformers.configuration_utils import PreTrainedConfig

from superweights.errors import SuperweightsError

# The five Pattentions of a block: queries, keys, values and output of attention, and the feed-forward network.
KINDS = ("q", "k", "v", "o", "ffn")

# Where the classes are that this config builds; they tell transformers of themselves when they are imported.
CLASSES = "superweights.lab.tokenformer.model"

Scoring = Literal["l2_gelu", "gelu_l2", "softmax"]
SCORINGS: tuple[Scoring, ...] = ("l2_gelu", "gelu_l2", "softmax")


class TokenFormerConfig(PreTrainedConfig):
    """The sizes of a TokenFormer, and how its slots (parameter tokens) came to be.

    `slots[kind]` lists how many slots each generation added: `[48]` as built, `[48, 16]` after one growth; `tau[kind]`
    is the scale inside the scores, the square root of the first generation unless growth was told otherwise. Slots
    that are not given are the parameter-matched setting of the 124M model: 0.75 and 3 times the width.

    Source: arXiv 2410.23168, section 3; rotary share, norms and tied embedding as in the released configurations.
    """

    model_type = "superweights_tokenformer"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 256,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        max_position_embeddings: int = 2048,
        slots: Mapping[str, Sequence[int]] | None = None,
        tau: Mapping[str, float] | None = None,
        scoring: Scoring = "l2_gelu",
        rotary_share: float = 0.25,
        rope_theta: float = 10000.0,
        layer_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.slots = {kind: list(n) for kind, n in (slots or matched_slots(hidden_size)).items()}
        self.tau = dict(tau) if tau else {kind: math.sqrt(n[0]) for kind, n in self.slots.items()}
        self.scoring: Scoring = scoring
        self.rotary_share = rotary_share
        self.rope_theta = rope_theta
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self._check()
        import_module(CLASSES)
        kwargs["tie_word_embeddings"] = tie_word_embeddings
        super().__init__(**kwargs)

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_width(self) -> int:
        """How many numbers of each head are rotated; even."""
        return int(self.head_dim * self.rotary_share) // 2 * 2

    def total(self, kind: str) -> int:
        """How many slots the Pattention `kind` has, all generations together."""
        return sum(self.slots[kind])

    def _check(self) -> None:
        """Raise `SuperweightsError` for sizes that make no model."""
        if self.hidden_size % self.num_attention_heads:
            raise SuperweightsError(
                f"A width of {self.hidden_size} is not divided by {self.num_attention_heads} heads.",
                hint="choose a number of heads that divides the width.",
            )
        if self.scoring not in SCORINGS:
            raise SuperweightsError(
                f"There is no scoring {self.scoring!r}.", hint=f"choose from {', '.join(SCORINGS)}."
            )
        if set(self.slots) != set(KINDS) or set(self.tau) != set(KINDS):
            raise SuperweightsError(
                f"Slots and tau are needed for {', '.join(KINDS)}; there are {', '.join(self.slots) or 'none'}.",
                hint="leave slots out for the parameter-matched setting.",
            )
        for kind, generations in self.slots.items():
            if not generations or min(generations) < 1 or not self.tau[kind] > 0:
                raise SuperweightsError(
                    f"{kind} has generations of {generations} slots and tau {self.tau[kind]}.",
                    hint="each generation has at least one slot, and tau is positive.",
                )


def matched_slots(width: int) -> dict[str, list[int]]:
    """Slots with which a block has the 12 d² parameters of a transformer block: 0.75 d, and 3 d for the FFN."""
    return {kind: [max(1, 3 * width if kind == "ffn" else 3 * width // 4)] for kind in KINDS}
