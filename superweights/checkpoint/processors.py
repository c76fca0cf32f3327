"""What turns pictures and sounds into a model's arguments, as transformers reads it from beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from superweights.checkpoint.complaints import complaints

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


def has_processor(folder: Path) -> bool:
    """Whether a folder says how pictures or sounds are prepared."""
    return any((folder / name).is_file() for name in PROCESSOR_FILES)


def processor_in(folder: Path, trust_remote_code: bool) -> Any:
    """The processor of a folder (or its image processor or feature extractor alone), or None where it has none.

    Raises `SuperweightsError` for one that cannot be loaded.
    """
    if not has_processor(folder):
        return None
    from transformers import AutoProcessor

    with complaints(
        f"The processor in {folder} cannot be loaded",
        hint="install what it asks for (torchvision, a sound library), or give the arguments with --inputs.",
    ):
        return AutoProcessor.from_pretrained(
            str(folder), trust_remote_code=trust_remote_code, local_files_only=True
        )
