"""The user's cache folder: what can be made again at any time, and need not be."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(part: str) -> Path:
    """The folder of one kind of thing: `part` in `$SUPERWEIGHTS_CACHE`, or in `superweights` in the user's cache."""
    own = os.environ.get("SUPERWEIGHTS_CACHE")
    above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(own) if own else Path(above).expanduser() / "superweights") / part
