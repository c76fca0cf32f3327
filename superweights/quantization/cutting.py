"""A tensor cut into the blocks that share a scale, and put together again."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from superweights.errors import SuperweightsError
from superweights.quantization.scheme import Blocks


def cut(tensor: torch.Tensor, blocks: Blocks, out_axis: int = 0) -> torch.Tensor:
    """The blocks of `tensor` as rows, `[blocks, elements]`; padding is 0 (False), a view where possible."""
    if blocks.kind == "tensor":
        return tensor.reshape(1, -1)
    if blocks.kind == "run":
        return tensor.reshape(-1, blocks.size[0])
    matrices = _as_matrices(tensor, out_axis)
    outputs, inputs = matrices.shape[-2:]
    if blocks.kind == "channel":
        return matrices.reshape(-1, inputs)
    if blocks.kind == "group":
        return pad(matrices, (0, -inputs % blocks.size[0])).reshape(-1, blocks.size[0])
    rows, columns = blocks.size
    padded = pad(matrices, (0, -inputs % columns, 0, -outputs % rows))
    tiles = padded.unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows)).transpose(-3, -2)
    return tiles.reshape(-1, rows * columns)


def join(cut_blocks: torch.Tensor, shape: torch.Size, blocks: Blocks, out_axis: int = 0) -> torch.Tensor:
    """The tensor of `shape` whose `cut` is `cut_blocks`; padding is dropped."""
    if blocks.kind in ("tensor", "run"):
        return cut_blocks.reshape(shape)
    matrices = _as_matrices(torch.empty(shape, device="meta"), out_axis).shape
    experts, outputs, inputs = matrices
    if blocks.kind == "channel":
        joined = cut_blocks.reshape(matrices)
    elif blocks.kind == "group":
        joined = cut_blocks.reshape(experts, outputs, -1)[..., :inputs]
    else:
        rows, columns = blocks.size
        tiles = cut_blocks.reshape(experts, -(-outputs // rows), -(-inputs // columns), rows, columns)
        joined = tiles.transpose(-3, -2).flatten(-2, -1).flatten(-3, -2)[:, :outputs, :inputs]
    if len(shape) > 1 and out_axis % len(shape) == len(shape) - 1:
        joined = joined.transpose(-2, -1)
    return joined.reshape(shape).contiguous()


def check_blocks(shape: torch.Size, blocks: Blocks, out_axis: int) -> None:
    """Raise `SuperweightsError` where a tensor of `shape` cannot be cut like this."""
    if len(shape) not in (1, 2, 3):
        raise SuperweightsError(
            f"A tensor of shape {list(shape)} is no linear map.",
            hint="vectors, matrices and stacks of matrices (fused experts) can be quantized.",
        )
    axes = {1: {0}, 2: {0, 1}, 3: {1, 2}}[len(shape)]
    if out_axis % len(shape) not in axes or not -len(shape) <= out_axis < len(shape):
        raise SuperweightsError(
            f"Axis {out_axis} of a tensor of shape {list(shape)} cannot be its output channels.",
            hint="0 for Linear, 1 for GPT-2's Conv1D; 1 or 2 for stacked experts, whose axis 0 counts experts.",
        )
    if blocks.kind == "run" and shape.numel() % blocks.size[0]:
        raise SuperweightsError(
            f"Runs of {blocks.size[0]} elements do not divide a tensor of {shape.numel()} elements.",
            hint="groups and tiles are padded; paper_compat=True takes one block for the tensor, as published.",
        )


def _as_matrices(tensor: torch.Tensor, out_axis: int) -> torch.Tensor:
    """`tensor` as `[experts, outputs, inputs]`."""
    if tensor.dim() == 1:
        return tensor.reshape(1, 1, -1)
    if out_axis % tensor.dim() == tensor.dim() - 1:
        tensor = tensor.transpose(-2, -1)
    return tensor.reshape(-1, *tensor.shape[-2:])
