"""The configuration and the tokenizer of a transformers folder, as transformers reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from superweights.checkpoint.folder import read_json
from superweights.errors import SuperweightsError

# How transformers reports a file it cannot use: it checks little and fails where it happens to fail.
COMPLAINTS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OSError,
    ImportError,
    ArithmeticError,
    RuntimeError,
    StrictDataclassError,
)

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


class FolderSettings:
    """What `config.json` and the tokenizer files of a folder say."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "config.json"
        self.config: dict[str, Any] = read_json(path) if path.is_file() else {}

    def model_config(self, trust_remote_code: bool) -> Any:
        """The transformers configuration object; `SuperweightsError` where there is none to be had."""
        if not self.config:
            raise SuperweightsError(
                f"{self.folder} has no config.json, so the model cannot be built.",
                hint="download config.json next to the weights; reading tensors works without it.",
            )
        return model_config_of(self.config, self.folder, trust_remote_code)

    def tokenizer(self, trust_remote_code: bool) -> Any:
        """The transformers tokenizer, or None where the folder has none."""
        if not any((self.folder / name).is_file() for name in TOKENIZER_FILES):
            return None
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(
                self.folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
        except COMPLAINTS as error:
            raise SuperweightsError(
                f"The tokenizer in {self.folder} cannot be loaded: {first_line(error)}",
                hint=_tokenizer_hint(error),
            ) from error


class NoSettings:
    """A bare weights file: no configuration, no tokenizer."""

    def __init__(self, path: Path):
        self.path = path
        self.config: dict[str, Any] = {}

    def model_config(self, trust_remote_code: bool) -> Any:
        raise SuperweightsError(
            f"{self.path} is a bare weights file, without the config.json that says which model it is.",
            hint="give the folder that holds both; reading tensors works without it.",
        )

    def tokenizer(self, trust_remote_code: bool) -> None:
        return None


def model_config_of(config: dict[str, Any], folder: Path, trust_remote_code: bool) -> Any:
    """The transformers configuration object of `config`, read from `folder`.

    Code that a checkpoint brings along runs only with `trust_remote_code`, and not even then when
    transformers has the model itself.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    native = config.get("model_type") in CONFIG_MAPPING_NAMES
    if config.get("auto_map") and not native and not trust_remote_code:
        raise SuperweightsError(
            f"{folder} brings its own model code, which transformers would have to run.",
            hint="read the .py files in it; if you trust them, ask again with trust_remote_code.",
        )
    try:
        return AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code and not native, local_files_only=True
        )
    except COMPLAINTS as error:
        raise SuperweightsError(
            f"transformers cannot read the configuration in {folder}: {first_line(error)}",
            hint="an unknown model_type needs a newer transformers: pip install -U transformers.",
        ) from error


@contextmanager
def complaints(sentence: str, *, hint: str | None = None) -> Iterator[None]:
    """Turn what transformers raises inside into `sentence`, followed by its own first line."""
    try:
        yield
    except COMPLAINTS as error:
        raise SuperweightsError(
            f"{sentence}: {first_line(error)}",
            hint=hint or "the file may be damaged, or need a newer transformers.",
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]


def _tokenizer_hint(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return "install what it names."
    if "trust_remote_code" in str(error):
        return "it brings its own code; if you trust it, ask again with trust_remote_code."
    return "download the tokenizer files again, or remove them to work on raw token ids."
