"""Text that a model writes itself, as token ids: what it is calibrated on where a person gives no text.

Source: LLM-QAT (Liu et al., arXiv 2305.17888, section 3.1), which distils from the model's own samples and finds drawn
next tokens better than the likeliest ones. Where we differ: sequences start from the token that separates documents as
well as from drawn words, and temperatures are mixed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from superweights.artefacts.cache import cache_folder
from superweights.artefacts.file import new_file
from superweights.artefacts.manifest import digest_of
from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.stream import streaming
from superweights.subject import begins_with_bos, context_of, device_of, read_text, vocabulary_of, windows


@dataclass(frozen=True)
class Sampling:
    """How a model's own text is drawn; the same model and `Sampling` give the same tokens on one machine."""

    sequences: int = 32
    """How many are drawn, all side by side."""
    length: int = 256
    """Tokens of each; fewer where the model's context is shorter."""
    temperatures: tuple[float, ...] = (0.7, 0.85, 1.0)
    """What logits are divided by, sequence by sequence in turn."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        if min(self.sequences, self.length - 1) < 1 or not all(t > 0 for t in self.temperatures):
            raise SuperweightsError(
                f"No text can be drawn as {self}.",
                hint="at least one sequence of two tokens, and temperatures above 0.",
            )


@torch.no_grad()
def own_samples(
    model: Any, tokenizer: Any, sampling: Sampling = Sampling(), progress: Progress = silent
) -> Tensor:
    """Token ids `[sequences, length]` that `model` draws. `progress` counts tokens.

    A quarter of the sequences start with the token that begins a sequence (or, where there is none, ends one), the
    others with a token of the vocabulary drawn at random, behind that first token where the tokenizer always puts it.
    """
    draw = torch.Generator().manual_seed(sampling.seed)
    length = min(sampling.length, context_of(model) or sampling.length)
    ids = unread = _beginnings(model, tokenizer, sampling, draw)
    warmth = torch.tensor([sampling.temperatures[n % len(sampling.temperatures)] for n in range(len(ids))])
    device, cache = device_of(model), None
    while ids.shape[1] < length:
        step = model(input_ids=unread.to(device), past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        chances = (step.logits[:, -1].float().cpu() / warmth[:, None]).softmax(-1)
        unread = torch.multinomial(chances, 1, generator=draw)
        ids = torch.cat([ids, unread], 1)
        progress("drawing text", ids.shape[1], length)
    return ids


def remembered_samples(
    checkpoint: Checkpoint,
    sampling: Sampling = Sampling(),
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> Tensor:
    """`own_samples` of a checkpoint, drawn once: found again by its fingerprint and `sampling` in the user's cache."""
    about = digest_of(checkpoint.fingerprint(), json.dumps(asdict(sampling)))
    kept = cache_folder("samples") / f"{about[:32]}.safetensors"
    try:
        return load_file(kept)["tokens"]
    except (OSError, SafetensorError, KeyError):  # not there, or damaged: made anew
        pass
    with streaming(checkpoint, dtype="float32", device=device) as model:
        tokens = own_samples(model, checkpoint.tokenizer(), sampling, progress)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with new_file(kept, replace=True) as partial:
        save_file({"tokens": tokens.contiguous()}, partial)
    return tokens


def tokens_of_text(checkpoint: Checkpoint, path: Path, sampling: Sampling = Sampling()) -> Tensor:
    """Token ids `[sequences, length]` of a person's text, spread evenly over it; fewer where it is short.

    Raises `SuperweightsError` for a file that is no text or shorter than one sequence, and without a tokenizer.
    """
    tokenizer = checkpoint.tokenizer()
    if tokenizer is None:
        raise SuperweightsError(
            f"{checkpoint.name} has no tokenizer to read a text with.",
            hint="leave the text out: the model then draws tokens itself.",
        )
    every = windows(tokenizer, read_text(path), sampling.length, bos=begins_with_bos(tokenizer))
    chosen = torch.linspace(0, len(every) - 1, min(sampling.sequences, len(every))).round().long()
    return every[chosen]


def _beginnings(model: Any, tokenizer: Any, sampling: Sampling, draw: torch.Generator) -> Tensor:
    """The first token or two of every sequence."""
    drawn = torch.randint(vocabulary_of(model), (sampling.sequences, 1), generator=draw)
    named = (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    separator = next((token for token in named if token is not None), None)
    if separator is None:
        return drawn
    if begins_with_bos(tokenizer):
        return torch.cat([torch.full_like(drawn, separator), drawn], 1)
    quarter = (torch.arange(len(drawn)) // len(sampling.temperatures) % 4 == 0)[:, None]
    return torch.where(quarter, separator, drawn)
