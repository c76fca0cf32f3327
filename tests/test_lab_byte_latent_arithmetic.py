"""What a Byte Latent Transformer is trained with: torch's own numbers and gradients, made another way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from superweights.lab.byte_latent.attending import by_blocks
from superweights.lab.byte_latent.layers import local_mask, pooled
from superweights.lab.byte_latent.norming import Norm

pytestmark = pytest.mark.tiny


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def masked_attention(q, k, v, window):
    """torch's own, with a mask over all pairs."""
    whole = nn.functional.scaled_dot_product_attention(
        *(t.transpose(1, 2) for t in (q, k, v)), attn_mask=local_mask(q.shape[1], window, q)
    )
    return whole.transpose(1, 2)


@pytest.mark.parametrize(("n", "window"), [(37, 64), (300, 7), (300, 200), (128, 128), (1, 4)])
def test_blocks_of_queries_give_what_a_mask_over_all_pairs_gives_and_its_gradients(n, window):
    given = [torch.randn(2, n, 3, 8, requires_grad=True) for _ in range(3)]
    other = [t.detach().clone().requires_grad_() for t in given]
    found, expected = by_blocks(*given, window), masked_attention(*other, window)
    assert torch.allclose(found, expected, atol=1e-6)
    weight = torch.randn_like(found)
    found.backward(weight)
    expected.backward(weight)
    for ours, theirs in zip(given, other, strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


def test_gradients_of_blocks_and_norms_are_those_of_differences():
    q, k, v = (torch.randn(1, 5, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda *qkv: by_blocks(*qkv, 3), (q, k, v))
    norm = Norm(3, 1e-3, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    assert torch.autograd.gradcheck(norm, (q,))
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(norm, {"weight": w}, q), norm.weight)


def test_norms_in_training_are_those_of_torch():
    ours, theirs = Norm(16, 1e-5), nn.RMSNorm(16, 1e-5)
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 16)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert torch.equal(ours.eval()(x), theirs(x))


def test_pooling_takes_the_largest_of_each_patch_and_none_of_an_empty_one():
    x = torch.tensor([[[-1.0, 5.0], [-2.0, 1.0], [-3.0, 9.0]], [[-4.0, 0.0], [-5.0, 2.0], [-6.0, 1.0]]])
    sizes_of = torch.tensor([[1, 2], [3, 0]])
    assert pooled(x, sizes_of).tolist() == [[[-1.0, 5.0], [-2.0, 9.0]], [[-4.0, 2.0], [0.0, 0.0]]]
