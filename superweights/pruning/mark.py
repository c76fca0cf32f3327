"""The mark of a pruned checkpoint in its config.json: a model type of its own, the original's, and what is gone."""

from __future__ import annotations

from typing import Any

MODEL_TYPE = "superweights_pruned"
INNER = "superweights_pruned_model_type"
GAPS = "superweights_gaps"


def marked(config: dict[str, Any]) -> dict[str, Any]:
    """A config as it stands in a pruned checkpoint's config.json; one that has the mark already stays as it is."""
    if config.get("model_type") == MODEL_TYPE or GAPS not in config:
        return config
    return {**config, INNER: config["model_type"], "model_type": MODEL_TYPE}
