"""The model under experiment, opened, with its super weights and the text it is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.discovery.published import PROMPT
from superweights.errors import SuperweightsError
from superweights.findings.reproduction import Published
from superweights.index.choice import Choice
from superweights.progress import Progress, labelled
from superweights.record import Record, SuperWeight
from superweights.reproductions.others import Others, largest_global
from superweights.reproductions.published import published_for
from superweights.reproductions.weights import see_weights
from superweights.subject import device_of, resolve_bos
from superweights.subject.text import Text, embedded_prose, encode, windows, without_last_word

SCALES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0)
# Without passages the token shift is measured after stretches of the text, so many tokens long and so many.
STRETCH, STRETCHES = 64, 64


@dataclass(frozen=True)
class Setting:
    """What an experiment is run on; the defaults need no thought."""

    text: Text | None = None
    """The text; None: English prose that Python brings along."""
    window: int = 512
    """Tokens in a window of it."""
    windows: int = 8
    """How many windows."""
    bos: str | bool = "auto"
    """Whether they begin with the beginning-of-sequence token: auto (as the tokenizer does), yes, no."""
    batch_size: int | None = None
    """Windows that go through the model at once; None suits the model."""
    passages: tuple[str, ...] = ()
    """Texts that end in the word to predict (LAMBADA)."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, for Table 1."""
    task_limit: int | None = None
    """The first so many items of each task."""
    prompt: str = PROMPT
    """The sentence of Figures 3 and 4."""
    weights: tuple[Address, ...] = ()
    """The super weights; none: those of `record`, known ones, or a search."""
    record: Record | Path | None = None
    """What `superweights find --out` wrote."""
    others: int = 7000
    """How many other large weights are pruned."""
    scales: tuple[float, ...] = SCALES
    """The factors of Figure 6."""
    top: int = 16
    """Tokens of each kind in Figure 5."""
    control: bool = False
    """Whether Figure 5 has another change beside it, one that does equal damage."""
    seed: int = 0
    """Of everything that is drawn."""
    """Of everything drawn."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One open model and what is asked of it."""

    checkpoint: Checkpoint
    """What it was opened from."""
    model: nn.Module
    tokenizer: Any
    """The checkpoint's."""
    setting: Setting
    """What was asked."""
    chosen: Choice
    """The super weights, and how they were chosen."""
    progress: Progress
    """Who is told how far it is."""

    @property
    def bos(self) -> bool:
        """Whether windows begin with the beginning-of-sequence token."""
        return resolve_bos(self.tokenizer, self.setting.bos)

    @property
    def device(self) -> Any:
        return device_of(self.model)

    def prompt_ids(self) -> Tensor:
        """The prompt as the tokenizer would have it, `[1, tokens]`: with BOS where that is its habit."""
        return self.tokenizer(self.setting.prompt, return_tensors="pt").input_ids.to(self.device)

    def text(self) -> Text:
        return self.setting.text or embedded_prose()

    def windows(self) -> Tensor:
        """The text's windows `[n, length]`."""
        s = self.setting
        return windows(self.tokenizer, self.text(), s.window, s.windows, bos=self.bos)

    def stretches(self) -> list[list[int]]:
        """What a next token is asked after: the passages without their last words, or stretches of the text."""
        bos = [self.tokenizer.bos_token_id] if self.bos else []
        if self.setting.passages:
            cut = [without_last_word(passage)[0] for passage in self.setting.passages]
            return [bos + encode(self.tokenizer, passage) for passage in cut]
        found = windows(self.tokenizer, self.text(), STRETCH)[:STRETCHES]
        return [bos + row for row in found.tolist()]

    def weights(self) -> tuple[SuperWeight, ...]:
        """The super weights with their products on the prompt."""
        return see_weights(self.model, self.prompt_ids(), self.checkpoint, self.chosen.addresses)

    def others(self) -> Others:
        """The other large weights, by the text's own rule."""
        return largest_global(self.checkpoint, self.setting.others, set(self.chosen.addresses))

    def published(self, experiment: str) -> Published:
        return published_for(experiment, self.chosen.hub_names)

    def reporter(self, label: str) -> Progress:
        return labelled(self.progress, label)

    def conditions(self, *, text: bool = False) -> dict[str, Any]:
        """What it was measured on, for the record."""
        s = self.setting
        found: dict[str, Any] = {
            **self.checkpoint.origin(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.device),
            "seed": s.seed,
        }
        if text:
            read = self.text()
            cut = {"window": s.window, "windows": s.windows, "bos": self.bos, "passages": len(s.passages)}
            found |= {"text": read.name, "text_sha256": read.sha256, **cut}
        return found


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """Its tokenizer. Raises `SuperweightsError` where it has none: every experiment starts from text."""
    tokenizer = checkpoint.tokenizer()
    if tokenizer is None:
        raise SuperweightsError(
            f"{checkpoint.name} has no tokenizer, and the published experiments start from text.",
            hint="put its tokenizer.json beside the weights.",
        )
    return tokenizer
