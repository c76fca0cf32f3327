"""The config of a pruned checkpoint, under a model type of its own.

A plain transformers would give a model without some of its weights random ones in their place, with a warning and exit
code 0. A model type that it does not know is an error. After `import superweights` it is resolved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from superweights.artefacts.manifest import verify
from superweights.errors import SuperweightsError
from superweights.pruning.absent import Gaps
from superweights.pruning.mark import GAPS, INNER, MODEL_TYPE


class PrunedModelConfig(PreTrainedConfig):
    """Never itself: `from_dict` gives the config of the model that was pruned, in a class that knows its gaps."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """The inner model's config, with the gaps under the name of `GAPS`."""
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        from superweights.pruning.classes import pruned_config

        folder = kwargs.get("name_or_path")
        if folder and Path(str(folder)).is_dir():
            verify(Path(str(folder)))
        kind = config_dict.get(INNER)
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            raise SuperweightsError(
                f"This pruned checkpoint was of the model type {kind!r}, which transformers does not know.",
                hint="pip install --upgrade transformers.",
            )
        Gaps.from_dict(config_dict.get(GAPS))
        inner = {name: value for name, value in config_dict.items() if name not in ("model_type", INNER)}
        return pruned_config(CONFIG_MAPPING[kind]).from_dict({**inner, "model_type": kind}, **kwargs)
