"""The loss of the next token."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


def next_token_loss(
    hidden: Tensor,
    head: nn.Module,
    labels: Tensor | None,
    num_items_in_batch: Tensor | int | None = None,
    shift_labels: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Mean cross-entropy in nats of `labels` [B, T], each told by the token before it; -100 is not scored."""
    if shift_labels is None:
        assert labels is not None
        shift_labels = functional.pad(labels, (0, 1), value=-100)[..., 1:]
    logits = head(hidden).float().flatten(0, 1)
    total = functional.cross_entropy(logits, shift_labels.flatten(), reduction="sum", ignore_index=-100)
    count = (shift_labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
    return total / count
