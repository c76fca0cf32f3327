"""What transformers knows a Byte Latent Transformer of ours by, until it opens one.

The real config is a class of transformers' own BLT config, which cannot be imported while transformers' table of
configs is still being made.
"""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PreTrainedConfig


class SavedByteLatentConfig(PreTrainedConfig):
    """Never itself: `from_dict` gives a `ByteLatentConfig`, whose model class transformers knows from then on."""

    model_type = "superweights_byte_latent"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """The config of the model that `config_dict` describes."""
        from superweights.lab.byte_latent.config import ByteLatentConfig

        return ByteLatentConfig.from_dict(config_dict, **kwargs)
