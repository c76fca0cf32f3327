"""What kind each token is: the first, one that stands for an image (a film, a sound), or text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from superweights.subject.given import marks_of


def kinds_of(ids: Tensor, config: Any) -> Mapping[str, Tensor]:
    """Masks of the shape of `ids`, by kind: `first` is position 0, `text` whatever is left; kinds without a token are
    left out."""
    first = torch.zeros_like(ids, dtype=torch.bool)
    first[..., 0] = True
    found, left = {"first": first}, ~first
    for name, token in marks_of(config).items():
        here = (ids == token) & left
        found[name] = here | found.get(name, torch.zeros_like(here))
        left = left & ~here
    found["text"] = left
    return {name: mask for name, mask in found.items() if bool(mask.any())}
