"""The loss of the next token, through the model's head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from superweights.lab.parts.cpu_kernels import SummedLoss, fits


def next_token_loss(
    hidden: Tensor,
    head: nn.Module,
    labels: Tensor | None,
    num_items_in_batch: Tensor | int | None = None,
    shift_labels: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Mean cross-entropy in nats of `labels` [B, T], each told by the token before it; -100 is not scored.

    `num_items_in_batch` takes the place of their number (gradient accumulation), `shift_labels` of labels that are
    shifted already. Logits of a whole batch are not made where the head is a plain matrix.
    """
    if shift_labels is None:
        assert labels is not None
        shift_labels = functional.pad(labels, (0, 1), value=-100)[..., 1:]
    told, flat = shift_labels.flatten(), hidden.flatten(0, 1)
    if type(head) is nn.Linear and _is_a_matrix(head) and fits(flat, head.weight):
        total = SummedLoss.apply(flat, head.weight, told)
    else:
        total = functional.cross_entropy(head(flat).float(), told, reduction="sum", ignore_index=-100)
    count = (told != -100).sum() if num_items_in_batch is None else num_items_in_batch
    return total / count


def _is_a_matrix(head: nn.Linear) -> bool:
    """Whether calling the head does nothing but multiply: no bias, nobody who watches."""
    return head.bias is None and not head._forward_hooks and not head._forward_pre_hooks
