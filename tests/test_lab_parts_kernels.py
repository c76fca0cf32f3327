"""The training kernels on CPU: torch's numbers, and the gradients of finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from superweights.lab.models.loss import next_token_loss
from superweights.lab.parts import cpu_kernels
from superweights.lab.parts.cpu_kernels import GatedSiLU, RMSNormGrad, Rotate, SummedLoss, fits

pytestmark = pytest.mark.unit


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_rms_norm_is_torchs_with_the_gradient_of_finite_differences():
    x, gain = drawn(2, 3, 8), drawn(8, seed=1)
    torch.testing.assert_close(RMSNormGrad.apply(x, gain, 1e-5), functional.rms_norm(x, (8,), gain, 1e-5))
    assert torch.autograd.gradcheck(lambda x, gain: RMSNormGrad.apply(x, gain, 1e-5), (x, gain))


def test_a_gated_silu_is_the_product_with_the_gradient_of_finite_differences():
    gate, up = drawn(3, 5), drawn(3, 5, seed=1)
    torch.testing.assert_close(GatedSiLU.apply(gate, up), functional.silu(gate) * up)
    assert torch.autograd.gradcheck(GatedSiLU.apply, (gate, up))


def test_a_rotation_is_linear_and_its_gradient_is_the_rotation_back():
    angles = drawn(1, 1, 4, 3).detach().repeat(1, 1, 1, 2)
    heads = drawn(2, 2, 4, 6, seed=1)
    assert torch.autograd.gradcheck(lambda h: Rotate.apply(h, angles.cos(), angles.sin()), (heads,))


def test_the_chunked_loss_is_cross_entropy_with_its_gradients(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "ROWS", 4)
    hidden, head = drawn(11, 6), drawn(9, 6, seed=1)
    labels = torch.randint(0, 9, (11,), generator=torch.Generator().manual_seed(2))
    labels[[0, 7]] = -100
    ours = SummedLoss.apply(hidden, head, labels)
    theirs = functional.cross_entropy(hidden @ head.T, labels, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(*(torch.autograd.grad(3 * x, (hidden, head)) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)


def test_the_chunked_loss_of_a_frozen_head_still_teaches_what_is_below():
    hidden, head = drawn(5, 6), drawn(9, 6, seed=1).detach()
    labels = torch.arange(5)
    (ours,) = torch.autograd.grad(SummedLoss.apply(hidden, head, labels), hidden)
    (theirs,) = torch.autograd.grad(
        functional.cross_entropy(hidden @ head.T, labels, reduction="sum"), hidden
    )
    torch.testing.assert_close(ours, theirs)


def test_a_head_that_is_more_than_a_matrix_is_called():
    head = nn.Linear(6, 9, bias=False)
    called: list[int] = []
    head.register_forward_hook(lambda *_: called.append(1))
    hidden, labels = torch.randn(1, 5, 6, requires_grad=True), torch.randint(0, 9, (1, 5))
    hooked = next_token_loss(hidden, head, labels)
    assert called
    head._forward_hooks.clear()
    torch.testing.assert_close(hooked, next_token_loss(hidden, head, labels))
    assert len(called) == 1


def test_the_kernels_keep_out_where_torch_must_decide():
    x = torch.randn(2, 3, requires_grad=True)
    assert fits(x)
    with torch.no_grad():
        assert not fits(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not fits(x)
    assert not fits(x, x.bfloat16())
    assert not fits(x.detach())
