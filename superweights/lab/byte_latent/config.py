"""The config of a Byte Latent Transformer of ours: transformers' own, and the paper's variants as flags."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from transformers.models.blt.configuration_blt import BltConfig

from superweights.errors import SuperweightsError
from superweights.lab.byte_latent.patching import Patching, Rule

CLASSES = "superweights.lab.byte_latent.model"
_SOURCES = ("released", "paper")


class ByteLatentConfig(BltConfig):
    """transformers' `BltConfig` with one more rule for patches, and where paper and released code differ.

    `patching_mode`: a rule of `patching.Patching`; `patching_threshold`, `patching_rise` in nats; `patch_size` is the
    stride of `static`. Each of the following is `released` (the default) or `paper`, named after its source:
    `cross_attention_residual`: adds its input twice, or once. `ngram_sum`: the sum, or the sum over the number of sizes
    plus one. `ngram_start`: n-grams that begin before the text are padded with zeros, or left out. `encoder_patches`:
    with cross-attention at every encoder layer, patches are pooled anew, or carry on.
    `entropy_reset`: the byte id after which the entropy model forgets what came before; None never.
    """

    model_type = "superweights_byte_latent"

    patching_rise: float = 0.5
    patching_released: bool = False
    entropy_reset: int | None = None
    cross_attention_residual: str = "released"
    ngram_sum: str = "released"
    ngram_start: str = "released"
    encoder_patches: str = "released"
    use_cache: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("cross_attention_residual", "ngram_sum", "ngram_start", "encoder_patches"):
            if getattr(self, name) not in _SOURCES:
                raise SuperweightsError(
                    f"{name} is {getattr(self, name)!r}.", hint=f"choose from {', '.join(_SOURCES)}."
                )
        import_module(CLASSES)

    @property
    def patching(self) -> Patching:
        """The rule for patches, checked."""
        mode: Any = self.patching_mode or "byte"
        rule: Rule = mode
        threshold = 0.0 if self.patching_threshold is None else self.patching_threshold
        return Patching(
            rule,
            threshold,
            self.patching_rise,
            self.patch_size or 4,
            self.max_patch_length,
            self.patching_released,
        )

    @property
    def num_hidden_layers(self) -> int:
        """The blocks of all three stacks, for whoever asks a config how deep its model is."""
        stacks = (self.encoder_config, self.global_config, self.decoder_config)
        return sum(stack.num_hidden_layers for stack in stacks)  # type: ignore[union-attr]
