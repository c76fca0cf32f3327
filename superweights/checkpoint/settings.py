"""The configuration and the tokenizer of a transformers folder, as transformers reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from superweights.checkpoint.complaints import complaints
from superweights.checkpoint.header import damaged
from superweights.checkpoint.listing import read_json
from superweights.checkpoint.processors import processor_in
from superweights.errors import SuperweightsError

# A folder with none of these has no tokenizer; one that has them and cannot be read has a broken one.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "tokenizer.model.v3",
)
_MOST_LAYERS = 100_000


class FolderSettings:
    """What `config.json` and the tokenizer files of a folder say."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "config.json"
        self.config: dict[str, Any] = read_json(path) if path.is_file() else {}
        _check_sizes(self.config, str(path))

    def companion(self, file: str) -> dict[str, Any]:
        """The JSON file of this name in the folder; empty where there is none."""
        return read_json(self.folder / file) if (self.folder / file).is_file() else {}

    def model_config(self, trust_remote_code: bool) -> Any:
        """The transformers configuration object; `SuperweightsError` where there is none to be had."""
        if not self.config:
            raise SuperweightsError(
                f"{self.folder} has no config.json, or an empty one, so the model cannot be built.",
                hint="download config.json next to the weights; reading tensors works without it.",
            )
        return _model_config_of(self.config, self.folder, trust_remote_code)

    def tokenizer(self, trust_remote_code: bool) -> Any:
        """The transformers tokenizer, or None where the folder has none."""
        if not any((self.folder / name).is_file() for name in TOKENIZER_FILES):
            return None
        from transformers import AutoTokenizer

        hint = "download the tokenizer's files again, or remove them to work on raw token ids."
        if not trust_remote_code and "auto_map" in self._tokenizer_config():
            hint = "it brings its own code; if you trust it, ask again with trust_remote_code."
        with complaints(f"The tokenizer in {self.folder} cannot be loaded", hint=hint):
            return AutoTokenizer.from_pretrained(
                str(self.folder), trust_remote_code=trust_remote_code, local_files_only=True
            )

    def processor(self, trust_remote_code: bool) -> Any:
        """The processor of pictures and sounds, or None where the folder has none."""
        return processor_in(self.folder, trust_remote_code)

    def _tokenizer_config(self) -> dict[str, Any]:
        path = self.folder / "tokenizer_config.json"
        return read_json(path) if path.is_file() else {}


class NoSettings:
    """A bare weights file: no configuration, no tokenizer."""

    def __init__(self, path: Path):
        self.path = path
        self.config: dict[str, Any] = {}

    def companion(self, file: str) -> dict[str, Any]:
        """Nothing: a file alone has nothing beside it."""
        return {}

    def model_config(self, trust_remote_code: bool) -> Any:
        raise SuperweightsError(
            f"{self.path} is a bare weights file, without the config.json that says which model it is.",
            hint="give the folder that holds both; reading tensors works without it.",
        )

    def tokenizer(self, trust_remote_code: bool) -> None:
        return None

    def processor(self, trust_remote_code: bool) -> None:
        return None


def _model_config_of(config: dict[str, Any], folder: Path, trust_remote_code: bool) -> Any:
    """The transformers configuration object of `config`, read from `folder`.

    Code that a checkpoint brings along runs only with `trust_remote_code`; without it, transformers' own
    class is used where there is one.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    native = isinstance(config.get("model_type"), str) and config["model_type"] in CONFIG_MAPPING
    if config.get("auto_map") and not native and not trust_remote_code:
        raise SuperweightsError(
            f"{folder} brings its own model code, which transformers would have to run.",
            hint="read the .py files in it; if you trust them, ask again with trust_remote_code.",
        )
    hint = "check config.json; an unknown model_type needs a newer transformers."
    with complaints(f"transformers cannot read the configuration in {folder}", hint=hint):
        return AutoConfig.from_pretrained(
            str(folder), trust_remote_code=trust_remote_code, local_files_only=True
        )


def _check_sizes(config: dict[str, Any], where: str) -> None:
    """Refuse a number of layers that no model has: transformers writes lists of that length."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_sizes(value, where)
        elif "layer" in key and isinstance(value, int | float) and value > _MOST_LAYERS:
            raise damaged(where, f"it claims {key} = {value}")
