"""The next token given an image: pictures made here go through the model's own processor, in front of each window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.subject.batch import UNSCORED, Batch
from superweights.subject.objective import NATS, check_first, next_labels

_SIZE = 224
# Arguments with one number for each token, and what the text's tokens have there.
_BY_TOKEN = {"attention_mask": 1, "token_type_ids": 0, "mm_token_type_ids": 0}


@dataclass(frozen=True, eq=False)
class Pictured:
    """Each token of a text is predicted from those before it and from a picture in front.

    `fronts` are the arguments for one picture each, alike in shape; row r of a batch has picture r modulo their number.
    `bos` is the token that a window may begin with, which the front has already.
    """

    fronts: tuple[Mapping[str, Tensor], ...]
    bos: int | None = None
    name: str = "image"
    """The word for it."""
    unit: str = NATS
    """Of its loss."""

    def batch(self, ids: Tensor, first: int = 1, whole: bool = False) -> Batch:
        """The windows behind their pictures; scored are their own tokens, from position `first`."""
        check_first(first, ids.shape[1])
        if self.bos is not None and bool((ids[:, 0] == self.bos).all()):
            ids, first = ids[:, 1:], max(1, first - 1)
        fronts = [self.fronts[row % len(self.fronts)] for row in range(len(ids))]
        joined = {name: torch.cat([front[name] for front in fronts]).to(ids.device) for name in fronts[0]}
        length = joined["input_ids"].shape[1]
        text = {"input_ids": ids}
        text |= {name: torch.full_like(ids, value) for name, value in _BY_TOKEN.items() if name in joined}
        arguments = {
            name: torch.cat([held, text[name].to(held)], 1) if name in text else held
            for name, held in joined.items()
        }
        labels = next_labels(arguments["input_ids"])
        labels[:, : length + first - 1] = UNSCORED
        return Batch(arguments, labels)


def pictured(processor: Any, name: str) -> Pictured:
    """The objective of a model that sees, by its processor.

    Raises `SuperweightsError` where the processor makes no place for a picture, or places of unequal length.
    """
    fronts = tuple(_front(processor, picture, name) for picture in drawn_pictures())
    if len({tuple(front["input_ids"].shape) for front in fronts}) != 1:
        raise SuperweightsError(
            f"The processor of {name} gives pictures of one size unequal numbers of tokens.",
            hint="give the model's arguments in a file with --inputs.",
        )
    return Pictured(fronts, getattr(getattr(processor, "tokenizer", None), "bos_token_id", None))


def drawn_pictures(size: int = _SIZE) -> list[Any]:
    """Four pictures of `size` x `size` pixels, drawn by rule: a slope, a chessboard, a disc, coloured stripes."""
    import numpy

    try:
        from PIL import Image
    except ImportError:
        raise SuperweightsError(
            "Pictures are drawn with pillow, which is not installed.",
            hint="pip install pillow, or give the model's arguments in a file with --inputs.",
        ) from None
    y, x = numpy.mgrid[:size, :size].astype("float32") / (size - 1)
    slope = numpy.stack([x, y, 1 - x], -1)
    board = numpy.repeat((((x * 8).astype(int) + (y * 8).astype(int)) % 2)[..., None], 3, -1)
    inside = (((x - 0.5) ** 2 + (y - 0.5) ** 2) < 0.1)[..., None]
    disc = numpy.where(inside, [0.9, 0.2, 0.1], [0.1, 0.3, 0.8])
    stripes = numpy.eye(3)[((x + y) * 6).astype(int) % 3]
    return [Image.fromarray((each * 255).astype("uint8"), "RGB") for each in (slope, board, disc, stripes)]


def _front(processor: Any, picture: Any, name: str) -> dict[str, Tensor]:
    """The arguments for one picture alone."""
    tried: list[str] = []
    for text in _placeholders(processor):
        try:
            made = processor(text=[text], images=[picture], return_tensors="pt")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            tried.append((str(error).strip() or type(error).__name__).splitlines()[0])
            continue
        found = {key: held for key, held in made.items() if isinstance(held, Tensor)}
        if "input_ids" in found and len(found) > 1:
            return found
    said = f": {tried[-1]}" if tried else ""
    raise SuperweightsError(
        f"The processor of {name} makes no place for a picture in a text{said}",
        hint="give the model's arguments in a file with --inputs, or read it with --objective next-token.",
    )


def _placeholders(processor: Any) -> Sequence[str]:
    """What may stand for a picture in a text, as the processor itself calls it."""
    words = [getattr(processor, key, None) for key in ("boi_token", "image_token")]
    words += [getattr(getattr(processor, "tokenizer", None), "image_token", None)]
    return [word for word in dict.fromkeys(words) if isinstance(word, str) and word]
