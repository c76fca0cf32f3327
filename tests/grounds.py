"""Models whose super weights are known because they were planted and measured: the ground truth of verdicts.

Test support. A tiny random model predicts nothing, so nothing could be lost; here it reads text that it wrote itself
(sampled token by token), which it predicts as well as text can be predicted. What is planted counts as truth only
if transformers' own forward, without any of this library, says so: critical alone, or critical together while no
part of it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from families import HIDDEN, tiny_model
from planting import REACH, block_of, change, early_down_projection, plant, spread, storage
from torch import Tensor, nn

ROWS, LENGTH = 32, 16
# How many times louder the last norm is made where a planted column keeps the stream quiet.
_LOUD = (40.0, 15.0, 6.0, 3.0)


@dataclass(frozen=True)
class Ground:
    """A model, its text `[rows, tokens]`, and the parameters and indices that hold it up together (one: alone).

    `expert` is the module and number of a planted super expert.
    """

    model: nn.Module
    ids: Tensor
    members: tuple[tuple[str, tuple[int, ...]], ...] = ()
    expert: tuple[str, int] | None = None


@torch.no_grad()
def sampled(model: nn.Module, seed: int = 0, rows: int = ROWS, length: int = LENGTH) -> Tensor:
    """Text that the model wrote: `[rows, length]`, sampled at temperature 1."""
    picker = torch.Generator().manual_seed(seed)
    ids = torch.randint(8, 200, (rows, 1), generator=picker)
    for _ in range(length - 1):
        chances = model(input_ids=ids, use_cache=False).logits[:, -1].float().softmax(-1)
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=picker)], 1)
    return ids


@torch.no_grad()
def loss(model: nn.Module, ids: Tensor) -> Tensor:
    """The model's loss on each row of `ids`, nats/token `[rows]`, by transformers alone."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def is_above(cost: Tensor) -> bool:
    """Whether the mean over rows is critical beyond doubt: by three standard errors."""
    return not bool(_low(cost) <= math.log(2))  # nan is ruin


def is_below(cost: Tensor) -> bool:
    """Whether the mean over rows is not critical, beyond doubt."""
    return bool(cost.mean() + 3 * cost.std() / math.sqrt(len(cost)) < math.log(2))


def _low(cost: Tensor) -> Tensor:
    """The mean over rows, less three standard errors."""
    return cost.mean() - 3 * cost.std() / math.sqrt(len(cost))


@contextmanager
def zeroed(model: nn.Module, members: Sequence[tuple[str, tuple[int, ...] | int]]) -> Iterator[None]:
    """The model without these elements (or, with a single number, without a whole expert's matrix)."""
    held = [(model.get_parameter(name), index) for name, index in members]
    kept = [parameter[index].clone() for parameter, index in held]
    with torch.no_grad():
        for parameter, index in held:
            parameter[index] = 0.0
        yield
        for (parameter, index), value in zip(held, kept, strict=True):
            parameter[index] = value


def planted_single(model_type: str, seed: int) -> Ground | None:
    """One weight that is critical alone; None where planting it did not make it so."""
    return planted_together(model_type, seed, 1)


def planted_gain(model_type: str, seed: int) -> Ground | None:
    """A norm's gain that is critical alone, in a family whose norms write the residual stream."""
    for loud in _LOUD:
        model = tiny_model(model_type, seed=seed)
        found = plant(model, sampled(model, seed), seed=seed, times=300.0)
        if found.gain is None:
            return None
        _unread(model, found.parameter, [found.out_channel], loud)
        ground = _checked(Ground(model, sampled(model, seed), ((found.gain[0], (found.out_channel,)),)))
        if ground is not None:
            return ground
    return None


def planted_expert(model_type: str, seed: int) -> Ground | None:
    """An expert of a mixture that is critical, through one weight of its down-projection, and costs more than any
    other expert, by three standard errors."""
    ground = planted_together(model_type, seed, 1)
    if ground is None:
        return None
    ((name, index),) = ground.members
    if len(index) < 3:
        return None
    base = loss(ground.model, ground.ids)
    costs = []
    for expert in range(len(ground.model.get_parameter(name))):
        with zeroed(ground.model, [(name, expert)]):
            costs.append(loss(ground.model, ground.ids) - base)
    own = costs.pop(index[0])
    # in some tiny mixtures every expert is critical: then none is super
    apart = all(not bool(_low(own - other) <= 0) for other in costs)
    found = Ground(ground.model, ground.ids, ground.members, (name.rpartition(".")[0], index[0]))
    return found if is_above(own) and apart else None


def planted_together(model_type: str, seed: int, count: int) -> Ground | None:
    """`count` weights of one column that are harmless in every smaller number, and critical together.

    They write channels that nothing reads (the norms after them have gain 0 there), so large that the norms keep all
    else quiet as long as one of them stands; the last norm's gain makes up for it, by the first of a few factors with
    which it turns out so. None where it never does.
    """
    found = (_planted_together(model_type, seed, count, loud) for loud in _LOUD)
    return next((ground for ground in found if ground is not None), None)


def _planted_together(model_type: str, seed: int, count: int, loud: float) -> Ground | None:
    model = tiny_model(model_type, seed=seed)
    name = early_down_projection(model)
    how = storage(model, name)
    if how.stacked is not None:
        return None
    ids = sampled(model, seed)
    picker = torch.Generator().manual_seed(1000 * count + seed)
    channels = torch.randperm(HIDDEN, generator=picker)[:count].tolist()
    output, inputs = spread(model, name, ids[:2], channels[0])
    used = inputs.abs().flatten(1)
    typical = used.median(0).values if inputs.ndim == 3 else used.mean(0)
    flat = int(typical.argmax())  # a neuron that fires on every token, or on most that its expert gets
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), inputs.shape[1:]))
    size = 400.0 * output[output != 0].abs().median().item() / typical.max().item()
    members = []
    with torch.no_grad():
        for number, channel in enumerate(channels):
            place = list(index)
            place[how.out_axis] = channel
            model.get_parameter(name)[tuple(place)] = size * (1 - 0.02 * number)
            members.append((name, tuple(place)))
        if not _unread(model, name, channels, loud):
            return None
    ids = sampled(model, seed)
    moved = change(model, "{}.{}".format(*block_of(name)), ids[:2])
    if not min(moved[channel] for channel in channels) > REACH * moved.median():
        return None  # a norm stands between: no single weight can make a massive activation
    return _checked(Ground(model, ids, tuple(members)))


def null_model(model_type: str, seed: int, kind: str) -> Ground | None:
    """A model without super weight: `plain`, or planted and then its matrix `shuffled`, or the weight `removed`."""
    model = tiny_model(model_type, seed=seed)
    if kind != "plain":
        found = plant(model, sampled(model, seed), seed=seed, times=300.0)
        if found.gain is not None:
            return None
        weight = model.get_parameter(found.parameter)
        with torch.no_grad():
            if kind == "removed":
                weight[found.index] = 0.0
            else:
                order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(seed))
                small = weight.clone()
                small[found.index] = small.flatten().median()
                weight.copy_(small.flatten()[order].view_as(weight))
    return Ground(model, sampled(model, seed))


def _checked(ground: Ground) -> Ground | None:
    """The ground if transformers agrees: critical with all members gone, harmless with any fewer."""
    base = loss(ground.model, ground.ids)
    for count in range(1, len(ground.members) + 1):
        for some in itertools.combinations(ground.members, count):
            with zeroed(ground.model, some):
                cost = loss(ground.model, ground.ids) - base
            whole = count == len(ground.members)
            if not (is_above(cost) if whole else is_below(cost)):
                return None
    return ground


@torch.no_grad()
def _unread(model: nn.Module, name: str, channels: list[int], loud: float) -> bool:
    """Make the norms after the block of `name` deaf to `channels`, and the last one loud; False where there is none."""
    stack, number = block_of(name)
    last = None
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        if "norm" not in type(module).__name__.lower() or weight is None or weight.shape != (HIDDEN,):
            continue
        inside = path.startswith(f"{stack}.")
        if inside and int(path[len(stack) + 1 :].split(".")[0]) <= number:
            continue
        before = weight.clone()
        weight.zero_()
        shifted = float(module(torch.ones(1, 1, HIDDEN)).abs().max()) > 0  # gains that count from 1
        weight.copy_(before)
        weight[channels] = -1.0 if shifted else 0.0
        if not inside:
            last = weight, 1.0 if shifted else 0.0
    if last is not None:
        weight, shift = last
        keep = torch.ones(HIDDEN, dtype=torch.bool)
        keep[channels] = False
        weight[keep] = loud * (weight[keep] + shift) - shift
    return last is not None
