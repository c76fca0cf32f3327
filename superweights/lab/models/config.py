"""The config of a lab model: the sizes under the names every tool reads, the parts beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from superweights.lab.architecture import Architecture

MODEL_TYPE = "superweights_lab"

# Dials that transformers and its friends know, by the name they know them by.
STANDARD: Mapping[str, str] = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "inner": "intermediate_size",
    "context": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
    "init_std": "initializer_range",
    "tied": "tie_word_embeddings",
}


class LabConfig(PreTrainedConfig):
    """What `config.json` of a lab model holds: standard sizes, and under `parts` every other dial."""

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - transformers' own field

    vocab_size: int = 64
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 1
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    max_position_embeddings: int = 48
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    use_cache: bool = True
    bos_token_id: int | None = 0
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    parts: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        architecture = self.architecture  # says what is wrong with it
        self.num_key_value_heads = architecture.kv_heads
        self.head_dim = architecture.d_head
        self.intermediate_size = architecture.neurons
        self.parts = _parts(architecture)
        super().__post_init__(**kwargs)

    @property
    def architecture(self) -> Architecture:
        """The dials that this config holds, checked."""
        sizes = {dial: getattr(self, name) for dial, name in STANDARD.items()}
        return Architecture.from_dict({**sizes, **(self.parts or {})})

    @classmethod
    def of(cls, architecture: Architecture, **more: Any) -> LabConfig:
        """The config of `architecture`; `more` are fields that are not about its design (token ids)."""
        sizes = {name: getattr(architecture, dial) for dial, name in STANDARD.items()}
        return cls(**sizes, parts=_parts(architecture), **more)


def _parts(architecture: Architecture) -> dict[str, Any]:
    names = [field.name for field in fields(Architecture) if field.name not in STANDARD]
    held = asdict(architecture)
    return {name: held[name] for name in names}
