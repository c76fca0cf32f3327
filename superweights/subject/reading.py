"""Which text a run reads, and how it is cut into windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.subject.bos import resolve_bos
from superweights.subject.facts import vocabulary_by_config
from superweights.subject.text import Text, embedded_prose, raw_prompts, read_text, windows


@dataclass(frozen=True)
class Reading:
    """A text and how it is cut."""

    text: Text | Path | str | None = None
    """The text, or the path of its file; None: English prose that Python brings along."""
    window: int = 512
    """Tokens in a window."""
    windows: int = 24
    """How many windows, from the text's beginning."""
    stride: int | None = None
    """Tokens from one window's start to the next's; None: where the last one ended."""
    bos: str | bool = "auto"
    """Whether windows begin with the beginning-of-sequence token: auto (as the tokenizer does), yes, no."""
    batch_size: int | None = None
    """Windows that go through the model at once; None suits the model."""

    @property
    def first(self) -> int:
        """The first position that is scored: the one after what the window before has scored already."""
        return max(1, self.window - (self.stride or self.window))

    def read(self) -> Text:
        """The text itself, with its name and hash."""
        if self.text is None:
            return embedded_prose()
        return self.text if isinstance(self.text, Text) else read_text(self.text)

    def cut(self, tokenizer: Any) -> Int[Tensor, "windows window"]:
        """The windows `[windows, window]` as token ids. Errors as `subject.windows`."""
        return windows(
            tokenizer,
            self.read(),
            self.window,
            self.windows,
            self.stride,
            resolve_bos(tokenizer, self.bos),
        )

    def conditions(self, tokenizer: Any) -> dict[str, Any]:
        """What was read, for a record: the text's name and hash, the cut, and whether BOS stood in front."""
        text = self.read()
        return {
            "text": text.name,
            "text_sha256": text.sha256,
            "window": self.window,
            "windows": self.windows,
            "bos": resolve_bos(tokenizer, self.bos),
        }

    def tokens_of(self, checkpoint: Any, seed: int = 0) -> Int[Tensor, "windows window"]:
        """As `cut`, by the checkpoint's own tokenizer; random token ids where it has none."""
        tokenizer = checkpoint.tokenizer()
        if tokenizer is None:
            vocabulary = vocabulary_by_config(checkpoint.model_config())
            return raw_prompts(vocabulary, self.windows, self.window, seed)
        return self.cut(tokenizer)


def tokenizer_of(checkpoint: Any) -> Any:
    """The checkpoint's tokenizer. Raises `SuperweightsError` where it has none."""
    tokenizer = checkpoint.tokenizer()
    if tokenizer is None:
        raise SuperweightsError(
            f"{checkpoint.name} has no tokenizer.", hint="put its tokenizer.json beside the weights."
        )
    return tokenizer
