"""The config of a packed checkpoint, under a model type of its own.

transformers loads a checkpoint whose quantization method it does not know as if there were none: with random
weights, a warning and exit code 0. A model type that it does not know is an error. So packed checkpoints carry
this one, and their weight files a name that no loader looks for; after `import superweights` both are resolved.
"""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PreTrainedConfig

MODEL_TYPE = "superweights_packed"
INNER = "superweights_model_type"
WEIGHTS = "superweights_weights"
STEM = "superweights"


class PackedModelConfig(PreTrainedConfig):
    """Never itself: `from_dict` gives the config of the model that was packed, its quantization_config with it."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """The inner model's config, which says where its weights are."""
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        import superweights.formats.packed.loading  # noqa: F401 - registers the quantizer

        inner = {k: v for k, v in config_dict.items() if k not in ("model_type", INNER, WEIGHTS)}
        inner |= {"model_type": config_dict[INNER], "transformers_weights": config_dict[WEIGHTS]}
        return CONFIG_MAPPING[config_dict[INNER]].from_dict(inner, **kwargs)
