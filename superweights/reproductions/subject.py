"""The model under experiment, opened, with its super weights and the text it is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from superweights.address import Address
from superweights.checkpoint import Checkpoint
from superweights.discovery.published import PROMPT
from superweights.errors import SuperweightsError
from superweights.index.choice import Choice
from superweights.progress import Progress, labelled
from superweights.record import Record, SuperWeight
from superweights.reproductions.others import Others, largest_global
from superweights.reproductions.published import Published, published_for
from superweights.reproductions.weights import see_weights
from superweights.subject import device_of
from superweights.subject.text import Text, embedded_prose, encode, windows, without_last_word

SCALES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0)
# Without passages the token shift is measured after stretches of the text, so many tokens long and so many.
STRETCH, STRETCHES = 64, 64


@dataclass(frozen=True)
class Setting:
    """What an experiment is run on; the defaults need no thought.

    `text` (None: English prose that Python brings along) is cut into `windows` windows of `window` tokens,
    `bos` in front where asked; `passages` end in the word to predict (LAMBADA); `tasks` are lm-evaluation-harness's for
    Table 1, of which `task_limit` takes the first so many items. `prompt` is the sentence of
    Figures 3 and 4. `weights` or a `record` of `superweights find` name the super weights. `others` counts the
    other large weights to prune, `scales` are the factors of Figure 6, `top` the tokens shown in Figure 5, and
    `control` adds another change that does equal damage there.
    """

    text: Text | None = None
    window: int = 512
    windows: int = 8
    bos: bool = False
    batch_size: int | None = None
    passages: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    task_limit: int | None = None
    prompt: str = PROMPT
    weights: tuple[Address, ...] = ()
    record: Record | None = None
    others: int = 7000
    scales: tuple[float, ...] = SCALES
    top: int = 16
    control: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Subject:
    """One open model and what is asked of it."""

    checkpoint: Checkpoint
    model: nn.Module
    tokenizer: Any
    setting: Setting
    chosen: Choice
    progress: Progress

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
        return windows(self.tokenizer, self.text(), s.window, s.windows, bos=s.bos)

    def stretches(self) -> list[list[int]]:
        """What a next token is asked after: the passages without their last words, or stretches of the text."""
        bos = [self.tokenizer.bos_token_id] if self.setting.bos else []
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
            cut = {"window": s.window, "windows": s.windows, "bos": s.bos, "passages": len(s.passages)}
            found |= {"text": read.name, "text_sha256": read.sha256, **cut}
        return found


def tokenizer_of(checkpoint: Checkpoint, bos: bool) -> Any:
    """Its tokenizer. Raises `SuperweightsError` where it has none (every experiment starts from text), or no BOS."""
    tokenizer = checkpoint.tokenizer()
    if tokenizer is None:
        raise SuperweightsError(
            f"{checkpoint.name} has no tokenizer, and the published experiments start from text.",
            hint="put its tokenizer.json beside the weights.",
        )
    if bos and tokenizer.bos_token_id is None:
        raise SuperweightsError(
            "This tokenizer has no beginning-of-sequence token.", hint="run the experiment without one."
        )
    return tokenizer
