"""The code that a checkpoint brings along, carried to a folder that is written from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from superweights.checkpoint.listing import read_json

_NAMING = ("config.json", "tokenizer_config.json")


def carry_code(source: Path | None, folder: Path) -> None:
    """Copy the files that `auto_map` names in the settings of `folder`, with those that they import, from `source`.

    Names of another repository (`org/name--module.Class`) stay, for transformers fetches those. What `source` does not
    have is no longer named: a folder that names code which it lacks can be opened by nobody.
    """
    for settings in _NAMING:
        path = folder / settings
        held = read_json(path) if path.is_file() else {}
        if not isinstance(held.get("auto_map"), dict):
            continue
        kept = {kind: named for kind, named in held["auto_map"].items() if _carried(source, folder, named)}
        if kept != held["auto_map"]:
            held["auto_map"] = kept
            if not kept:
                del held["auto_map"]
            path.write_text(json.dumps(held, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _carried(source: Path | None, folder: Path, named: Any) -> bool:
    """Whether all that an entry names is in `folder` now, or in another repository."""
    classes = [each for each in (named if isinstance(named, list) else [named]) if each is not None]
    return bool(classes) and all(isinstance(each, str) and _copied(source, folder, each) for each in classes)


def _copied(source: Path | None, folder: Path, named: str) -> bool:
    from transformers.dynamic_module_utils import get_relative_import_files

    if "--" in named:
        return True
    module = f"{named.split('.')[0]}.py"
    if source is None or Path(module).name != module or not (source / module).is_file():
        return False
    files = [source / module, *map(Path, get_relative_import_files(source / module))]
    if not all(file.is_file() for file in files):
        return False
    for file in files:
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return True
