"""What transformers knows lab models by until it opens one: a config that brings their classes with it."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PreTrainedConfig


class SavedLabConfig(PreTrainedConfig):
    """Never itself: `from_dict` gives a `LabConfig`, whose model classes transformers knows from then on."""

    model_type = "superweights_lab"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """The config of the lab model that `config_dict` describes."""
        from superweights.lab.models.model import LabConfig  # registers the classes

        return LabConfig.from_dict(config_dict, **kwargs)
