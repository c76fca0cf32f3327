"""Text as people mistype it: letters in the wrong case, bytes that are missing."""

from __future__ import annotations

import torch
from torch import Tensor

from superweights.lab.byte_latent.alphabet import OFFSET


def noised(ids: Tensor, seed: int, share: float = 0.1) -> Tensor:
    """`ids [B, N]` with this share of letters in the other case, and this share of bytes gone.

    Those after a gap move up, and the row is filled from its own beginning. The first id of a row stays.
    """
    generator = torch.Generator().manual_seed(seed)
    values = ids - OFFSET
    letter = ((values >= 65) & (values <= 90)) | ((values >= 97) & (values <= 122))
    swapped = torch.where(letter & (torch.rand(ids.shape, generator=generator) < share), values ^ 32, values)
    rows = []
    for row in swapped + OFFSET:
        stays = torch.rand(len(row), generator=generator) >= share
        stays[0] = True
        left = row[stays]
        rows.append(torch.cat([left, left[1:]])[: len(row)])
    return torch.stack(rows)
