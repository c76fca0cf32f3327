"""The measuring of branches: against torch's own losses, and in memory that is given back."""

from __future__ import annotations

import families
import pytest
import torch
from torch.nn import functional

from superweights.address import Address
from superweights.branch import Branch, branching
from superweights.discovery.proof import measure
from superweights.editing import Edit, edited
from superweights.stream import device
from superweights.subject import NextToken

LARGER = Edit(Address("model.layers.1.mlp.down_proj.weight", (3, 5)), value=30.0)
OTHER = Edit(Address("model.layers.0.mlp.down_proj.weight", (1, 2)), factor=0.0)


@pytest.mark.tiny
def test_loss_and_divergence_are_torchs_own():
    model, ids = families.tiny_model("llama"), families.token_ids(3, 12)
    branches = [Branch((LARGER,)), Branch((OTHER,))]
    with torch.no_grad():
        base = functional.log_softmax(model(ids).logits[:, :-1], -1)
        with edited(model, LARGER):
            other = functional.log_softmax(model(ids).logits[:, :-1], -1)
    targets = ids[:, 1:]
    assert model.config.use_cache  # branches must not read each other's keys and values
    with branching(model, branches) as run:
        run.pass_over(NextToken().batch(ids, whole=True))
        loss, effects = measure(run, branches, NextToken(), loss_only={branches[1]})
    losses = [
        functional.nll_loss(each.transpose(1, 2), targets, reduction="none").mean(1) for each in (base, other)
    ]
    kl = functional.kl_div(other, base, log_target=True, reduction="none").sum(-1).mean(1)
    torch.testing.assert_close(loss, losses[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(effects[0].loss, losses[1] - losses[0], rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(effects[0].kl, kl, rtol=1e-3, atol=1e-6)
    assert kl.max() > 0.01
    assert effects[1].kl is None


def anonymous_memory() -> int:
    """Bytes of this process that are no file's."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.unit
@pytest.mark.skipif(device._trim is None, reason="this C library has no malloc_trim")
def test_freed_memory_between_held_blocks_goes_back_to_the_system():
    large = torch.ones(7 << 20)  # 28 MB: once freed, glibc takes blocks of up to this size from its heap
    del large
    blocks = [torch.ones(1 << 18) for _ in range(200)]
    held = blocks[1::2]
    del blocks
    before = anonymous_memory()
    device.give_back_memory()
    assert before - anonymous_memory() > 80 << 20  # of the 100 MB between the blocks that are held
    assert len(held) == 100
