"""The config of a packed checkpoint, under a model type of its own.

transformers loads a checkpoint whose quantization method it does not know as if there were none: with random
weights, a warning and exit code 0. A model type that it does not know is an error. So packed checkpoints carry
this one, and their weight files a name that no loader looks for; after `import superweights` both are resolved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from superweights.artefacts.manifest import verify
from superweights.checkpoint.complaints import complaints
from superweights.checkpoint.listing import is_plain_name
from superweights.errors import SuperweightsError

MODEL_TYPE = "superweights_packed"
INNER = "superweights_model_type"
WEIGHTS = "superweights_weights"
STEM = "superweights"


class PackedModelConfig(PreTrainedConfig):
    """Never itself: `from_dict` gives the config of the model that was packed, its quantization_config with it."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """The inner model's config, which says where its weights are.

        A folder on this machine is held against its manifest first. Raises `SuperweightsError` for one that does not
        fit it, and for a config that is none of ours.
        """
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        import superweights.formats.packed.loading  # noqa: F401 - registers the quantizer

        folder = Path(str(kwargs.get("name_or_path", "")))
        if kwargs.get("name_or_path") and folder.is_dir():
            verify(folder)
        kind, weights = config_dict.get(INNER), config_dict.get(WEIGHTS)
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            raise SuperweightsError(
                f"This packed checkpoint is of the model type {kind!r}, which transformers does not know.",
                hint="pip install --upgrade transformers.",
            )
        if not isinstance(weights, str) or not is_plain_name(weights):
            raise SuperweightsError(
                f"This packed checkpoint names {weights!r} as its weights, which is no file beside it.",
                hint="config.json is damaged; quantize the original again.",
            )
        inner = {k: v for k, v in config_dict.items() if k not in ("model_type", INNER, WEIGHTS)}
        inner |= {"model_type": kind, "transformers_weights": weights}
        with complaints(
            "The config of this packed checkpoint cannot be read", hint="config.json is damaged."
        ):
            return CONFIG_MAPPING[kind].from_dict(inner, **kwargs)
