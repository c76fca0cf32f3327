"""Units: the outputs of the linear layers of every MLP, seen prompt by prompt, and set to zero.

Source: arXiv 2502.17355 takes the raw outputs of gate, up and down projection, before the activation function. Which
layers these are is told from where the down-projection stands: the linear layers beside it in its module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from superweights.errors import SuperweightsError
from superweights.interpretability.body import Body
from superweights.subject import device_of
from superweights.taps import Site

POOLS = ("mean", "last")


def unit_modules(body: Body) -> dict[str, tuple[int, int]]:
    """The linear layers of every MLP by path: the layer each is in, and how many units (outputs) it has.

    Raises `SuperweightsError` for models whose MLPs are not made of linear layers (experts).
    """
    found: dict[str, tuple[int, int]] = {}
    for layer in range(body.layers):
        down = body.sites.place(Site("mlp_act", layer)).path
        parent = down.rpartition(".")[0]
        for name, module in body.model.get_submodule(parent).named_children():
            if isinstance(module, nn.Linear | Conv1D):
                found[f"{parent}.{name}"] = (layer, _outputs(module))
    return found


@torch.no_grad()
def unit_values(
    model: nn.Module, paths: Mapping[str, Any], prompts: list[list[int]], pool: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What each unit says of each prompt, `[prompts, units]` by path, and its largest |value| at any token `[units]`.

    `pool` is the mean over the prompt's tokens, or its last. Prompts of one length run together, without padding.
    """
    if pool not in POOLS:
        raise SuperweightsError(f"There is no pool {pool!r}.", hint=f"choose one of {', '.join(POOLS)}.")
    values: dict[str, Tensor] = {}
    peaks: dict[str, Tensor] = {}
    rows: list[int] = []

    def note(path: str, out: Tensor) -> None:
        held = out.detach().float()
        pooled = held.mean(1) if pool == "mean" else held[:, -1]
        values.setdefault(path, torch.empty(len(prompts), pooled.shape[1]))[rows] = pooled.cpu()
        peak = held.abs().amax((0, 1)).cpu()
        peaks[path] = torch.maximum(peaks[path], peak) if path in peaks else peak

    hooks = [
        model.get_submodule(path).register_forward_hook(partial(_noted, note, path, rows)) for path in paths
    ]
    try:
        for batch, ids in by_length(prompts):
            rows[:] = batch
            model(input_ids=ids.to(device_of(model)), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return values, peaks


@contextmanager
def units_zeroed(model: nn.Module, units: Mapping[str, Tensor]) -> Iterator[None]:
    """`model` with these outputs of its linear layers (indices `[k]` by path) at 0, at every token."""

    def zero(out: Tensor, at: Tensor) -> Tensor:
        out = out.clone()
        out[..., at.to(out.device)] = 0
        return out

    hooks = [
        model.get_submodule(path).register_forward_hook(partial(_changed, zero, at))
        for path, at in units.items()
        if len(at)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def by_length(prompts: list[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
    """Prompts in batches of one length: which they are, and their ids `[rows, length]`."""
    lengths: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        lengths.setdefault(len(prompt), []).append(number)
    for rows in lengths.values():
        for start in range(0, len(rows), 32):
            batch = rows[start : start + 32]
            yield batch, torch.tensor([prompts[row] for row in batch])


def _outputs(module: nn.Module) -> int:
    return module.nf if isinstance(module, Conv1D) else int(module.out_features)  # type: ignore[arg-type]


def _noted(
    note: Callable[[str, Tensor], None], path: str, rows: Sequence[int], module: Any, args: Any, out: Tensor
) -> None:
    note(path, out.reshape(len(rows), -1, out.shape[-1]))


def _changed(
    change: Callable[[Tensor, Tensor], Tensor], at: Tensor, module: Any, args: Any, out: Tensor
) -> Tensor:
    return change(out, at)
