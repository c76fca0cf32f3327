"""A weight's contribution held at its mean, where taking it away would also take away a constant.

Zero overstates: a massive activation is nearly the same in every text, and the model relies on that constant.
Here the product `x * w` keeps its mean over the other windows at the same position, and loses only what differs
between them. Source: mean replacement in arXiv 2402.17762, section 4, and arXiv 2503.22329; there the mean of the
activation at the massive token over many sequences, here of the one product, leaving its own window out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn

from superweights.branch import Branch
from superweights.discovery.spikes import Spike
from superweights.discovery.trials import Trial
from superweights.editing import Edit
from superweights.watch import Product, watching


def held_at_mean(model: nn.Module, edit: Edit, spike: Spike) -> Trial:
    """The model with the spike's product held at its mean; `edit` zeroes the weight. Windows are of one length."""

    def branch(windows: Sequence[int]) -> Branch:
        return Branch((edit,), around=partial(_adding_mean, model, spike, len(windows)))

    return Trial(branch)


@contextmanager
def _adding_mean(model: nn.Module, spike: Spike, rows: int) -> Iterator[None]:
    """Add to the output, where the weight is zero already, the mean of its product over the other windows."""

    def see(product: Product) -> None:
        ours = product.kind == spike.kind and product.parameter == spike.parameter
        if not ours or product.y.shape[0] % rows or rows < 2:
            return
        channel, neuron = spike.out_channel, spike.in_neuron
        if product.index(channel, neuron) != spike.index:
            return
        factor = product.x[:, channel if neuron is None else neuron]
        terms = (factor * spike.value).view(rows, -1)
        means = (terms.sum(0) - terms) / (rows - 1)
        product.add(channel, means.flatten())

    with watching(model, see):
        yield
