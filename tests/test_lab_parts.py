"""Parts of lab models against closed forms and other people's code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.lab.architecture import Architecture
from superweights.lab.models.config import LabConfig
from superweights.lab.models.positions import rotated, turns
from superweights.lab.parts.activations import ACTIVATION, CLIP
from superweights.lab.parts.blockwise import attend_in_blocks
from superweights.lab.parts.differential import Difference, DifferenceV2
from superweights.lab.parts.gates import OutputGate
from superweights.lab.parts.kernels import EluMap, MLPMap, over_size, over_sum
from superweights.lab.parts.kinds import ACTIVATIONS, ATTENTION, NORMS
from superweights.lab.parts.lime import Router
from superweights.lab.parts.norms import make_norm
from superweights.lab.parts.null_kernel import attend_by_extra_key, attend_with_null
from superweights.lab.parts.null_slot import NullSlot, softmax_with_null
from superweights.lab.parts.rectified import LengthScale, rectified, softpick
from superweights.lab.parts.sigmoid import sigmoid_log
from superweights.lab.parts.weighing import WEIGH

pytestmark = pytest.mark.unit

B, H, T, D = 2, 3, 19, 8
SCALING = D**-0.5


def drawn(*shape: int, seed: int = 0, **more) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **more)


def heads() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (drawn(B, H, T, D, seed=seed) for seed in range(3))
    return 3 * q, k, v


def causal_scores(q: Tensor, k: Tensor) -> Tensor:
    past = torch.ones(q.shape[-2], k.shape[-2]).tril().bool()
    return (q @ k.transpose(-1, -2) * SCALING).masked_fill(~past, -torch.inf)


def with_zero_key_and_value(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """SDPA over one key more, zero, with the value zero."""
    zero = torch.zeros(B, H, 1, D)
    past = functional.pad(torch.ones(T, T).tril(), (1, 0), value=1).bool()
    return functional.scaled_dot_product_attention(q, torch.cat((zero, k), 2), torch.cat((zero, v), 2), past)


# the null slot


def test_softmax1_is_sdpa_with_a_zero_key_and_value():
    q, k, v = heads()
    ours = softmax_with_null(causal_scores(q, k), torch.zeros(1)) @ v
    torch.testing.assert_close(ours, with_zero_key_and_value(q, k, v))


def test_softmax1_is_x_transformers_zero_key_and_value():
    attend = pytest.importorskip("x_transformers.attend").Attend(causal=True, heads=H, add_zero_kv=True)
    q, k, v = heads()
    torch.testing.assert_close(softmax_with_null(causal_scores(q, k), torch.zeros(1)) @ v, attend(q, k, v)[0])


def test_the_sink_logit_is_x_transformers_learned_sink():
    attend = pytest.importorskip("x_transformers.attend").Attend(causal=True, heads=H, head_learned_sink=True)
    q, k, v = heads()
    slot = NullSlot("logit", H, D, value=False)
    with torch.no_grad():
        slot.logit.copy_(attend.head_attn_sink.copy_(drawn(H)))
    weights = softmax_with_null(causal_scores(q, k), slot(q, SCALING))
    torch.testing.assert_close(weights @ v, attend(q, k, v)[0])


def test_the_sink_logit_is_that_of_gpt_oss():
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    q, k, v = heads()
    module = nn.Module()
    module.num_key_value_groups, module.sinks = 1, drawn(H, seed=4)
    mask = torch.full((T, T), -torch.inf).triu(1)
    theirs, weights = eager_attention_forward(module, q, k, v, mask, scaling=SCALING)
    ours = softmax_with_null(causal_scores(q, k), module.sinks[:, None])
    torch.testing.assert_close(ours, weights)
    torch.testing.assert_close((ours @ v).transpose(1, 2), theirs)


def test_a_k_bias_of_zero_is_softmax1():
    q, k, _ = heads()
    scores = causal_scores(q, k)
    slot = NullSlot("key", H, D, value=False)
    torch.testing.assert_close(
        softmax_with_null(scores, slot(q, SCALING)), softmax_with_null(scores, torch.zeros(1))
    )


def test_softmax1_does_not_overflow_and_a_row_of_masks_is_zero():
    huge = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [-torch.inf] * 3])
    found = softmax_with_null(huge, torch.zeros(1))
    assert torch.equal(found, torch.tensor([[1.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3]))


def plainly(q: Tensor, k: Tensor, v: Tensor, null: Tensor, null_value: Tensor | None, past: Tensor) -> Tensor:
    """Softmax with a null slot written as a softmax over one column more."""
    scores = (q @ k.transpose(-1, -2) * SCALING).masked_fill(~past, -torch.inf)
    weights = torch.cat((null[..., None], scores), -1).softmax(-1)
    first = torch.zeros(H, D) if null_value is None else null_value
    return weights @ torch.cat((first[None, :, None].expand(B, -1, -1, -1), v), 2)


@pytest.mark.parametrize("kernel", [attend_with_null, attend_by_extra_key], ids=["flash", "extra key"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("valued", [False, True])
def test_the_null_kernels_and_their_gradients_are_those_of_one_column_more(kernel, masked, valued):
    held = [*heads(), drawn(B, H, T, seed=5), drawn(H, D, seed=6)]
    held = [x.requires_grad_() for x in held]
    q, k, v, null, value = held
    value = value if valued else None
    past = torch.ones(T, T).tril().bool()
    past[5:, 2] = False  # a mask that causality alone does not give
    mask = torch.where(past, 0.0, -torch.inf)[None, None] if masked else None
    how = {"mask": mask, "causal": not masked, "scaling": SCALING}
    ours = kernel(q, k, v, null, value, **how)
    theirs = plainly(q, k, v, null, value, past if masked else torch.ones(T, T).tril().bool())
    torch.testing.assert_close(ours, theirs)
    wanted = [x for x in (q, k, v, null, value) if x is not None]
    told = drawn(B, H, T, D, seed=7)
    for one, other in zip(
        torch.autograd.grad(ours, wanted, told), torch.autograd.grad(theirs, wanted, told), strict=True
    ):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_sigmoid_of_logsumexp_times_softmax_is_softmax1():
    q, k, v = heads()
    scores = causal_scores(q, k)
    share = torch.sigmoid(scores.logsumexp(-1, keepdim=True))
    torch.testing.assert_close(
        share * (scores.softmax(-1) @ v), softmax_with_null(scores, torch.zeros(1)) @ v
    )


# weights that are no softmax


@pytest.mark.parametrize("name", WEIGH)
def test_masked_scores_get_no_weight_and_no_gradient(name):
    scores = causal_scores(*heads()[:2]).requires_grad_()
    weights = WEIGH[name](scores)
    weights.square().sum().backward()
    future = torch.ones(T, T).triu(1).bool()
    assert not weights[..., future].any()
    assert scores.grad is not None
    assert not scores.grad[..., future].any()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("name", [n for n in WEIGH if ATTENTION[n].sums_to_one])
def test_rows_add_up_to_one_where_the_table_says_so(name):
    weights = WEIGH[name](causal_scores(*(x.abs() for x in heads()[:2])))
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, T))


def test_sigmoid_is_x_transformers():
    attend = pytest.importorskip("x_transformers.attend").Attend(causal=True, heads=H, sigmoid=True)
    q, k, v = heads()
    torch.testing.assert_close(WEIGH["sigmoid"](causal_scores(q, k)) @ v, attend(q, k, v)[0])


def test_sigmoid_log_of_equal_scores_is_a_mean_that_hardly_knows_the_length():
    zero = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    n = torch.arange(1, 6.0)
    torch.testing.assert_close(sigmoid_log(zero).sum(-1), n / (1 + n))


def test_softpick_is_its_definition_in_float64():
    scores = causal_scores(*heads()[:2]).double()
    rising = scores.exp() - 1
    theirs = rising.clamp(min=0) / rising.abs().where(scores > -torch.inf, 0).sum(-1, keepdim=True)
    torch.testing.assert_close(softpick(scores), theirs.nan_to_num(0.0), atol=1e-7, rtol=1e-7)


def test_softpick_has_the_gradient_of_finite_differences():
    scores = (drawn(4, 6, dtype=torch.float64) * 2).requires_grad_()
    assert torch.autograd.gradcheck(softpick, (scores,))
    assert torch.autograd.gradcheck(rectified, (scores,))


def test_softpick_of_very_negative_scores_is_zero_with_a_zero_gradient():
    scores = torch.full((2, 3), -120.0, requires_grad=True)
    softpick(scores).sum().backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("name", ["softpick", "sigmoid"])
def test_a_rule_for_the_gradient_is_what_autograd_finds(name):
    scores, told = causal_scores(*heads()[:2]).requires_grad_(), drawn(B, H, T, T, seed=9)
    weights = WEIGH[name](scores)
    (theirs,) = torch.autograd.grad(weights, scores, told)
    ours = WEIGH[name].with_gradient(scores.detach(), told)
    torch.testing.assert_close(ours[0], weights)
    torch.testing.assert_close(ours[1], theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", WEIGH)
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_give_what_the_whole_matrix_gives(name, masked, monkeypatch):
    monkeypatch.setattr("superweights.lab.parts.blockwise.ROWS", 4)
    monkeypatch.setattr("superweights.lab.parts.blockwise.NUMBERS", 100)
    # kernels that divide by a sum want feature maps that are positive
    q, k, v = (x.abs().requires_grad_() if "kernel" in name else x.requires_grad_() for x in heads())
    scores = causal_scores(q, k)
    mask = torch.where(scores[:, :1] > -torch.inf, 0.0, -torch.inf).detach() if masked else None
    ours = attend_in_blocks(q, k, v, WEIGH[name], mask=mask, causal=not masked, scaling=SCALING)
    theirs = WEIGH[name](scores) @ v
    torch.testing.assert_close(ours, theirs)
    told = drawn(B, H, T, D, seed=7)
    for one, other in zip(
        torch.autograd.grad(ours, (q, k, v), told), torch.autograd.grad(theirs, (q, k, v), told), strict=True
    ):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_the_elu_kernel_is_linear_attention_by_running_sums():
    q, k, v = heads()
    q, k = EluMap()(q), EluMap()(k)
    states = torch.cumsum(k[..., :, None] * v[..., None, :], dim=2)
    theirs = torch.einsum("bhtd,bhtde->bhte", q, states) / torch.einsum(
        "bhtd,bhtd->bht", q, k.cumsum(2)
    ).unsqueeze(-1)
    torch.testing.assert_close(over_sum(causal_scores(q, k)) @ v, theirs)


def test_over_size_divides_by_the_sum_only_where_it_is_large():
    scores = torch.tensor([[3.0, 1.0], [0.2, 0.1], [-3.0, -1.0]])
    torch.testing.assert_close(over_size(scores), torch.tensor([[0.75, 0.25], [0.2, 0.1], [-0.75, -0.25]]))


def test_the_mlp_map_is_never_negative():
    assert MLPMap(D)(drawn(B, H, T, D)).min() >= 0


def test_the_length_scale_leaves_the_longest_row_as_it_is():
    query = drawn(1, H, T, D)
    seen = torch.arange(1, T + 1)[None, None, :, None]
    out = LengthScale(H, context=T)(query, seen)
    torch.testing.assert_close(out[:, :, -1], query[:, :, -1])
    torch.testing.assert_close(out[:, :, 0], query[:, :, 0] * math.log(2) / math.log(1 + T))


# gates, differences, memory


def test_a_gate_of_zeros_halves_and_one_that_is_never_sparse_leaves_three_quarters():
    out, read = drawn(B, T, H, D), drawn(B, T, 24, seed=1)
    for kind, share in (("element", 0.5), ("head", 0.5), ("static", 0.5), ("ns", 0.75)):
        gate = OutputGate(kind, 24, H, D)
        if gate.proj is not None:
            nn.init.zeros_(gate.proj.weight)
        torch.testing.assert_close(gate(out, read), share * out)


def test_the_element_gate_is_x_transformers_value_gate():
    theirs = pytest.importorskip("x_transformers.x_transformers").Attention(
        24, dim_head=D, heads=H, causal=True, gate_values=True
    )
    from superweights.lab.models.attention import LabAttention

    config = LabConfig.of(Architecture(width=24, heads=H, gate="element", position="none"))
    config._attn_implementation = "superweights_lab"
    ours = LabAttention(config, 0)
    assert ours.gate is not None
    assert ours.gate.proj is not None
    for mine, other in (
        (ours.q_proj, theirs.to_q),
        (ours.k_proj, theirs.to_k),
        (ours.v_proj, theirs.to_v),
        (ours.o_proj, theirs.to_out),
        (ours.gate.proj, theirs.to_v_gate),
    ):
        nn.init.normal_(mine.weight, generator=torch.Generator().manual_seed(mine.weight.numel()))
        other.load_state_dict({**other.state_dict(), "weight": mine.weight.detach()})
    x = drawn(B, T, 24, seed=3)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0] if isinstance(theirs(x), tuple) else theirs(x))


def test_differential_attention_is_that_of_transformers_with_its_heads_in_pairs():
    from transformers import DiffLlamaConfig
    from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention

    from superweights.lab.models.attention import LabAttention

    width, count, layer = 32, 4, 2
    given = DiffLlamaConfig(hidden_size=width, num_attention_heads=count, num_key_value_heads=count)
    given._attn_implementation = "sdpa"
    theirs = DiffLlamaAttention(given, layer)
    theirs.groupnorm.eps = 1e-5
    config = LabConfig.of(Architecture(width=width, heads=count, attention="differential"))
    config._attn_implementation = "superweights_lab"
    ours = LabAttention(config, layer)
    order = [0, 2, 1, 3]  # theirs pairs head j with head j + count / 2, ours with the next

    def by_heads(weight: Tensor) -> Tensor:
        return weight.unflatten(0, (count, -1))[order].flatten(0, 1)

    assert isinstance(ours.difference, Difference)
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(ours, name).weight.copy_(by_heads(getattr(theirs, name).weight))
        ours.o_proj.weight.copy_(theirs.o_proj.weight)
        for mine, other in (("query1", "q1"), ("key1", "k1"), ("query2", "q2"), ("key2", "k2")):
            getattr(ours.difference, mine).copy_(getattr(theirs, f"lambda_{other}"))
    x = drawn(B, T, width)
    cos, sin = turns(torch.arange(T)[None], width // count, 1e4, torch.float32)
    torch.testing.assert_close(
        ours(x, position_embeddings=(cos, sin))[0], theirs(x, (cos[:, 0], sin[:, 0]))[0]
    )


def test_the_second_difference_subtracts_a_neighbour_by_half_where_its_projection_is_zero():
    difference = DifferenceV2(24, H)
    nn.init.zeros_(difference.proj.weight)
    out = drawn(B, T, 2 * H, D)
    torch.testing.assert_close(difference(out, drawn(B, T, 24)), out[:, :, 0::2] - 0.5 * out[:, :, 1::2])


def test_a_router_that_has_only_its_own_heads_changes_nothing():
    router = Router(2, H)
    nn.init.zeros_(router.weight)
    nn.init.eye_(router.weight[:, -H:])
    held = [drawn(B, H, T, D, seed=seed) for seed in range(3)]
    torch.testing.assert_close(router(held), held[-1])


# norms, activations, positions


@pytest.mark.parametrize("name", [n for n in NORMS if n != "tanh"])
def test_norms_do_not_see_the_size_of_what_they_are_given(name):
    norm, x = make_norm(name, 16, 1e-12), drawn(4, 16)
    torch.testing.assert_close(norm(10 * x), norm(x))


def test_rms_norm_is_llamas_and_one_gain_is_a_gain_per_channel_that_are_equal():
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    theirs, ours, single = (
        LlamaRMSNorm(16, 1e-5),
        make_norm("rms", 16, 1e-5),
        make_norm("rms_single", 16, 1e-5),
    )
    x, gain = drawn(4, 16), drawn(16, seed=1)
    with torch.no_grad():
        theirs.weight.copy_(gain), ours.weight.copy_(gain)
        torch.testing.assert_close(ours(x), theirs(x))
        ours.weight.fill_(1.7), single.weight.fill_(1.7)
    torch.testing.assert_close(single(x), ours(x))
    assert single.weight.numel() == 1


@pytest.mark.parametrize("name", NORMS)
def test_the_factor_of_a_norm_is_on_its_output(name):
    plain, scaled, x = make_norm(name, 16, 1e-5), make_norm(name, 16, 1e-5, 0.5), drawn(4, 16)
    torch.testing.assert_close(scaled(x), 0.5 * plain(x))


def test_activations_are_their_closed_forms():
    assert set(ACTIVATION) == set(ACTIVATIONS)
    x = torch.linspace(-9, 9, 37, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ACTIVATION["relu2"](x), torch.where(x > 0, x**2, 0))
    clipped = ACTIVATION["relu2_clipped"](x)
    assert clipped.max() == CLIP
    (slope,) = torch.autograd.grad(clipped.sum(), x)
    torch.testing.assert_close(slope, torch.where((x > 0) & (x**2 < CLIP), 2 * x, 0).detach())
    bump = ACTIVATION["gelu2"](torch.linspace(-2, 0, 2001))
    assert bump.max().item() == pytest.approx(0.0289, abs=1e-4)


def test_positions_are_llamas():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k, _ = heads()
    cos, sin = turns(torch.arange(3, 3 + T)[None], D, 1e4, torch.float32)
    theirs = apply_rotary_pos_emb(q, k, cos[:, 0], sin[:, 0])
    torch.testing.assert_close((rotated(q, (cos, sin)), rotated(k, (cos, sin))), theirs)


def test_every_attention_kind_has_code():
    softmaxes = {name for name, kind in ATTENTION.items() if kind.null != "none" or kind.paired}
    assert set(ATTENTION) == softmaxes | set(WEIGH) | {"softmax", "v_bias"}
