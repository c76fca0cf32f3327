"""What was written, put on the Hugging Face Hub: its files, and a model card in the place of its README."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from superweights.artefacts.manifest import HEAD_BYTES, Kept, files_in, read_manifest, verify
from superweights.artefacts.place import MANIFEST
from superweights.checkpoint.hub_errors import explained
from superweights.errors import SuperweightsError

CARD = "README.md"
# One name, or two with a slash between them, as the hub has them.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_target(name: str) -> None:
    """Raise `SuperweightsError`, before the work, where nothing can be put under `name` (`ORG/NAME`): no such name, no
    token of this machine, or a repository that holds something already."""
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise SuperweightsError(
            f"{name!r} is no name on the hub.", hint="write ORG/NAME or USER/NAME, such as ada/smollm2-int4."
        )
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if get_token() is None:
        raise SuperweightsError(
            f"Nothing can be pushed to {name}: no token of the Hugging Face Hub is known here.",
            hint="hf auth login, or set HF_TOKEN to a token that may write.",
        )
    with explained(name):
        try:
            held = [file for file in HfApi().list_repo_files(name) if file != ".gitattributes"]
        except RepositoryNotFoundError:
            return
    if held:
        raise SuperweightsError(
            f"{name} on the hub holds {held[0]} already.", hint="give the name of a new repository."
        )


def upload(path: Path, name: str, card: str, *, private: bool = False) -> str:
    """The address of the new repository `name` with the files of the folder (or the one file) `path` and `card` as its
    README. Raises `SuperweightsError` as `check_target`, for a damaged folder, and for what the hub refuses."""
    check_target(name)
    from huggingface_hub import CommitOperationAdd, HfApi

    written = card.encode()
    operations = [CommitOperationAdd(CARD, written)]
    operations += [CommitOperationAdd(there, held) for there, held in _files(path, written)]
    api = HfApi()
    with explained(name):
        address = api.create_repo(name, private=private, exist_ok=True)
        api.create_commit(name, operations, commit_message="Written by superweights")
    return str(address)


def _files(path: Path, card: bytes) -> Iterator[tuple[str, str | bytes]]:
    """Each file's name on the hub, and its path or contents; the manifest tells of the card."""
    if path.is_file():
        yield path.name, str(path)
        return
    if not path.is_dir():
        raise SuperweightsError(f"There is no folder {path}.", hint="check the path.")
    verify(path)
    for name, _ in files_in(path):
        if name != CARD and not any(part.startswith(".") for part in Path(name).parts):
            yield name, str(path / name)
    manifest = read_manifest(path)
    if manifest is not None:
        head = hashlib.sha256(card[:HEAD_BYTES]).hexdigest()
        kept = Kept(len(card), hashlib.sha256(card).hexdigest(), head)
        yield MANIFEST, replace(manifest, files={**manifest.files, CARD: kept}).to_json().encode()
