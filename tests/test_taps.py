"""Taps: sites found by identities, seen and changed on stock models; against transformers' own outputs."""

from __future__ import annotations

from functools import cache

import families
import pytest
import reaching
import torch
from families import token_ids
from small import embedded_model, embedded_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.stream import streaming
from superweights.subject.text import embedded_prose, windows
from superweights.taps import (
    KINDS,
    Recording,
    Site,
    SuperActivation,
    assigned,
    record_activations,
    restored,
    sites_of,
    tapping,
    zeroed,
)

pytestmark = pytest.mark.tiny

ALL = set(KINDS)
PARALLEL = {"mid"}
EXPERTS = {"mlp_act"}
OWN_ATTENTION = {"q", "k", "v"}
NO_PRE_NORM = {"attn_norm_in", "mlp_norm_in"}
WRITES = {"attn_norm_in", "head_out", "attn_write", "mid", "mlp_norm_in", "mlp_act", "mlp_write"}
# What each family lacks, and why: see docs/taps.md. None here means every site.
REFUSED: dict[str, set[str]] = {
    "llama": set(),
    "gpt2": set(),
    "gpt_neox": PARALLEL,
    "gemma2": set(),
    "gemma3_text": set(),
    "olmo2": NO_PRE_NORM,
    "phi3": set(),
    "mixtral": EXPERTS,
    "gpt_oss": EXPERTS,
    "qwen3": set(),
    "opt": set(),
    "granite": set(),
    "minicpm3": set(),
    "falcon": OWN_ATTENTION | PARALLEL,
    "bloom": OWN_ATTENTION,
    "phi": PARALLEL,
    "deepseek_v32": EXPERTS,
    "bert": WRITES,
}
MODELS = list(REFUSED)
WITH_WRITES = [name for name in MODELS if "attn_write" not in REFUSED[name]]


@cache
def tiny(model_type: str) -> nn.Module:
    """One model of the type for the whole file; tests leave it as it was."""
    return families.tiny_model(model_type)


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=ids, use_cache=False).logits


def seen_at(model, ids, *sites: Site) -> dict[Site, torch.Tensor]:
    """What taps that only look saw in one pass."""
    seen: dict[Site, torch.Tensor] = {}

    def look(site):
        return lambda tensor: seen.update({site: tensor.detach().clone()})

    with tapping(model, {site: look(site) for site in sites}):
        logits(model, ids)
    return seen


def hooks_of(model) -> int:
    """How many hooks stand on the model (transformers leaves some of its own there)."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# --- which model has which site


@pytest.mark.parametrize("model_type", MODELS)
def test_a_family_has_every_site_but_those_it_refuses(model_type):
    sites = sites_of(tiny(model_type))
    assert set(sites.refusals()) == REFUSED[model_type]
    present = {site.kind for site in sites.places}
    assert present | REFUSED[model_type] == ALL


@pytest.mark.parametrize("model_type", WITH_WRITES)
def test_the_writes_make_the_output_of_the_input_on_another_batch(model_type):
    model = tiny(model_type)
    layers = range(len(sites_of(model).blocks))
    kinds = ("block_in", "attn_write", "mlp_write", "block_out")
    seen = seen_at(model, token_ids(3, 17, seed=9), *(Site(k, n) for k in kinds for n in layers))
    for n in layers:
        total = sum(seen[Site(kind, n)] for kind in kinds[:3])
        torch.testing.assert_close(total, seen[Site("block_out", n)], rtol=1e-5, atol=1e-5)
        if n:
            assert torch.equal(seen[Site("block_in", n)], seen[Site("block_out", n - 1)])


@pytest.mark.parametrize("model_type", WITH_WRITES)
def test_a_pass_with_observing_taps_everywhere_predicts_the_same(model_type):
    model, ids = tiny(model_type), token_ids(2, 11)
    sites = sites_of(model)
    plain = logits(model, ids)
    with tapping(model, dict.fromkeys(sites.places, lambda tensor: None)):
        torch.testing.assert_close(logits(model, ids), plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model, ids), plain)
    assert "eager" not in ALL_ATTENTION_FUNCTIONS


@pytest.mark.parametrize("model_type", [name for name in MODELS if name != "bert"])
def test_weights_of_attention_are_what_transformers_says(model_type):
    eager = families.tiny_model(model_type)
    eager.config._attn_implementation = "eager"
    ids = token_ids(2, 11)
    layers = range(len(sites_of(eager).blocks))
    with torch.no_grad():
        told = eager(input_ids=ids, use_cache=False, output_attentions=True).attentions
    seen = seen_at(tiny(model_type), ids, *(Site(kind, n) for kind in ("weights", "logits") for n in layers))
    for n in layers:
        torch.testing.assert_close(seen[Site("weights", n)], told[n], rtol=1e-4, atol=1e-5)
        assert seen[Site("weights", n)].triu(1).abs().max() == 0
        if model_type != "gpt_oss":  # there a learned sink takes its share
            torch.testing.assert_close(seen[Site("logits", n)].softmax(-1), told[n], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "opt", "bloom"])
def test_the_stream_is_what_transformers_calls_hidden_states(model_type):
    model, ids = tiny(model_type), token_ids(2, 11)
    with torch.no_grad():
        told = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    blocks = len(sites_of(model).blocks)
    seen = seen_at(model, ids, *(Site("block_in", n) for n in range(blocks)), Site("head_logits"))
    for n in range(blocks):
        torch.testing.assert_close(seen[Site("block_in", n)], told.hidden_states[n], rtol=0, atol=0)
    assert torch.equal(seen[Site("head_logits")], told.logits)


def test_llama_by_hand():
    """Every site of a block against the model's own modules, called one after the other."""
    model, ids = tiny("llama"), token_ids(2, 11)
    kinds = [kind for kind in KINDS if kind not in ("embed", "final_norm_in", "head_logits")]
    sites = [Site(kind, 1) for kind in kinds]
    seen = {
        site.kind: t for site, t in seen_at(model, ids, *sites, Site("embed"), Site("final_norm_in")).items()
    }
    block, heads, size = model.model.layers[1], 4, 16
    with torch.no_grad():
        read = block.input_layernorm(seen["block_in"])
        v = block.self_attn.v_proj(read).unflatten(-1, (-1, size)).transpose(1, 2)
        shared = seen["k"].repeat_interleave(heads // v.shape[1], 1)
        scores = seen["q"] @ shared.mT / size**0.5
        mixed = (seen["weights"] @ v.repeat_interleave(heads // v.shape[1], 1)).transpose(1, 2)
        attn = block.self_attn.o_proj(mixed.flatten(-2))
        mid = seen["block_in"] + attn
        normed = block.post_attention_layernorm(mid)
        act = nn.functional.silu(block.mlp.gate_proj(normed)) * block.mlp.up_proj(normed)
        last = seen_at(model, ids, Site("block_out", len(model.model.layers) - 1))
    lower = torch.ones(11, 11, dtype=torch.bool).tril()
    expected = {
        "embed": model.model.embed_tokens(ids),
        "attn_norm_in": seen["block_in"],
        "v": v,
        "head_out": mixed,
        "attn_write": attn,
        "mid": mid,
        "mlp_norm_in": mid,
        "mlp_act": act,
        "mlp_write": block.mlp.down_proj(act),
        "block_out": mid + block.mlp.down_proj(act),
        "final_norm_in": next(iter(last.values())),
    }
    for kind, tensor in expected.items():
        torch.testing.assert_close(
            seen[kind], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, k=kind: f"{k}: {m}"
        )
    torch.testing.assert_close(seen["logits"][..., lower], scores[..., lower], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen["logits"].softmax(-1), seen["weights"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_type", ["falcon", "opt", "gpt2", "mixtral"])
def test_the_output_projection_of_the_heads_is_what_attention_writes(model_type):
    model = tiny(model_type)
    place = sites_of(model).place(Site("head_out", 0))
    seen = seen_at(model, token_ids(2, 11), Site("head_out", 0), Site("attn_write", 0), Site("weights", 0))
    heads = seen[Site("head_out", 0)]
    assert heads.shape[2] == seen[Site("weights", 0)].shape[1]
    with torch.no_grad():
        written = model.get_submodule(place.path)(heads.flatten(-2))
    torch.testing.assert_close(written, seen[Site("attn_write", 0)], rtol=1e-5, atol=1e-6)


# --- edits


@pytest.mark.parametrize("model_type", WITH_WRITES)
def test_a_block_whose_writes_are_zeroed_is_the_identity(model_type):
    model = tiny(model_type)
    zero = torch.zeros_like
    taps = {Site("attn_write", 1): zero, Site("mlp_write", 1): zero}
    seen: dict[str, torch.Tensor] = {}
    taps |= {Site(k, 1): lambda t, k=k: seen.update({k: t.clone()}) for k in ("block_in", "block_out")}
    with tapping(model, taps):
        logits(model, token_ids())
    assert torch.equal(seen["block_in"], seen["block_out"])


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "embed"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "opt", "phi3", "minicpm3"])
def test_an_edit_at_any_site_is_felt_and_one_that_changes_nothing_is_not(model_type, kind):
    model, ids = tiny(model_type), token_ids(2, 11)
    site = Site(kind, None if kind in ("final_norm_in", "head_logits") else 1)
    plain = logits(model, ids)
    with tapping(model, {site: lambda t: t.clone()}):
        torch.testing.assert_close(logits(model, ids), plain, rtol=1e-4, atol=1e-4)

    def swap_tokens(t):
        return t.roll(1, 1 if t.ndim == 3 or kind == "head_out" else 2)

    with tapping(model, {site: swap_tokens}):
        assert (logits(model, ids) - plain).abs().max() > 1e-3
    assert torch.equal(logits(model, ids), plain)


def test_an_edit_of_mid_goes_on_in_the_stream_and_one_of_the_norms_input_does_not():
    model, ids = tiny("llama"), token_ids()
    seen: dict[str, torch.Tensor] = {}
    watch = {
        Site(k, 1): lambda t, k=k: seen.update({k: t.clone()}) for k in ("mid", "mlp_write", "block_out")
    }
    with tapping(model, watch | {Site("mid", 1): lambda t: torch.ones_like(t)}):
        logits(model, ids)
    torch.testing.assert_close(seen["block_out"], 1 + seen["mlp_write"], rtol=1e-5, atol=1e-5)
    with tapping(model, watch | {Site("mlp_norm_in", 1): lambda t: torch.ones_like(t)}):
        logits(model, ids)
    torch.testing.assert_close(seen["block_out"], seen["mid"] + seen["mlp_write"], rtol=1e-5, atol=1e-5)


def test_a_scaled_write_is_shown_as_it_is_added():
    """MiniCPM multiplies what it adds; the tap sees the product and its edit is the product."""
    model = tiny("minicpm3")
    site = Site("attn_write", 0)
    scale = sites_of(model).place(site).scale
    assert scale == pytest.approx(model.config.scale_depth / model.config.num_hidden_layers**0.5)
    seen: dict[str, torch.Tensor] = {}
    taps = {site: lambda t: torch.full_like(t, 0.5), Site("mid", 0): lambda t: seen.update(mid=t.clone())}
    with tapping(model, taps | {Site("block_in", 0): lambda t: seen.update(start=t.clone())}):
        logits(model, token_ids())
    torch.testing.assert_close(seen["mid"], seen["start"] + 0.5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "falcon"])
def test_weights_replaced_by_the_diagonal_make_every_token_read_itself(model_type):
    model, seen = tiny(model_type), {}

    def diagonal(weights):
        return torch.eye(weights.shape[-1]).expand_as(weights)

    taps = {Site("weights", n): diagonal for n in range(len(sites_of(model).blocks))}
    with tapping(model, taps | {Site("block_out", 2): lambda t: seen.update(out=t.clone())}):
        ids = token_ids(1, 9)
        logits(model, ids)
        whole = seen["out"][:, :1]
        logits(model, torch.cat([ids[:, :1], token_ids(1, 8, seed=4)], 1))
    torch.testing.assert_close(seen["out"][:, :1], whole, rtol=1e-5, atol=1e-5)


def test_a_streamed_model_is_tapped_as_a_resident_one(tmp_path):
    families.save_tiny("gemma2", tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    sites = [Site(k, n) for k in ("weights", "mid", "mlp_act", "block_out") for n in (0, 2)]
    ids = token_ids()
    edit = {Site("mlp_write", 0): lambda t: t * 2}
    with open_checkpoint(str(tmp_path)) as checkpoint, streaming(checkpoint, resident=False) as model:
        seen = seen_at(model, ids, *sites)
        with tapping(model, edit):
            changed = logits(model, ids)
        assert all(p.is_meta for p in model.model.layers.parameters())
    for site, tensor in seen_at(whole, ids, *sites).items():
        torch.testing.assert_close(seen[site], tensor, rtol=1e-5, atol=1e-5)
    with tapping(whole, edit):
        assert torch.equal(changed, logits(whole, ids))


def test_a_model_in_half_precision_has_the_same_sites():
    model = families.tiny_model("llama", dtype=torch.bfloat16)
    assert sites_of(model).places == sites_of(tiny("llama")).places


def test_a_model_in_training_stays_in_training():
    model = families.tiny_model("gpt2").train()
    frozen = model.transformer.h[0].attn.eval()
    sites_of(model)
    assert model.training
    assert not frozen.training
    assert model.transformer.h[0].mlp.training


# --- what can go wrong


def test_a_site_that_a_family_lacks_is_refused_by_its_name():
    with pytest.raises(SuperweightsError, match="mid of layer 0 cannot be tapped: the block adds attention"):
        with tapping(tiny("gpt_neox"), {Site("mid", 0): torch.zeros_like}):
            pass
    with pytest.raises(SuperweightsError, match="mlp_act of layer 2 cannot be tapped: no single linear"):
        with tapping(tiny("mixtral"), {Site("mlp_act", 2): torch.zeros_like}):
            pass
    with pytest.raises(
        SuperweightsError, match=r"attn_write of layer 0 .* normalises its stream after adding"
    ):
        sites_of(tiny("bert")).place(Site("attn_write", 0))


def test_attention_that_ignores_its_mask_is_refused(monkeypatch):
    """An eager function that sees the future gives other logits than the model's own choice, sdpa."""
    model = families.tiny_model("qwen3")
    code = type(model.model.layers[0].self_attn).forward.__globals__
    own = code["eager_attention_forward"]
    monkeypatch.setitem(
        code, "eager_attention_forward", lambda m, q, k, v, mask, **more: own(m, q, k, v, None, **more)
    )
    with pytest.raises(SuperweightsError, match="weights of layer 0 cannot be tapped: with eager attention"):
        sites_of(model).place(Site("weights", 0))
    assert sites_of(model).place(Site("block_in", 0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Site("nowhere", 1), "no site of kind 'nowhere'"),
        (lambda: Site("embed", 1), "embed has no layer"),
        (lambda: Site("block_out"), "block_out needs the number of a layer"),
        (lambda: sites_of(tiny("llama")).place(Site("block_out", 3)), "the model runs 3 blocks"),
        (lambda: sites_of(nn.Linear(3, 3)), "Linear has no list of blocks"),
        (lambda: zeroed([]), "must be given"),
        (lambda: assigned([SuperActivation(0, 1)], [1.0, 2.0]), "1 activations and 2 values"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(make, said):
    with pytest.raises(SuperweightsError, match=said):
        make()


def test_a_tap_that_returns_another_shape_is_refused_and_leaves_nothing_behind():
    model, ids = tiny("llama"), token_ids()
    plain, before = logits(model, ids), hooks_of(model)
    with pytest.raises(SuperweightsError, match=r"weights of layer 1 returned \[2, 4, 12\]"):
        with tapping(model, {Site("weights", 1): lambda t: t[..., 0]}):
            logits(model, ids)
    assert torch.equal(logits(model, ids), plain)
    assert hooks_of(model) == before
    assert "eager" not in ALL_ATTENTION_FUNCTIONS
    assert model.config._attn_implementation == "sdpa"


def test_a_tap_that_is_never_reached_is_an_error(monkeypatch):
    model = families.tiny_model("llama")
    sites_of(model)
    monkeypatch.setattr(model.model.layers[1], "forward", lambda hidden_states, **_: hidden_states)
    with pytest.raises(SuperweightsError, match="mlp_act of layer 1 was never reached"):
        with tapping(model, {Site("mlp_act", 1): lambda t: None}):
            logits(model, token_ids())


def test_a_block_that_runs_several_times_is_as_many_layers():
    model, ids, seen = reaching.tiny("masked", "albert"), token_ids(), {}
    taps = {Site("block_out", n): lambda t, n=n: seen.__setitem__(n, t.clone()) for n in range(3)}
    with torch.no_grad(), tapping(model, taps) as sites:
        states = model(ids, output_hidden_states=True).hidden_states
    assert len(set(sites.blocks)) == 1
    for layer in range(3):
        assert torch.equal(seen[layer], states[layer + 1])


def test_two_models_can_be_tapped_at_once():
    one, two, ids = tiny("llama"), tiny("qwen3"), token_ids()
    seen = {}
    with tapping(one, {Site("weights", 0): lambda t: seen.update(one=t.clone())}):
        with tapping(two, {Site("weights", 0): lambda t: seen.update(two=t.clone())}):
            logits(one, ids)
            logits(two, ids)
    assert not torch.equal(seen["one"], seen["two"])
    assert one.config._attn_implementation == "sdpa"


# --- super activations

SPOTS = (SuperActivation(1, 5), SuperActivation(1, 9, position=2), SuperActivation(0, 3))


def test_activations_are_recorded_as_the_model_has_them():
    model, ids = tiny("llama"), token_ids(5, 11)
    recording = record_activations(model, SPOTS, ids, batch_size=2)
    with torch.no_grad():
        stream = model(input_ids=ids, output_hidden_states=True).hidden_states
    told = torch.stack([stream[s.layer + 1][:, s.position, s.channel] for s in SPOTS], 1)
    torch.testing.assert_close(recording.values, told, rtol=1e-5, atol=1e-5)
    assert recording.mean() == pytest.approx(told.mean(0).tolist(), rel=1e-4)


@pytest.mark.parametrize(("taps", "value"), [(zeroed(SPOTS), 0.0), (assigned(SPOTS, 7.5), 7.5)])
def test_an_activation_is_set_for_one_token_alone(taps, value):
    model, ids = tiny("llama"), token_ids()
    plain = seen_at(model, ids, Site("block_out", 1))[Site("block_out", 1)]
    seen = {}
    with tapping(model, taps | {Site("block_in", 2): lambda t: seen.update(after=t.clone())}):
        logits(model, ids)
    after = seen["after"]
    assert (after[:, 0, 5] == value).all()
    assert (after[:, 2, 9] == value).all()
    assert (after[:, 1, 5] != value).all()
    assert not torch.equal(after[:, 0, 6], plain[:, 0, 6]), "block 0's change has gone through block 1"


def test_restored_activations_undo_an_edit_of_that_activation_in_any_order_of_texts():
    model, ids = families.tiny_model("llama"), token_ids(6, 11)
    spots = [SuperActivation(1, channel, position) for channel in range(64) for position in range(11)]
    recording = record_activations(model, spots, ids)
    plain = logits(model, ids)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[7, 8] += 3.0
    order = torch.tensor([4, 1, 0, 5])
    assert (logits(model, ids) - plain).abs().max() > 0.05
    with tapping(model, restored(recording)):
        torch.testing.assert_close(logits(model, ids[order]), plain[order], rtol=1e-4, atol=1e-4)


def test_a_text_that_was_not_recorded_cannot_be_restored():
    model = tiny("llama")
    recording = record_activations(model, SuperActivation(1, 5, 1), token_ids())
    assert isinstance(recording, Recording)
    with pytest.raises(SuperweightsError, match="Channel 5 of token 1 after block 1 was not recorded"):
        with tapping(model, restored(recording)):
            logits(model, token_ids(seed=1))


def test_an_activation_outside_the_text_is_refused():
    with pytest.raises(
        SuperweightsError, match="no channel 64 of token 0 after block 1: it has 12 tokens of 64"
    ):
        with tapping(tiny("llama"), zeroed(SuperActivation(1, 64))):
            logits(tiny("llama"), token_ids())


@pytest.mark.real
def test_the_super_activation_of_the_embedded_model_may_be_fixed_but_not_zero():
    """Anatomy of SmolLM2-135M: zero in two channels of token 0 after block 11 is ruin, their mean is harmless."""
    model = embedded_model()
    ids = windows(embedded_tokenizer(), embedded_prose(), 64, 6)
    spots = (SuperActivation(11, 507), SuperActivation(11, 247))
    recording = record_activations(model, spots, ids)

    def perplexity(taps):
        with tapping(model, taps):
            out = logits(model, ids[:2])
        return nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), ids[:2, 1:].flatten()).exp().item()

    base = perplexity({})
    assert recording.values[:, 0].min() > 20_000
    assert 10 < base < 100
    assert perplexity(zeroed(spots)) > 1e4 * base
    assert perplexity(assigned(spots, recording.mean())) == pytest.approx(base, rel=0.02)
    weight = model.model.layers[11].mlp.down_proj.weight.data
    held = weight[507, 1229].item()
    weight[507, 1229] = 0
    try:
        without, with_activation = perplexity({}), perplexity(restored(recording))
    finally:
        weight[507, 1229] = held
    assert without > 3 * base
    assert with_activation == pytest.approx(base, rel=0.02), "all that this weight does, it does at token 0"


@pytest.mark.tiny
@pytest.mark.parametrize(("attention", "mlp"), [(True, False), (False, True), (True, True)])
def test_a_sublayer_that_writes_zeros_keeps_its_sites(attention, mlp):
    """By the sum of writes alone, the one that is left could be taken for either."""
    model = families.tiny_model("llama")
    block = model.model.layers[1]
    for module, silent in ((block.self_attn.o_proj, attention), (block.mlp.down_proj, mlp)):
        for parameter in module.parameters() if silent else ():
            parameter.data.zero_()
    sites = sites_of(model)
    assert sites.place(Site("attn_write", 1)).path == "model.layers.1.self_attn"
    assert sites.place(Site("mlp_write", 1)).path == "model.layers.1.mlp"
