"""The blocks of all four stacks, with the parameter names of transformers' BLT, so that its weights load as they are.

Why they are written anew: rotations are one complex product, attention within a window looks at two windows of bytes
and not at all of them, patches are pooled as what stands side by side, and the two cross-attentions know that a patch
has only its own bytes, and a byte only one patch. Tested equal to transformers'.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.blt.modeling_blt import eager_attention_forward

from superweights.lab.byte_latent.attending import by_blocks
from superweights.lab.byte_latent.norming import Norm


class SelfAttention(nn.Module):
    """Causal attention, rotated in neighbouring pairs, within `window` bytes where there is one.

    Goes through transformers' attention interface, but for what `sdpa` is slow at: long rows are cut into windows, and
    training on a processor goes block by block.
    `config` has the sizes of the stack, `whole` is the model's config, which names the attention in use.
    """

    def __init__(self, config: Any, whole: Any, layer: int, window: int | None):
        super().__init__()
        self.config, self.layer_idx, self.is_causal, self.window = whole, layer, True, window
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.hidden_size // self.heads
        self.num_key_value_groups, self.scaling = self.heads // self.kv_heads, self.head_dim**-0.5
        d, kv = config.hidden_size, self.kv_heads * self.head_dim
        self.q_proj, self.o_proj = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.k_proj, self.v_proj = nn.Linear(d, kv, bias=False), nn.Linear(d, kv, bias=False)

    def forward(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Any]:
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotated(q, turns), rotated(k, turns)
        name, n = self.config._attn_implementation or "eager", x.shape[1]
        if name == "sdpa" and self.window is not None and (near := self._near(x)):
            repeat = self.num_key_value_groups
            k, v = (t if repeat == 1 else t.repeat_interleave(repeat, -2) for t in (k, v))
            return self.o_proj(near(q, k, v, self.window).flatten(-2)), None
        attend: Any = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        mask = None if name == "sdpa" else local_mask(n, self.window, x)
        qkv = (t.transpose(1, 2) for t in (q, k, v))
        heads, weights = attend(self, *qkv, mask, scaling=self.scaling, dropout=0.0)
        return self.o_proj(heads.flatten(-2)), weights

    def _near(self, x: Tensor) -> Any:
        """What attends within the window for less than the interface does: in training on a processor, in long rows."""
        if self.training and x.device.type == "cpu":
            return by_blocks
        return by_windows if self.window is not None and x.shape[1] > self.window else None


class Mlp(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: Any):
        super().__init__()
        d, inner = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj = nn.Linear(d, inner, bias=False), nn.Linear(d, inner, bias=False)
        self.down_proj = nn.Linear(inner, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(GradientCheckpointingLayer):
    """A Llama block; the same in the entropy model, the encoder, the latent transformer and the decoder."""

    def __init__(self, config: Any, whole: Any, layer: int, window: int | None = None):
        super().__init__()
        self.self_attn, self.mlp = SelfAttention(config, whole, layer, window), Mlp(config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turns)[0]
        return x + self.mlp(self.post_attention_layernorm(x))


class CrossAttention(nn.Module):
    """What both cross-attentions share: RMSNorm on queries and on what is read, no rotation.

    `residual`: `released` returns the input beside what was read, to which the caller adds the input again (2x + out);
    `paper` leaves the one addition to the caller.
    """

    def __init__(self, config: Any, residual: str):
        super().__init__()
        self.heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.heads
        self.kv_heads, self.twice = config.num_key_value_heads, residual == "released"
        d, kv = config.hidden_size, self.kv_heads * self.head_dim
        self.q_proj, self.o_proj = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.k_proj, self.v_proj = nn.Linear(d, kv, bias=False), nn.Linear(d, kv, bias=False)
        self.q_norm, self.k_norm = Norm(d, config.rms_norm_eps), Norm(d, config.rms_norm_eps)

    def queries(self, x: Tensor) -> Tensor:
        """`[..., H, d_h]`, scaled."""
        return self.q_proj(self.q_norm(x)).unflatten(-1, (-1, self.head_dim)) * self.head_dim**-0.5

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[..., H, d_h]` each, shared key and value heads repeated."""
        normed, repeat = self.k_norm(x), self.heads // self.kv_heads
        k, v = (p(normed).unflatten(-1, (-1, self.head_dim)) for p in (self.k_proj, self.v_proj))
        return (k, v) if repeat == 1 else (k.repeat_interleave(repeat, -2), v.repeat_interleave(repeat, -2))

    def written(self, heads: Tensor, x: Tensor) -> Tensor:
        out = self.o_proj(heads.flatten(-2))
        return out + x if self.twice else out


class PatchesReadBytes(CrossAttention):
    """The encoder's: the `k` sub-vectors of a patch attend to the bytes of that patch only."""

    def forward(self, patches: Tensor, x: Tensor, inside: Tensor) -> Tensor:
        """`patches [B, P, k, D]`, bytes `x [B, N, D]`, `inside [B, N]` their patch: what is added, `[B, P, k, D]`."""
        rows, count, parts, _ = patches.shape
        flat = (inside + count * torch.arange(rows, device=x.device)[:, None]).flatten()
        q = self.queries(patches).flatten(0, 1)
        k, v = (t.flatten(0, 1)[:, None] for t in self.keys_and_values(x))
        logits = (q.index_select(0, flat) * k).sum(-1)  # [B N, k, H]
        most = _most(logits.detach(), flat, rows * count)
        weights = (logits - most.index_select(0, flat)).exp()
        shape = (rows * count, parts, self.heads)
        total = weights.new_zeros(shape).index_add(0, flat, weights)
        summed = v.new_zeros(*shape, self.head_dim).index_add(0, flat, weights[..., None] * v)
        heads = summed / total.clamp_min(1e-30)[..., None]
        return self.written(heads.unflatten(0, (rows, count)), patches)


class BytesReadPatch(CrossAttention):
    """The decoder's: each byte attends to the `k` sub-vectors of one patch, the last complete one."""

    def forward(self, x: Tensor, patches: Tensor, read: Tensor) -> Tensor:
        """Bytes `x [B, N, D]`, `patches [B, P, k, D]`, `read [B, N]` the patch of each byte: `[B, N, D]`."""
        rows, count = patches.shape[:2]
        flat = (read + count * torch.arange(rows, device=x.device)[:, None]).flatten()
        q = self.queries(x).flatten(0, 1)[:, None]
        k, v = (t.flatten(0, 1).index_select(0, flat) for t in self.keys_and_values(patches))
        weights = (q * k).sum(-1).softmax(1)  # [B N, k, H]
        heads = (weights[..., None] * v).sum(1)
        return self.written(heads.unflatten(0, (rows, -1)), x)


def local_mask(n: int, window: int | None, like: Tensor) -> Tensor:
    """Which bytes each byte sees, `[1, 1, N, N]` to add to the logits: itself and the `window - 1` before it."""
    place = torch.arange(n, device=like.device)
    back = place[:, None] - place
    seen = (back >= 0) if window is None else (back >= 0) & (back < window)
    return like.new_zeros(n, n).masked_fill(~seen, torch.finfo(like.dtype).min)[None, None]


def by_windows(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention of `[B, N, H, d_h]` within `window` positions: each window attends to itself and the one before.

    What a mask over all N x N pairs would give, for 2 x window keys a byte.
    """
    rows, n = q.shape[:2]
    cut = -(-n // window)
    q, k, v = (_in_windows(t, cut, window) for t in (q, k, v))
    with_previous = (torch.cat([functional.pad(t, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], t], 2) for t in (k, v))
    back = torch.arange(window, 2 * window, device=q.device)[:, None] - torch.arange(
        2 * window, device=q.device
    )
    seen = ((back >= 0) & (back < window)).repeat(cut, 1, 1)
    seen[0, :, :window] = False  # nothing stands before the first window
    mask = q.new_zeros(seen.shape).masked_fill(~seen, float("-inf")).repeat(rows, 1, 1)[:, None]
    parts = (t.flatten(0, 1).transpose(1, 2) for t in (q, *with_previous))
    out = functional.scaled_dot_product_attention(*parts, attn_mask=mask)
    return out.transpose(1, 2).reshape(rows, cut * window, *out.shape[1:2], out.shape[-1])[:, :n]


def _in_windows(x: Tensor, cut: int, window: int) -> Tensor:
    """`[B, N, H, d_h]` as `[B, windows, window, H, d_h]`, zeros at the end."""
    return functional.pad(x, (0, 0, 0, 0, 0, cut * window - x.shape[1])).unflatten(1, (cut, window))


def turns(positions: Tensor, width: int, theta: float) -> Tensor:
    """The rotations `[.., N, 1, width / 2]` of these positions as unit complex numbers."""
    speed = theta ** -(torch.arange(0, width, 2, device=positions.device).float() / width)
    angle = positions[..., None].float() * speed
    return torch.polar(torch.ones_like(angle), angle)[..., None, :]


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """`x [B, N, H, d]` with neighbouring numbers turned as one complex number."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def pooled(x: Tensor, lengths: Tensor) -> Tensor:
    """The largest value of each channel among the bytes of each patch, `[B, P, D]`; 0 for a patch without bytes.

    Bytes `x [B, N, D]` stand patch after patch, `lengths [B, P]` of them in each.
    """
    found = torch.segment_reduce(x, "max", lengths=lengths, axis=1, unsafe=True)
    return found.masked_fill((lengths == 0)[..., None], 0.0)


def _most(values: Tensor, flat: Tensor, count: int) -> Tensor:
    """The largest of each group, `[count, ...]`, for a softmax that does not overflow."""
    index = flat.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    start = values.new_zeros(count, *values.shape[1:])
    return start.scatter_reduce(0, index, values, "amax", include_self=False)
