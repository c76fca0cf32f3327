"""The configuration and the tokenizer that a GGUF file describes, as transformers reads them."""

from __future__ import annotations

import struct
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from superweights.checkpoint.complaints import complaints
from superweights.checkpoint.gguf_header import Header, Long
from superweights.checkpoint.header import damaged

_TOKENS = "tokenizer.ggml.tokens"
_STRING, _ARRAY = 8, 9


class GgufSettings:
    """What the settings of a GGUF file say about the model. `data` is the whole file."""

    def __init__(self, path: Path, header: Header, data: memoryview):
        self.path, self.header, self.data = path, header, data

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as transformers maps it."""
        return self._config

    @cached_property
    def _config(self) -> dict[str, Any]:
        layers = self.header.values.get(f"{self.header.architecture}.block_count", 0)
        if type(layers) is not int or layers > len(self.header.blocks):
            raise damaged(
                str(self.path), f"it claims {layers!r} layers and holds {len(self.header.blocks)} tensors"
            )
        with complaints(f"transformers cannot read the settings of {self.path}"):
            return _config_of(self.path, self.header, self.data)

    def companion(self, file: str) -> dict[str, Any]:
        """Nothing: a GGUF file says all of it itself."""
        return {}

    def model_config(self, trust_remote_code: bool) -> Any:
        """The transformers configuration object."""
        from transformers import AutoConfig

        with complaints(f"transformers cannot build a configuration from {self.path}"):
            return AutoConfig.for_model(**self.config)

    def processor(self, trust_remote_code: bool) -> None:
        """None: a GGUF file holds a language model alone."""
        return None

    def tokenizer(self, trust_remote_code: bool) -> Any:
        """The transformers tokenizer, or None where the file holds no vocabulary."""
        if _TOKENS not in self.header.values:
            return None
        from transformers import PreTrainedTokenizerFast
        from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

        # The class that AutoTokenizer would choose; asking it would read the whole vocabulary twice more.
        kind = TOKENIZER_MAPPING.get(type(self.model_config(trust_remote_code)), None)
        if not isinstance(kind, type) or not issubclass(kind, PreTrainedTokenizerFast):
            kind = PreTrainedTokenizerFast
        with complaints(f"The tokenizer in {self.path} cannot be built"):
            return kind.from_pretrained(
                str(self.path.parent), gguf_file=self.path.name, local_files_only=True
            )


def _config_of(path: Path, header: Header, data: memoryview) -> dict[str, Any]:
    """transformers' own reading of the file's settings.

    Its reader walks every word of the vocabulary in Python, seconds for a list of which only the length
    counts. So it is given a copy of the header with long lists cut short, and the length put back.
    """
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS, get_gguf_config
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    if header.architecture in GGUF_CONFIG_ARCHS:
        return get_gguf_config(*read_gguf_metadata(str(path)))
    with tempfile.TemporaryDirectory() as folder:
        short = Path(folder, "header.gguf")
        short.write_bytes(_shortened(header, data))
        config = load_gguf_checkpoint(str(short))["config"]
    words = header.values.get(_TOKENS)
    if isinstance(words, Long) and f"{header.architecture}.vocab_size" not in header.values:
        config["vocab_size"] = words.items
    return config


def _shortened(header: Header, data: memoryview) -> bytes:
    """A GGUF file with the settings of `header`, its tensors' names, no data, and no long list."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(header.blocks), len(header.values))]
    for key, value in header.values.items():
        start, stop = header.spans[key]
        short = isinstance(value, Long)
        parts.append(_two_words(key) if short else bytes(data[start:stop]))
    for name in header.blocks:
        parts.append(_text(name) + struct.pack("<IQIQ", 1, 0, 0, 0))  # one dimension of 0 float32 at 0
    return b"".join(parts) + bytes(2**20 // 8)


def _two_words(key: str) -> bytes:
    """A list of two empty words under `key`: one alone would be taken for a plain word."""
    return _text(key) + struct.pack("<IIQ", _ARRAY, _STRING, 2) + 2 * _text("")


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
