"""Checkpoints on the Hugging Face Hub: resolved to one commit, read from the cache or by byte ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from superweights.checkpoint.folder import open_folder
from superweights.checkpoint.hub_errors import HTTP_ERRORS, explained
from superweights.checkpoint.listing import INDEX, WEIGHTS, read_index, sole_weights
from superweights.checkpoint.pickled import PICKLE_INDEX, PICKLED, PickleStore, check_allowed, open_pickles
from superweights.checkpoint.processors import PROCESSOR_FILES
from superweights.checkpoint.ranges import RemoteStore
from superweights.checkpoint.settings import TOKENIZER_FILES, FolderSettings
from superweights.checkpoint.tensors import Settings, Store
from superweights.errors import SuperweightsError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_FILE_ENDINGS = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".json")
_TIMEOUT = 10.0
_SMALL = (*TOKENIZER_FILES, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


@dataclass(frozen=True)
class Repository:
    """One commit of a model on the hub, and the names of its files."""

    name: str
    """org/name."""
    commit: str
    files: tuple[str, ...]

    @property
    def origin(self) -> str:
        """How messages call it."""
        return f"{self.name}@{self.commit[:8]}"

    def download(self, file: str) -> Path:
        """The file in the local cache, fetched if it is not there yet."""
        with explained(self.origin):
            return Path(hf_hub_download(self.name, file, revision=self.commit, endpoint=constants.ENDPOINT))

    def url(self, file: str) -> str:
        return hf_hub_url(self.name, file, revision=self.commit, endpoint=constants.ENDPOINT)


class HubSettings:
    """The configuration of a repository, and its tokenizer, downloaded when first asked for."""

    def __init__(self, repository: Repository, trust_remote_code: bool):
        self.repository = repository
        wanted = ["config.json", *(["*.py"] if trust_remote_code else [])]
        self.folder = _download_all(repository, wanted)
        self._settings = FolderSettings(self.folder) if self.folder else None

    @property
    def config(self) -> dict[str, Any]:
        return self._settings.config if self._settings else {}

    def companion(self, file: str) -> dict[str, Any]:
        folder = _download_all(self.repository, [file])
        return FolderSettings(folder).companion(file) if folder else {}

    def model_config(self, trust_remote_code: bool) -> Any:
        if self._settings is None:
            raise SuperweightsError(
                f"{self.repository.name} has no config.json, so the model cannot be built.",
                hint="reading tensors works without it.",
            )
        return self._settings.model_config(trust_remote_code)

    def tokenizer(self, trust_remote_code: bool) -> Any:
        folder = _download_all(self.repository, [*_SMALL, "*.tiktoken", "*.model"])
        return FolderSettings(folder).tokenizer(trust_remote_code) if folder else None

    def processor(self, trust_remote_code: bool) -> Any:
        if not any(file in PROCESSOR_FILES for file in self.repository.files):
            return None
        folder = _download_all(self.repository, [*PROCESSOR_FILES, *_SMALL, "*.tiktoken", "*.model"])
        return FolderSettings(folder).processor(trust_remote_code) if folder else None


def is_hub_name(name: str) -> bool:
    """Whether `name` can be a model on the hub; anything that looks like a path never leaves the machine."""
    repository, _, _ = name.partition("@")
    return bool(_NAME.fullmatch(repository)) and not repository.endswith(_FILE_ENDINGS)


def split_name(name: str, revision: str | None) -> tuple[str, str | None]:
    """Repository and revision from `org/name@revision` and a separate revision, which must not differ."""
    repository, _, given = name.partition("@")
    if given and revision and given != revision:
        raise SuperweightsError(
            f"{name} asks for one revision and {revision!r} is another.", hint="give the revision once."
        )
    return repository, given or revision


def find_repository(name: str, revision: str | None) -> Repository | Path:
    """The repository at one commit; or, when the hub cannot be asked, the folder in the cache.

    The commit is looked up once, so that everything read later belongs together.
    """
    origin = f"{name}@{revision}" if revision else name
    try:
        with explained(origin):
            info = HfApi(endpoint=constants.ENDPOINT).model_info(name, revision=revision, timeout=_TIMEOUT)
    except SuperweightsError as error:
        folder = cached_folder(name, revision)
        if not _out_of_reach(error.__cause__):
            raise
        if folder is None:
            said = error.message.replace("The hub", "the hub", 1)
            hint = f"check the path; for a model of the hub, {error.hint}"
            raise SuperweightsError(f"There is no file or folder {name}, and {said}", hint=hint) from error
        return folder
    return Repository(name, info.sha or "main", tuple(file.rfilename for file in info.siblings or ()))


def cached_folder(name: str, revision: str | None) -> Path | None:
    """The snapshot folder of an earlier download, as far as it went."""
    for file in ("config.json", WEIGHTS, INDEX):
        found = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def holds_weights(folder: Path) -> bool:
    """Whether every safetensors file that belongs to the folder is in it."""
    if (folder / WEIGHTS).is_file():
        return True
    return (folder / INDEX).is_file() and all(
        (folder / file).is_file() for file in read_index(folder / INDEX).values()
    )


def open_hub(
    name: str, revision: str | None, *, allow_pickle: bool, trust_remote_code: bool
) -> tuple[Store, Settings, Path | None, str]:
    """The tensors and settings of a model on the hub; its local folder, where it has one; its commit."""
    name, revision = split_name(name, revision)
    found = find_repository(name, revision)
    if isinstance(found, Path):
        if not holds_weights(found) and not allow_pickle:
            raise SuperweightsError(
                f"{name} is only partly downloaded, and the hub cannot be asked for the rest.",
                hint="connect and try again, or download it whole: hf download NAME.",
            )
        return open_folder(found, allow_pickle=allow_pickle), FolderSettings(found), found, found.name
    settings = HubSettings(found, trust_remote_code)
    folder = cached_folder(name, found.commit)
    if folder is not None and holds_weights(folder):
        return open_folder(folder), settings, folder, found.commit
    if any("/" not in file and file.endswith(".safetensors") for file in found.files):
        return _open_ranges(found), settings, None, found.commit
    folder, store = _open_pickles(found, allow_pickle)
    return store, settings, folder, found.commit


def _open_ranges(repository: Repository) -> RemoteStore:
    """The safetensors weights of the repository, read by ranges."""
    top = sorted(file for file in repository.files if "/" not in file)
    weight_map = None
    if WEIGHTS in top:
        shards = [WEIGHTS]
    elif INDEX in top:
        weight_map = read_index(repository.download(INDEX))
        shards = sorted(set(weight_map.values()))
    else:
        shards = sole_weights(top, repository.origin)
    missing = [file for file in shards if file not in top]
    if missing:
        raise SuperweightsError(
            f"{repository.origin} lacks {missing[0]}, which {INDEX} names.",
            hint="use another copy of the model.",
        )
    urls = {file: repository.url(file) for file in shards}
    return RemoteStore(urls, weight_map, origin=repository.origin)


def _open_pickles(repository: Repository, allow_pickle: bool) -> tuple[Path, PickleStore]:
    """The pickled weights of the repository, downloaded whole, where that is allowed."""
    wanted = [file for file in repository.files if file in (PICKLED, PICKLE_INDEX)]
    if not wanted:
        kinds = "GGUF files" if any(file.endswith(".gguf") for file in repository.files) else "other files"
        raise SuperweightsError(
            f"{repository.origin} has no safetensors weights, only {kinds}.",
            hint="download the file that you want (hf download NAME FILE) and give its path.",
        )
    check_allowed(allow_pickle, repository.origin)
    folder = repository.download(wanted[0]).parent
    if PICKLED not in wanted:
        for file in sorted(set(read_index(folder / PICKLE_INDEX).values())):
            repository.download(file)
    return folder, open_pickles(folder)


def _download_all(repository: Repository, patterns: Iterable[str]) -> Path | None:
    """The cache folder of the repository with all files of these patterns in it; None where none match."""
    wanted = [
        f for f in repository.files if "/" not in f and any(fnmatch(f, pattern) for pattern in patterns)
    ]
    return [repository.download(file).parent for file in wanted][-1] if wanted else None


def _out_of_reach(error: BaseException | None) -> bool:
    """Whether the hub could not be asked at all, so that an earlier download must do."""
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    return isinstance(error, HTTP_ERRORS | OfflineModeIsEnabled)
