"""Which plain names a path, a hub name or a checkpoint may stand for."""

from __future__ import annotations

import re

from superweights.index.entry import KnownWeight
from superweights.index.place import CheckpointLike

_CACHED = re.compile(r"^models--.+?--(?P<name>.+)$")
_QUANTIZED = re.compile(r"[-._](gguf|safetensors|i?q\d\w*|b?f(p)?(16|32)|int[48]|gptq|awq)$")


def names_in(text: str) -> set[str]:
    """The plain names a path or hub name may stand for: its last part, and a hub cache folder's model."""
    parts = [part for part in re.split(r"[/\\]", text.split("@")[0]) if part not in ("", ".", "..")]
    cached = [match["name"] for part in parts if (match := _CACHED.match(part))]
    return {_plain(part) for part in [*parts[-1:], *cached]}


def _plain(name: str) -> str:
    """`name` in lower case, without quantization suffixes, with one kind of separator."""
    name = name.lower()
    while (shorter := _QUANTIZED.sub("", name)) != name:
        name = shorter
    return re.sub(r"[\s._-]+", "-", name)


def names_of(known: KnownWeight) -> set[str]:
    return set().union(*(names_in(name) for name in (known.model, *known.aliases)))


def names_of_checkpoint(checkpoint: CheckpointLike) -> set[str]:
    said = [checkpoint.name, checkpoint.config.get("_name_or_path"), getattr(checkpoint, "path", None)]
    return set().union(*(names_in(str(name)) for name in said if name))
