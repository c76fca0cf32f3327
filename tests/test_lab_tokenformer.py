"""TokenFormer: its scores, growth to the bit, and what the other ways of growing do."""

from __future__ import annotations

import json
import math

import pytest
import torch
from small import tiny
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import superweights
from superweights.checkpoint import open_checkpoint
from superweights.cli import app
from superweights.errors import SuperweightsError
from superweights.lab.tokenformer.config import TokenFormerConfig
from superweights.lab.tokenformer.growth import WAYS, grow, grown
from superweights.lab.tokenformer.moments import carry_moments
from superweights.lab.tokenformer.pattention import Pattention, score
from superweights.lab.tokenformer.usage import slot_usage
from superweights.verbs.grow import grow as grow_folder

pytestmark = pytest.mark.tiny
IDS = torch.randint(96, (2, 19), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny(TokenFormerConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4))


@pytest.fixture
def layer() -> Pattention:
    torch.manual_seed(0)
    return Pattention(64, 64, 48)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(33, 64, generator=torch.Generator().manual_seed(2))


def change(before: torch.Tensor, after: torch.Tensor) -> float:
    return float(((after - before).norm() / before.norm()).detach())


def test_scores_are_the_published_formula(layer, x):
    a = x @ layer.key.weight.T
    z = a * math.sqrt(48) / a.square().sum(-1, keepdim=True).sqrt()
    by_hand = 0.5 * z * (1 + torch.erf(z / math.sqrt(2))) @ layer.value.weight.T
    assert torch.allclose(layer(x), by_hand, atol=1e-6)


def test_output_does_not_depend_on_the_scale_of_the_input(layer, x):
    assert torch.allclose(layer(1000 * x), layer(x), atol=1e-5)


def test_order_of_slots_means_nothing(layer, x):
    before, order = layer(x), torch.randperm(48)
    layer.key.weight.data = layer.key.weight.data[order]
    layer.value.weight.data = layer.value.weight.data[:, order]
    assert torch.allclose(layer(x), before, atol=1e-6)


def test_scores_keep_to_their_bound(layer, x):
    a = layer.key(x)
    z = a * layer.tau / a.norm(dim=-1, keepdim=True)
    assert torch.allclose(z.square().sum(-1), torch.full((33,), layer.tau**2), atol=1e-4)
    assert layer.scores(x).abs().max() <= layer.tau


@pytest.mark.parametrize("scoring", ["l2_gelu", "gelu_l2", "softmax"])
def test_a_row_of_zeros_stays_finite_with_its_gradient(scoring):
    layer = Pattention(8, 8, (6, 3), scoring=scoring)
    zero = torch.zeros(2, 8, requires_grad=True)
    layer(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_scores_in_training_are_the_same_bits_and_their_gradient_is_that_of_differences(layer, x):
    assert torch.equal(layer(x), layer.eval()(x))
    small = Pattention(3, 2, 5).double()
    assert torch.autograd.gradcheck(small, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))


def test_softmax_mode_is_exp_over_its_sum_times_n():
    a = torch.randn(5, 7)
    e = a.exp()
    assert torch.allclose(score(a, math.sqrt(7), "softmax", (7,)), 7 * e / e.sum(-1, keepdim=True))


@pytest.mark.parametrize("scoring", ["l2_gelu", "gelu_l2"])
@pytest.mark.parametrize("slots", [0, 1, 7, 32, 100])
def test_zero_keys_and_kept_tau_change_no_bit(layer, x, scoring, slots):
    layer.scoring = scoring
    before = layer(x)
    assert len(grow(layer, slots)) == slots
    assert torch.equal(layer(x), before)


def test_negative_controls_change_the_function(x):
    """Measured in the specification for these sizes: 0.72 and more for softmax, 0.35 for random keys, 0.86 for tau."""
    changes = {}
    for name, scoring, how in (
        ("softmax", "softmax", {}),
        ("tau", "l2_gelu", {"tau": "sqrt"}),
        ("keys", "l2_gelu", {"keys": "random", "values": "zero"}),
        ("both random", "l2_gelu", {"keys": "random"}),
    ):
        torch.manual_seed(0)
        layer = Pattention(64, 64, 48, scoring=scoring)
        before = layer(x)
        grow(layer, 100 if name in ("softmax", "tau") else 32, **how)
        changes[name] = change(before, layer(x))
    assert min(changes.values()) > 0.1, changes


def test_tau_of_all_slots_multiplies_gelu_l2_by_the_root_of_the_ratio(x):
    layer = Pattention(64, 64, 48, scoring="gelu_l2")
    before = layer(x)
    grow(layer, 100, tau="sqrt")
    assert torch.allclose(layer(x), before * math.sqrt(148 / 48), atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "values", "learn_keys", "learn_values"),
    [
        ("zero", "random", True, False),
        ("random", "zero", True, True),
        ("zero", "zero", False, False),
        ("random", "random", True, True),
    ],
)
def test_which_new_slots_have_a_gradient(layer, x, keys, values, learn_keys, learn_values):
    grow(layer, 32, keys=keys, values=values)
    layer(x).square().sum().backward()
    new_keys, new_values = layer.key.weight.grad[48:], layer.value.weight.grad[:, 48:]
    assert bool(new_keys.any()) == learn_keys
    assert bool(new_values.any()) == learn_values


def test_new_values_wake_up_after_one_step(layer, x):
    grow(layer, 32)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    layer(x).square().sum().backward()
    assert layer.value.weight.grad[:, 48:].any()


def test_a_matched_block_has_the_parameters_of_a_transformer_block():
    config = TokenFormerConfig(hidden_size=64)
    block = tiny(config).model.layers[0]
    slots = sum(config.total(kind) for kind in ("q", "k", "v", "o", "ffn"))
    assert sum(p.numel() for p in block.parameters()) == 2 * 64 * slots == 12 * 64**2


@pytest.mark.parametrize("shape", [(1, 1), (2, 19), (3, 64)])
@pytest.mark.parametrize("slots", [1, 5, 8, 33, 200])
def test_a_grown_model_gives_the_same_logits_to_the_bit(model, shape, slots):
    ids = torch.randint(96, shape)
    assert torch.equal(grown(model, slots)(ids).logits, model(ids).logits)


def test_growing_twice_through_save_and_load_changes_no_bit(model, tmp_path):
    model.save_pretrained(tmp_path / "small")
    first = grow_folder(tmp_path / "small", 5, tmp_path / "middle")
    second = grow_folder(tmp_path / "middle", 12, tmp_path / "large")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "large").eval()
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert second.slots["q"] == [24, 5, 12]
    assert first.parameters[1] == second.parameters[0] < second.parameters[1]


def test_the_other_ways_are_labelled_and_change_the_function(model):
    before = model(IDS).logits
    changes = {way: change(before, grown(model, 20, way=way)(IDS).logits) for way in WAYS}
    assert changes["exact"] == 0.0 < 0.01 < changes["paper"]
    assert changes["released"] > 0.01


def test_half_precision_grows_to_the_bit_too(model):
    half = tiny(model.config).to(torch.bfloat16)
    assert torch.equal(grown(half, 9)(IDS).logits, half(IDS).logits)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        ids = torch.randint(96, (2, 16), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()


def test_with_carried_moments_the_next_step_is_the_one_that_would_have_come(model):
    """Old weights move exactly as in torch's AdamW on the model that did not grow."""
    small = tiny(model.config)
    adam = torch.optim.AdamW(small.parameters(), 1e-3)
    trained(small, adam, 3)
    large = grown(small, 7)
    carried = torch.optim.AdamW(large.parameters(), 1e-3)
    carry_moments(adam, small, carried, large)
    trained(small, adam, 1)
    trained(large, carried, 1)
    for was, now in zip(small.parameters(), large.parameters(), strict=True):
        assert torch.allclose(now[tuple(slice(0, n) for n in was.shape)], was, atol=1e-6)


def test_a_trainers_optimizer_state_is_carried_in_the_folder(model, tmp_path):
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path / "run"), report_to=[], use_cpu=True)
    trainer = Trainer(tiny(model.config), arguments)
    optimizer = trainer.create_optimizer()
    trained(trainer.model, optimizer, 2)
    trainer.model.save_pretrained(tmp_path / "small")
    torch.save(optimizer.state_dict(), tmp_path / "small" / "optimizer.pt")
    growth = grow_folder(tmp_path / "small", 6, tmp_path / "large")
    larger = Trainer(AutoModelForCausalLM.from_pretrained(tmp_path / "large"), arguments)
    fresh = larger.create_optimizer()
    fresh.load_state_dict(torch.load(tmp_path / "large" / "optimizer.pt"))
    assert growth.optimizer == "carried"
    key, was = larger.model.model.layers[1].ffn.key.weight, trainer.model.model.layers[1].ffn.key.weight
    assert torch.equal(fresh.state[key]["exp_avg"][: len(was)], optimizer.state[was]["exp_avg"])
    assert not fresh.state[key]["exp_avg"][len(was) :].any()
    restarted = grow_folder(tmp_path / "small", 6, tmp_path / "fresh", optimizer="restart")
    assert restarted.optimizer == "restarted"
    assert not (tmp_path / "fresh" / "optimizer.pt").exists()


def test_generation_with_a_cache_is_generation_without(model):
    with_cache = model.generate(IDS, max_new_tokens=6, do_sample=False)
    assert torch.equal(with_cache, model.generate(IDS, max_new_tokens=6, do_sample=False, use_cache=False))


def test_slot_usage_is_that_of_the_scores(model):
    larger = grown(model, 8)
    usage = {each.path: each for each in slot_usage(larger, IDS)}
    assert len(usage) == 10  # five writers in two blocks
    seen = usage["model.layers.0.attention.q"]
    block = larger.model.layers[0]
    scores = block.attention.q.scores(block.attention_norm(larger.model.embed_tokens(IDS)))
    share = scores.detach().square().sum((0, 1))
    share = share / share.sum()
    assert seen.largest == pytest.approx(float(share.max()) * 32, rel=1e-4)
    assert seen.by_generation == pytest.approx((1.0, 0.0))
    assert seen.spike == pytest.approx(float(scores.detach().abs().max()))
    assert seen.of_bound <= 1


def test_a_planted_super_weight_is_found_in_a_saved_grown_folder(tmp_path):
    """Slot k of the last Pattention of block 1 writes one channel alone: row = channel, column = slot."""
    model = tiny(TokenFormerConfig(vocab_size=96, hidden_size=64, num_hidden_layers=3, num_attention_heads=4))
    seen: list[torch.Tensor] = []
    hook = model.model.layers[1].ffn.value.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    from superweights.discovery import Search
    from superweights.subject.reading import raw_prompts

    model(raw_prompts(96, 8, 12))
    hook.remove()
    slot = int(seen[0].abs().amax((0, 1)).argmax())
    model.model.layers[1].ffn.value.weight.data[17, slot] = 300.0
    grown(model, 16).save_pretrained(tmp_path)
    found = superweights.find(str(tmp_path), Search(windows=0))
    addresses = [str(weight.address) for weight in found.candidates]
    assert f"model.layers.1.ffn.value.weight[17, {slot}]" in addresses


def test_all_five_writers_are_matrices_to_round_and_a_grown_folder_opens_again(model, tmp_path):
    from superweights.formats.packed.writing import write_packed
    from superweights.quantization import Blocks, Scheme
    from superweights.quantization.plan import Plan
    from superweights.stream.linears import linear_tensors

    grown(model, 8).save_pretrained(tmp_path / "large")
    with open_checkpoint(str(tmp_path / "large")) as checkpoint:
        tensors = linear_tensors(checkpoint)
        writers = {name.rsplit(".", 3)[-3] for name in tensors if name.endswith("value.weight")}
        assert writers == {"q", "k", "v", "output", "ffn"}
        write_packed(
            checkpoint, Plan.uniform(tensors, Scheme("int8", blocks=Blocks("group", (8,)))), tmp_path / "int8"
        )
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "int8").eval()
    assert (
        change(model(IDS).logits, rounded(IDS).logits) < 0.1
    )  # new keys are zero: their scale must not be 1/0


@pytest.mark.parametrize("slots", [0, -3])
def test_growing_by_nothing_is_refused_and_nothing_is_written(model, tmp_path, slots):
    model.save_pretrained(tmp_path / "small")
    with pytest.raises(SuperweightsError, match=f"cannot grow by {slots} slots"):
        grow_folder(tmp_path / "small", slots, tmp_path / "large")
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_what_is_no_tokenformer_cannot_grow(tmp_path):
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
        )
    )
    with pytest.raises(SuperweightsError, match="A LlamaForCausalLM has no slots"):
        grown(llama, 4)
    llama.save_pretrained(tmp_path / "llama")
    with pytest.raises(SuperweightsError, match="holds a llama, which has no slots"):
        grow_folder(tmp_path / "llama", 4, tmp_path / "large")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, "not divided by 4 heads"),
        ({"scoring": "relu"}, "no scoring 'relu'"),
        ({"slots": {"q": [4]}}, "Slots and tau are needed for"),
    ],
)
def test_sizes_that_make_no_model_are_refused(settings, said):
    with pytest.raises(SuperweightsError, match=said):
        TokenFormerConfig(**settings)


def test_the_command_grows_a_folder_and_says_so(model, tmp_path):
    model.save_pretrained(tmp_path / "small")
    arguments = ["lab", "grow", str(tmp_path / "small"), "--slots", "4", "--to", str(tmp_path / "large")]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    said = json.loads(result.stdout)
    assert said["logits_equal"]
    assert said["slots"]["ffn"] == [96, 16]
    again = CliRunner().invoke(app, arguments)
    assert "already" in str(again.exception) or "empty" in str(again.exception)
