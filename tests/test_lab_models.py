"""Lab models: built from an architecture and a seed, saved, opened, tapped and searched as a stranger's checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys

import families
import planting
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.loss.loss_utils import ForCausalLMLoss

import superweights
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.lab.architecture import Architecture
from superweights.lab.models.building import build
from superweights.lab.parts.kinds import ACTIVATIONS, ATTENTION, GATES, INITS, NORMS, PLACEMENTS
from superweights.subject.text import raw_prompts
from superweights.taps.resolve import sites_of
from superweights.taps.site import KINDS, Site
from superweights.taps.tapping import tapping

pytestmark = pytest.mark.tiny

SMALL = Architecture(width=32, heads=4, layers=3)
TOKENS = torch.randint(0, 64, (3, 24), generator=torch.Generator().manual_seed(0))

# One dial away from the control, and the combinations that meet in code.
DIALS: list[dict] = [
    *({"attention": name} for name in ATTENTION),
    *({"gate": name} for name in GATES if name != "none"),
    *({"norm": name} for name in NORMS if name != "rms"),
    *({"placement": name} for name in PLACEMENTS if name != "pre"),
    *({"activation": name, "gated": False} for name in ACTIVATIONS),
    {"norm_scaling": True},
    {"lime": True},
    {"qk_norm": True},
    {"position": "none", "tied": True},
    {"attention": "softmax1", "null_value": True, "key_value_heads": 2},
    {"attention": "softpick", "lime": True, "key_value_heads": 2},
    {"attention": "differential_v2", "key_value_heads": 2, "gate": "head"},
]


def name_of(dials: dict) -> str:
    return ", ".join(str(value) if value is not True else dial for dial, value in dials.items())


def awake(design: Architecture) -> nn.Module:
    """A model whose attention, null slots and gains all say something."""
    model = build(design, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


# the dials


def test_an_architecture_survives_json_and_toml():
    design = Architecture(
        width=96, heads=3, attention="softmax1", tied=True, branch_scale=0.2, placement="op"
    )
    assert Architecture.from_json(design.to_json()) == design
    assert Architecture.from_toml(design.to_toml()) == design


def test_an_unknown_part_is_refused_with_the_known_ones():
    with pytest.raises(
        SuperweightsError, match=r"did you mean softpick\? known attention names: softmax, softmax1"
    ):
        Architecture(attention="softpik")
    with pytest.raises(SuperweightsError, match="no dial 'depth'"):
        Architecture.from_dict({"depth": 3})


@pytest.mark.parametrize(
    ("dials", "said"),
    [
        ({"null_value": True}, "softmax attention has no null slot"),
        ({"attention": "differential", "heads": 1}, "takes heads in pairs, and there are 1"),
        ({"width": 64, "heads": 5}, "A width of 64 does not divide into 5 heads"),
        ({"heads": 4, "key_value_heads": 3}, "4 heads cannot share 3"),
        ({"head_width": 7}, "a head is 7 wide"),
        ({"norm_scaling": True, "placement": "op"}, "placement 'op' has no norm there"),
        ({"branch_scale": 0.1}, "placement is 'pre'"),
        ({"lime": True, "attention": "differential", "heads": 2}, "has wider values"),
        ({"gate": "head", "attention": "differential", "heads": 2}, "a gate there is another design"),
        ({"layers": 0}, "layers is 0"),
        ({"width": 64.0}, "width is 64.0"),
        ({"init_std": 0.0}, "init_std is 0.0"),
    ],
)
def test_sizes_and_parts_that_do_not_go_together_are_refused(dials, said):
    with pytest.raises(SuperweightsError, match=said):
        Architecture(**dials)


def test_text_that_is_no_architecture_is_refused():
    with pytest.raises(SuperweightsError, match="is not TOML"):
        Architecture.from_toml("width 64")
    with pytest.raises(SuperweightsError, match="is a table of dials"):
        Architecture.from_json("[]")


# building


def test_the_same_seed_gives_the_same_model_and_another_does_not():
    one, same, other = (build(Architecture(), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


@pytest.mark.parametrize("dials", DIALS, ids=name_of)
def test_arms_share_every_weight_that_they_have_in_common(dials):
    control, arm = build(SMALL, seed=3).state_dict(), build(SMALL.with_(**dials), seed=3).state_dict()
    common = [name for name in control.keys() & arm.keys() if control[name].shape == arm[name].shape]
    # more heads and an MLP without a gate are other matrices, and so is a head that is the embedding
    common = [name for name in common if name != "lm_head.weight" or not dials.get("tied")]
    assert {"model.embed_tokens.weight", "model.layers.2.self_attn.o_proj.weight"} <= set(common)
    assert all(torch.equal(control[name], arm[name]) for name in common if "norm" not in name)


def test_matrices_start_with_the_std_they_are_given_and_writes_smaller_where_asked():
    assert set(INITS) == {"normal", "depth_scaled"}
    plain, scaled = (build(SMALL.with_(init=init, init_std=0.1), seed=0) for init in INITS)
    for model, expected in ((plain, 0.1), (scaled, 0.1 / 6**0.5)):
        for path in ("self_attn.o_proj", "mlp.down_proj"):
            weights = torch.cat([block.get_submodule(path).weight.flatten() for block in model.model.layers])
            assert weights.std().item() == pytest.approx(expected, rel=0.06)
        assert model.lm_head.weight.std().item() == pytest.approx(0.1, rel=0.06)


def test_layer_norm_scaling_halves_the_fourth_block_and_a_block_keeps_its_own():
    model = build(SMALL.with_(layers=4, norm_scaling=True), seed=0)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    first, fourth = (model.model.layers[i].input_layernorm(x) for i in (0, 3))
    torch.testing.assert_close(fourth, first / 2)
    del model.model.layers[1]
    torch.testing.assert_close(model.model.layers[2].input_layernorm(x), first / 2)


def test_the_outlier_protected_block_scales_its_writes_and_its_embedding():
    model = awake(SMALL.with_(placement="op", branch_scale=0.25)).eval()
    block, x = model.model.layers[1], torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    assert block.input_layernorm is block.post_attention_layernorm is None
    assert isinstance(model.model.layers[0].input_layernorm, nn.LayerNorm)
    middle = x + 0.25 * block.self_attn(x)[0]
    torch.testing.assert_close(block(x), middle + 0.25 * block.mlp(middle))
    assert SMALL.with_(placement="op").scale_of_embedding == 50


# the forward pass


@pytest.mark.parametrize("dials", DIALS, ids=name_of)
def test_shown_weights_caches_and_padding_change_nothing(dials):
    model = awake(SMALL.with_(**dials)).eval()
    with torch.no_grad():
        whole = model(TOKENS).logits
        held = model(TOKENS[:, :20], use_cache=True)
        steps, cache = [held.logits], held.past_key_values
        for t in range(20, 24, 2):
            steps.append(model(TOKENS[:, t : t + 2], past_key_values=cache, use_cache=True).logits)
        torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-5)
        padded = torch.cat((torch.zeros(3, 4, dtype=torch.long), TOKENS), 1)
        seen = (torch.arange(28) >= 4).long().expand(3, -1)
        places = (torch.arange(28) - 4).clamp(min=0).expand(3, -1)
        left = model(padded, attention_mask=seen, position_ids=places).logits[:, 4:]
        torch.testing.assert_close(left, whole, atol=1e-5, rtol=1e-5)
        shown = model(TOKENS, output_attentions=True)
        torch.testing.assert_close(shown.logits, whole, atol=1e-5, rtol=1e-5)
    heads = 2 if dials.get("attention") == "differential" else 4
    assert [tuple(w.shape) for w in shown.attentions] == [(3, heads, 24, 24)] * 3
    assert not any(w.triu(1).any() for w in shown.attentions)
    sums = shown.attentions[1].sum(-1)
    # a row of rectified scores without a positive one is zero
    if model.config.architecture.kind.sums_over_tokens_to_one and dials.get("attention") != "rectified":
        torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("dials", DIALS, ids=name_of)
def test_training_sees_the_gradients_of_the_matrix_of_weights(dials):
    model = awake(SMALL.with_(**dials))
    found = []
    for implementation in ("superweights_lab", "eager"):
        model.set_attn_implementation(implementation)
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        found.append((loss, torch.autograd.grad(loss, list(model.parameters()))))
    torch.testing.assert_close(found[0][0], found[1][0])
    for (name, _), one, other in zip(model.named_parameters(), found[0][1], found[1][1], strict=True):
        assert one.any(), f"{name} does not learn"
        torch.testing.assert_close(
            one, other, atol=1e-6 + 1e-4 * float(other.abs().max()), rtol=1e-3, msg=name
        )


def test_the_loss_is_that_of_transformers_with_and_without_logits():
    model = awake(SMALL)
    labels = TOKENS.clone()
    labels[0, :9] = -100
    trained = model(input_ids=TOKENS, labels=labels)
    assert trained.logits is None
    evaluated = model.eval()(input_ids=TOKENS, labels=labels)
    torch.testing.assert_close(trained.loss, evaluated.loss)
    torch.testing.assert_close(evaluated.loss, ForCausalLMLoss(evaluated.logits, labels, 64))
    counted = model(input_ids=TOKENS, labels=labels, num_items_in_batch=torch.tensor(50)).loss
    torch.testing.assert_close(counted, ForCausalLMLoss(evaluated.logits, labels, 64, torch.tensor(50)))


@pytest.mark.parametrize("kind", ["softmax", "kv_bias", "softpick", "differential", "elu_kernel"])
def test_bfloat16_by_autocast_and_altogether_stays_near(kind):
    model = awake(SMALL.with_(attention=kind))
    exact = model(input_ids=TOKENS, labels=TOKENS).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    assert loss.item() == pytest.approx(exact, abs=0.02)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    whole = model.bfloat16()(input_ids=TOKENS, labels=TOKENS).loss
    whole.backward()
    assert whole.item() == pytest.approx(exact, abs=0.05)


def test_gradient_checkpointing_changes_nothing():
    model = awake(SMALL.with_(lime=True, attention="softmax1"))
    before = torch.autograd.grad(model(input_ids=TOKENS, labels=TOKENS).loss, list(model.parameters()))
    model.gradient_checkpointing_enable()
    after = torch.autograd.grad(model(input_ids=TOKENS, labels=TOKENS).loss, list(model.parameters()))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)


# as everybody's checkpoint


@pytest.mark.parametrize("dials", DIALS[:: len(DIALS) // 8], ids=name_of)
def test_a_saved_model_opens_generates_and_is_the_same(dials, tmp_path):
    model = awake(SMALL.with_(**dials)).eval()
    model.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert opened.config.architecture == model.config.architecture
    assert torch.equal(opened(TOKENS).logits, model(TOKENS).logits)
    said = [
        one.generate(TOKENS[:, :6], max_new_tokens=5, do_sample=False, use_cache=cached)
        for one, cached in ((opened, True), (model, False))
    ]
    assert torch.equal(*said)


def test_without_superweights_a_saved_model_is_refused(tmp_path):
    build(SMALL, seed=0).save_pretrained(tmp_path)
    code = f"import transformers; transformers.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert alone.returncode
    assert "superweights_lab" in alone.stderr


def test_a_config_with_a_part_that_does_not_exist_is_refused(tmp_path):
    build(SMALL, seed=0).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["parts"]["attention"] = "hardmax"
    file.write_text(json.dumps(config))
    with pytest.raises(SuperweightsError, match="no attention named 'hardmax'"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_peft_trains_an_adapter_on_a_lab_model():
    peft = pytest.importorskip("peft")
    wanted = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(awake(SMALL.with_(attention="softpick")), wanted)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learning
    assert all("lora_" in name for name in learning)


MISSING = {
    "post": {"attn_norm_in", "head_out", "attn_write", "mid", "mlp_norm_in", "mlp_act", "mlp_write"},
    "op": {"attn_norm_in", "mlp_norm_in"},  # there are no norms
}


@pytest.mark.parametrize("dials", DIALS, ids=name_of)
def test_every_design_has_the_same_tap_sites(dials):
    model = awake(SMALL.with_(**dials)).eval()
    shapes: dict[Site, tuple[int, ...]] = {}
    sites = sites_of(model)
    assert set(sites.refusals()) == MISSING.get(dials.get("placement", ""), set())
    assert {site.kind for site in sites.places} >= set(KINDS) - MISSING.get(dials.get("placement", ""), set())
    taps = {
        site: lambda tensor, site=site: shapes.update({site: tuple(tensor.shape)}) for site in sites.places
    }
    with torch.no_grad():
        plain = model(TOKENS).logits
        with tapping(model, taps):
            tapped = model(TOKENS).logits
    torch.testing.assert_close(tapped, plain, atol=1e-5, rtol=1e-5)
    queries = model.config.architecture.query_heads
    assert shapes[Site("weights", 1)] == shapes[Site("logits", 1)] == (3, queries, 24, 24)
    heads, width = (2, 16) if dials.get("attention") == "differential" else (4, 8)
    if dials.get("placement") != "post":
        assert shapes[Site("head_out", 1)] == (3, 24, heads, width)


def test_a_tap_edits_weights_that_are_no_softmax():
    model = awake(SMALL.with_(attention="softpick")).eval()
    with torch.no_grad(), tapping(model, {Site("weights", 1): torch.zeros_like}):
        silent = model(TOKENS).logits
    model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    torch.testing.assert_close(silent, model(TOKENS).logits)


@pytest.mark.parametrize(
    "dials",
    [
        {},
        {"attention": "softpick"},
        {"attention": "differential_v2", "placement": "sandwich"},
        {"lime": True, "gated": False},
    ],
    ids=name_of,
)
def test_find_sees_a_planted_weight_and_the_commands_run(dials, tmp_path, capsys):
    sizes = {"vocabulary": 256, "width": families.HIDDEN, "inner": families.INNER, "heads": 4, "layers": 3}
    model = build(Architecture(**sizes, context=256, **dials), seed=0).eval()
    families._enliven(model)
    ids = raw_prompts(256, 8, 12)
    planted = planting.plant(model, ids)
    folder = str(tmp_path / "model")
    model.save_pretrained(folder)
    found = superweights.find(folder, token_ids=ids)
    seen = {str(candidate.address) for candidate in found.candidates}
    assert f"{planted.parameter}[{planted.index[0]}, {planted.index[1]}]" in seen
    assert run(["quantize", folder, "--to", str(tmp_path / "packed")]) == 0
    capsys.readouterr()
    with torch.no_grad():
        packed = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")(ids).logits
        assert (
            torch.corrcoef(torch.stack((packed.flatten(), model(ids).logits.flatten())))[0, 1] > 0.7
        )  # four bits of random weights
