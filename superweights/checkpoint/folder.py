"""A folder on this machine: its safetensors weights, or its pickled ones where that is allowed."""

from __future__ import annotations

from pathlib import Path

from superweights.checkpoint.listing import INDEX, WEIGHTS, read_index, sole_weights, some
from superweights.checkpoint.pickled import check_allowed, holds_pickles, open_pickles
from superweights.checkpoint.shards import ShardStore
from superweights.checkpoint.tensors import Store
from superweights.errors import SuperweightsError


def open_folder(folder: Path, *, allow_pickle: bool = False) -> Store:
    """The weights of `folder`: one safetensors file, or the shards of its index."""
    if (folder / WEIGHTS).is_file():
        return ShardStore([folder / WEIGHTS])
    if (folder / INDEX).is_file():
        return _open_index(folder)
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    if any(file.endswith(".safetensors") for file in files):
        return ShardStore([folder / file for file in sole_weights(files, str(folder))])
    if holds_pickles(folder):
        check_allowed(allow_pickle, str(folder))
        return open_pickles(folder)
    what = "has a config.json but no weights" if "config.json" in files else "has no weights"
    raise SuperweightsError(
        f"{folder} {what if files else 'is empty'}.",
        hint=f"it should hold {WEIGHTS}, or shards with {INDEX}.",
    )


def _open_index(folder: Path) -> ShardStore:
    weight_map = read_index(folder / INDEX)
    shards = sorted(set(weight_map.values()))
    missing = [file for file in shards if not (folder / file).is_file()]
    if missing:
        raise SuperweightsError(
            f"{folder} lacks {some(missing)}, which {INDEX} names.", hint="download the missing files."
        )
    return ShardStore([folder / file for file in shards], weight_map)
