"""Attention with a null slot without a matrix of weights, at the speed of the attention kernel below.

With L = logsumexp of a row's scores and e its null logit, `softmax_with_null(S, e) V = sigmoid(L - e) softmax(S) V`:
any kernel that gives L gives every kind of null slot. Its backward needs nothing more either: handed the sum of all
exponentials, the slot's among them, in the place of L, and the whole output in the place of its own, the kernel's
backward is that of softmax with the slot, since dS = P (dP - rowsum(dO O)) with the P and O of the wider softmax.

On CPU the kernel is torch's own flash attention. Elsewhere the slot is a key more in front of the others, its logit
carried by a coordinate more, on whatever kernel `scaled_dot_product_attention` picks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_PADDING = 8  # coordinates by which a head grows; kernels want multiples of eight


def attend_with_null(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    null_logit: Tensor,
    null_value: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scaling: float,
) -> Tensor:
    """Output [B, H, T, d_h] of attention whose softmax has a null slot.

    `query` [B, H, T, d_h], `key` and `value` [B, H, S, d_h]; `null_logit` broadcasts to [B, H, T], `null_value` is
    [H, d_h] or None for zero; `mask` broadcasts to [B, H, T, S], bool or additive; `causal` needs T = S and no mask.
    """
    query, key = (
        query.to(value.dtype),
        key.to(value.dtype),
    )  # positions may have made them wider under autocast
    mask = additive(mask, query.dtype)
    same_width = query.shape[-1] == value.shape[-1]
    if query.device.type == "cpu" and same_width:
        logits = null_logit.expand(query.shape[:3])
        return _OnFlash.apply(query, key, value, logits, null_value, mask, causal, scaling)  # type: ignore[return-value]
    return attend_by_extra_key(query, key, value, null_logit, null_value, mask, causal, scaling)


def additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask to be added to scores: -inf where a bool mask is False or an additive one is at its dtype's minimum."""
    if mask is None:
        return None
    keep = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    held = torch.zeros((), dtype=dtype, device=mask.device) if mask.dtype == torch.bool else mask.to(dtype)
    return torch.where(keep, held, -torch.inf)


class _OnFlash(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        null_logit: Tensor,
        null_value: Tensor | None,
        mask: Tensor | None,
        causal: bool,
        scaling: float,
    ) -> Tensor:
        out, total = _FLASH(query, key, value, 0.0, causal, attn_mask=mask, scale=scaling)
        null = null_logit.to(total.dtype)
        wider = torch.logaddexp(total, null)
        out = out * (total - wider).exp_().to(out.dtype)[..., None]
        if null_value is not None:
            out = out + (null - wider).exp_().to(out.dtype)[..., None] * null_value[:, None].to(out.dtype)
        ctx.save_for_backward(query, key, value, null, null_value, mask, out, wider)
        ctx.causal, ctx.scaling, ctx.null_dtype = causal, scaling, null_logit.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, null, null_value, mask, out, wider = ctx.saved_tensors
        (grad,) = grads
        inner = _FLASH_BACKWARD(
            grad, query, key, value, out, wider, 0.0, ctx.causal, attn_mask=mask, scale=ctx.scaling
        )
        grad_null = grad_null_value = None
        if ctx.needs_input_grad[3] or null_value is not None:
            share = (null - wider).exp()
            told = -torch.einsum("bhtd,bhtd->bht", grad, out)
            if null_value is not None:
                told = told + torch.einsum("bhtd,hd->bht", grad, null_value.to(grad.dtype))
                grad_null_value = torch.einsum("bht,bhtd->hd", share.to(grad.dtype), grad).to(
                    null_value.dtype
                )
            grad_null = (share * told).to(ctx.null_dtype)
        return *inner, grad_null, grad_null_value, None, None, None


def attend_by_extra_key(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    null_logit: Tensor,
    null_value: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    scaling: float,
) -> Tensor:
    """The same on any device: one key more, in front, that meets the null logit in a coordinate of its own.

    A causal kernel lets the first query see the first key; so a query is put in front too, and its output dropped.
    """
    batch, heads, tokens, width = query.shape
    wide = max(width + _PADDING, value.shape[-1])  # kernels want heads of one width
    carried = (null_logit.expand(batch, heads, tokens) / scaling).to(query.dtype)[..., None]
    query = functional.pad(torch.cat((query, carried), -1), (0, wide - width - 1))
    null_key = query.new_zeros((batch, heads, 1, wide))
    null_key[..., width] = 1
    key = torch.cat((null_key, functional.pad(key, (0, wide - width))), 2)
    first = value.new_zeros((heads, value.shape[-1])) if null_value is None else null_value.to(value.dtype)
    value = torch.cat((first[None, :, None].expand(batch, -1, -1, -1), value), 2)
    if mask is not None:
        mask = functional.pad(mask, (1, 0))
    if causal:
        query = functional.pad(query, (0, 0, 1, 0))
    padded = functional.pad(value, (0, wide - value.shape[-1]))
    out = functional.scaled_dot_product_attention(
        query, key, padded, attn_mask=mask, is_causal=causal, scale=scaling
    )
    return out[..., int(causal) :, : value.shape[-1]]
