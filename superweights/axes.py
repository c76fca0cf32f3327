"""Shapes of tensors in annotations: `Float[Tensor, "rows tokens"]` is a floating-point tensor of two axes.

One name is one length throughout a call; `...` is any number of axes, `1` is exactly one. The axes' names, the same in
every room:

| axis | is |
|---|---|
| n, length | windows of a text, tokens of each |
| rows, tokens | rows of a batch, tokens of each (position 0 is the first) |
| width | channels of the residual stream |
| channels, outputs | inputs and outputs of a linear layer |
| heads, key_heads, queries, keys, head_width | of attention |
| blocks, elements | weights that share a scale, and the weights of each |
| vocabulary | tokens that the model knows |
| B, T, L, H, H_kv, S, d, d_h, V | in anatomy: see `superweights.interpretability` |

The shapes are checked in tests only (`make shapes`), by jaxtyping's import hook. Annotations are never evaluated
otherwise, so that nothing but the tests needs jaxtyping. Source: jaxtyping, https://docs.kidger.site/jaxtyping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Unchecked:
            """Stands where a shape would: any tensor will do."""

            def __class_getitem__(cls, item: Any) -> type:
                return Tensor

        Bool = Float = Int = _Unchecked

__all__ = ["Bool", "Float", "Int", "Tensor"]
