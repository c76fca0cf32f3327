"""Which files of a folder or repository hold the weights, as their names and the index say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from superweights.checkpoint.header import DAMAGED, parse_json
from superweights.errors import SuperweightsError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_JSON = 100_000_000
_SHARD = re.compile(r"-(?P<number>\d{5,})-of-(?P<total>\d{5,})\.safetensors$")


def read_index(path: Path) -> dict[str, str]:
    """Tensor name to shard file name, as `model.safetensors.index.json` has it."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SuperweightsError(f"{path} has no weight_map, which says where each tensor is.", hint=DAMAGED)
    for file in weight_map.values():
        if not isinstance(file, str) or not is_plain_name(file):
            raise SuperweightsError(
                f"{path} points to {file!r}, which is not a file name in its own folder.",
                hint="an index may only name files beside it; do not use this checkpoint.",
            )
    return weight_map


def is_plain_name(name: str) -> bool:
    """Whether `name` can only mean a file in the folder it is used in."""
    return bool(name) and name not in (".", "..") and not any(c in name for c in "/\\:\0")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file, refused when it is absurdly large."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise SuperweightsError(
                f"{path} is over 100 MB, too large for what it should hold.", hint=DAMAGED
            )
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise SuperweightsError(
            f"Cannot read {path}: {error.strerror or error}.", hint="check that the file can be read."
        ) from None


def sole_weights(files: Iterable[str], where: str) -> list[str]:
    """The safetensors files without an index that plainly belong together; `where` names them in messages."""
    found = sorted(file for file in files if file.endswith(".safetensors"))
    if not found:
        raise SuperweightsError(
            f"{where} has no weights.", hint=f"it should hold {WEIGHTS}, or shards with {INDEX}."
        )
    if all(file.startswith("adapter_") for file in found):
        raise SuperweightsError(
            f"{where} holds an adapter, not a model.", hint="give the base model that the adapter belongs to."
        )
    series = {
        (file[: match.start()], int(match["total"])) for file in found if (match := _SHARD.search(file))
    }
    numbered = len(series) == 1 and all(_SHARD.search(file) for file in found)
    if numbered and next(iter(series))[1] != len(found):
        raise SuperweightsError(
            f"{where} holds {len(found)} of {next(iter(series))[1]} shards.",
            hint="download the missing files.",
        )
    if numbered or len(found) == 1:
        return found
    raise SuperweightsError(
        f"{where} has no {INDEX}, and its files do not say which belong together: {some(found)}.",
        hint="give the path of one .safetensors file, or download the index.",
    )


def some(names: list[str]) -> str:
    """Up to three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
