"""What goes on inside the blocks: against hooks and sums written here."""

from __future__ import annotations

import pytest
import torch

from superweights.lab.architecture import Architecture
from superweights.lab.inner import inner_numbers
from superweights.lab.models.building import build

pytestmark = pytest.mark.unit

IDS = torch.randint(0, 64, (4, 24), generator=torch.Generator().manual_seed(0))


def looked_into(architecture):
    """The model, the inputs of its down-projections and its blocks' outputs on `IDS`."""
    model = build(architecture, 0).eval()
    hidden, streams = [], []
    for name, module in model.named_modules():
        if name.endswith("down_proj"):
            module.register_forward_pre_hook(lambda _, given: hidden.append(given[0].detach()))
        if name.rpartition(".")[0].endswith("layers"):
            module.register_forward_hook(
                lambda *given: streams.append(given[-1][0] if isinstance(given[-1], tuple) else given[-1])
            )
    with torch.no_grad():
        model(input_ids=IDS)
    return model, hidden[:], streams[:]


def test_neurons_and_variance_are_those_of_the_model():
    model, hidden, streams = looked_into(Architecture(layers=3, gated=False, activation="relu"))
    found = inner_numbers(model, IDS)
    assert len(hidden) == len(streams) == 3
    assert found["neuron_peak"] == pytest.approx(max(h.abs().max().item() for h in hidden))
    assert found["neuron_zeros"] == pytest.approx(
        sum((h == 0).float().mean().item() for h in hidden) / 3, rel=1e-5
    )
    spreads = [h[:, 1:].var(-1, unbiased=False).mean().item() for h in streams]
    assert found["variance_growth"] == pytest.approx(spreads[-1] / spreads[0], rel=1e-4)


def test_a_block_that_adds_nothing_is_worth_nothing_and_symmetric_weights_do_not_drift():
    model, _, _ = looked_into(Architecture(layers=3))
    last = [
        p for name, p in model.named_parameters() if ".2." in name and ("o_proj" in name or "down" in name)
    ]
    assert last, "the last block's writers"
    with torch.no_grad():
        for parameter in last:
            parameter.zero_()
    found = inner_numbers(model, IDS)
    assert found["late_removal"] == pytest.approx(0.0, abs=1e-6)
    drifted = build(Architecture(layers=3), 0).eval()
    with torch.no_grad():
        for name, parameter in drifted.named_parameters():
            if "down_proj" in name:
                parameter.sub_(parameter.std())
    assert abs(inner_numbers(build(Architecture(layers=3), 0).eval(), IDS)["down_drift"]) < 0.05
    assert inner_numbers(drifted, IDS)["down_drift"] == pytest.approx(-1, abs=0.05)
