"""What the paper printed, with its source and its known errors: facts in `published.json`, one place for all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

from superweights.findings.reproduction import Published


def published_for(experiment: str, hub_names: Iterable[str]) -> Published:
    """What the paper printed of `experiment` for the model with one of these hub names, else for its first one."""
    told = _read()[experiment]
    own = [label for label, hub in _read()["models"].items() if hub in set(hub_names)]
    here = next((label for label in own if label in told["models"]), None)
    model = here or next(iter(told["models"]))
    source = f"{_read()['source']}; {told['source']}"
    return Published(
        source, told["protocol"], model, here is not None, told["models"][model], tuple(told["errors"])
    )


@cache
def _read() -> dict[str, Any]:
    text = (
        resources.files("superweights.reproductions").joinpath("published.json").read_text(encoding="utf-8")
    )
    return json.loads(text)
