"""Attention weights that are no softmax, in a form that taps see as they see a softmax."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from superweights.axes import Float


def weighed(
    scores: Float[Tensor, "rows heads queries keys"], weigh: Callable[[Tensor], Tensor]
) -> Float[Tensor, "rows heads queries keys"]:
    """`weigh(scores)`, the attention weights of masked scores [B, H, T, S], with the sites `logits` and `weights`.

    Whoever writes an attention without `torch.softmax` calls this, and taps show and edit what goes in and what
    comes out. Outside of taps it is the plain call.
    """
    if has_torch_function_unary(scores):
        return handle_torch_function(weighed, (scores,), scores, weigh)
    return weigh(scores)
