"""The row '+SA' of Table 1: the super weight stays pruned, and its super activation is put back at its token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from superweights.editing import edited, zero
from superweights.errors import SuperweightsError
from superweights.record import SuperWeight
from superweights.subject import layout_of


@contextmanager
def restored(model: nn.Module, weights: Sequence[SuperWeight]) -> Iterator[None]:
    """`model` inside the `with`: `weights` pruned, and the super activation of one row of tokens as it was.

    The down-projection's output at the weight's channel is given back what the weights write there, at the one
    token where that output is largest; every other token goes without. For batches of one row without padding:
    the token is sought among all that the module is given.

    Source: arXiv 2411.07191, Table 1, 'Prune SW, +SA', and the authors' code, which takes the value from the
    full weight on the pruned model's own input, as here. We differ: any number of weights, any model. A hook on
    the product itself, because a norm may follow it before anything reaches the residual stream.
    """
    problem = cannot_restore(model, weights)
    if problem:
        raise SuperweightsError(problem, hint="leave out the row '+SA'.")
    with ExitStack() as stack:
        stack.enter_context(edited(model, zero([weight.address for weight in weights]), verify=False))
        for parameter, here in _by_parameter(weights).items():
            module = model.get_submodule(parameter.rpartition(".")[0])
            hook = module.register_forward_hook(_putting_back(here))
            stack.callback(hook.remove)
        yield


def cannot_restore(model: nn.Module, weights: Sequence[SuperWeight]) -> str | None:
    """Why the super activations of `weights` cannot be put back, or None."""
    for weight in weights:
        if weight.out_channel is None or weight.in_neuron is None:
            return f"{weight.address} made no product on the prompt, so its super activation is not known."
        if len(layout_of(model).parameter_of(weight.address)[1]) > 2:
            return (
                f"{weight.address} belongs to one expert among several, whose tokens are not told apart here."
            )
    return None


def _by_parameter(weights: Sequence[SuperWeight]) -> dict[str, list[SuperWeight]]:
    found: dict[str, list[SuperWeight]] = defaultdict(list)
    for weight in weights:
        found[str(weight.parameter)].append(weight)
    return found


def _putting_back(weights: Sequence[SuperWeight]):
    """A forward hook for the down-projection that holds `weights`."""

    def put_back(_: nn.Module, args: tuple, output: Tensor) -> Tensor:
        x, y = args[0].flatten(0, -2), output.flatten(0, -2).clone()
        for channel in {weight.out_channel for weight in weights}:
            lost = torch.stack([x[:, w.in_neuron] * w.value for w in weights if w.out_channel == channel])
            full = y[:, channel] + lost.sum(0)
            token = full.abs().argmax()
            y[token, channel] = full[token]
        return y.view_as(output)

    return put_back
