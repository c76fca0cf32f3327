"""Sinks of a Byte Latent Transformer, stack by stack: closed forms, transformers' weights, n/a with its reason."""

from __future__ import annotations

import pytest
import torch
from test_lab_byte_latent import built, rows
from transformers.models.blt.modeling_blt import eager_attention_forward

from superweights.errors import SuperweightsError
from superweights.lab.byte_latent.patching import Patches
from superweights.lab.byte_latent.stacks import FROM, stack_profiles

pytestmark = pytest.mark.tiny

NAMES = ["byte encoder", "patches read bytes", "latent transformer", "bytes read patches", "byte decoder"]


def spread(n: int, every: int, count: int = 2) -> torch.Tensor:
    """Patches of `every` bytes in rows of `n`."""
    starts = torch.zeros(count, n + 1, dtype=torch.bool)
    starts[:, ::every] = True
    starts[:, 1] = True
    return starts


def test_attention_without_queries_is_uniform_in_every_stack_that_has_a_first_place():
    model = built(mode="static")
    for name, parameter in model.named_parameters():
        if "self_attn.q_proj" in name:
            parameter.data.zero_()
    ids = rows(2, 60)
    found = stack_profiles(model, ids, spread(60, 3))
    assert [each.stack for each in found] == NAMES
    for each in (found[0], found[2], found[4]):
        assert each.sink == pytest.approx(each.uniform, rel=1e-5)
    assert found[2].queries == 2 * (21 - FROM)  # patches of a row, from the tenth on
    assert found[0].queries == 2 * (60 - FROM)


def test_what_a_stack_has_not_is_none_with_its_reason():
    found = stack_profiles(built(mode="static"), rows(2, 60), spread(60, 3))
    for each in (found[1], found[3]):
        assert each.sink is each.argmax_share is each.peak is None
        assert "no place that all of them see" in each.why


def test_bytes_that_have_lost_the_first_from_view_are_not_asked():
    found = stack_profiles(built(mode="static", window=16), rows(2, 60), spread(60, 3))
    assert found[0].queries == found[4].queries == 2 * (16 - FROM)


def test_a_row_with_fewer_patches_says_the_same_beside_one_with_more():
    model, ids = built(mode="static"), rows(1, 60)
    few, many = spread(60, 4, 1), spread(60, 2, 1)
    alone = stack_profiles(model, ids, few)[2]
    other = stack_profiles(model, ids, many)[2]
    both = stack_profiles(model, ids.repeat(2, 1), torch.cat([few, many]))[2]
    whole = alone.queries * alone.sink + other.queries * other.sink
    assert both.sink == pytest.approx(whole / (alone.queries + other.queries), rel=1e-5)


def test_the_latent_sink_is_that_of_transformers_own_attention_on_the_same_queries_and_keys():
    model, ids, starts = built(mode="static"), rows(2, 60), spread(60, 3)
    seen = []

    def keep(module, args, output):
        x, turned = args
        q, k, v = (p(x).unflatten(-1, (-1, module.head_dim)).transpose(1, 2) for p in
                   (module.q_proj, module.k_proj, module.v_proj))  # fmt: skip
        q, k = (torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * turned[None, :, 0]
                                   ).flatten(-2) for t in (q, k))  # fmt: skip
        hidden = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)[None, None]
        seen.append(eager_attention_forward(module, q, k, v, hidden, module.scaling)[1])

    handles = [b.self_attn.register_forward_hook(keep) for b in model.model.global_transformer.layers]
    found = stack_profiles(model, ids, starts)[2]
    for handle in handles:
        handle.remove()
    assert Patches.of(starts).lengths.shape[1] == 21
    wanted = torch.stack(seen)[..., FROM:, 0]
    assert found.sink == pytest.approx(wanted.mean().item(), rel=1e-4)


def test_the_model_reads_as_before_afterwards_and_too_few_patches_are_told():
    model, ids = built(mode="static"), rows(2, 60)
    before = model.model.local_encoder.layers[0].self_attn.config._attn_implementation
    stack_profiles(model, ids, spread(60, 3))
    assert model.model.local_encoder.layers[0].self_attn.config._attn_implementation == before
    with pytest.raises(SuperweightsError, match="No row has more than 10 patches"):
        stack_profiles(model, ids, spread(60, 30))
