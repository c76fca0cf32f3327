"""The lab's attentions on models of other people: every family of transformers, tiny."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import families
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from superweights.errors import SuperweightsError
from superweights.lab.architecture import Architecture
from superweights.lab.attention_of import KINDS, attention_of
from superweights.lab.models.building import build
from superweights.lab.parts.weighing import WEIGH
from superweights.taps.site import Site
from superweights.taps.tapping import tapping

pytestmark = pytest.mark.tiny

IDS = torch.randint(3, 250, (2, 20), generator=torch.Generator().manual_seed(0))

# Families whose attention does not go through the interface, or that have none.
OUTSIDE = (
    *("big_bird", "bloom", "codegen", "cpmant", "doge", "falcon", "falcon_mamba", "git", "gpt_neo"),
    *(
        "gpt_neox_japanese",
        "gptj",
        "mamba",
        "mamba2",
        "megatron-bert",
        "mpt",
        "mvp",
        "openai-gpt",
        "prophetnet",
    ),
    *("reformer", "rembert", "roformer", "rwkv", "trocr", "xglm", "xlm", "xlnet", "xlstm"),
)
INSIDE = [name for name in families.causal_model_types() if name not in {*OUTSIDE, *families.NOT_BUILT}]
# Their own functions shift what goes into the softmax by its maximum, sink and all, or keep another form of it.
OWN_SINK = (
    "gpt_oss",
    "deepseek_v4",
    "hy_v4",
    "inkling2_text",
    "granitemoe_swa",
    "granite_swa",
    "mimo_v2_flash",
)


class WithZeroColumn(TorchFunctionMode):
    """Every softmax over a square of attention has one column more, zero: softmax-1 as its definition says."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in (functional.softmax, torch.softmax, Tensor.softmax) or args[0].ndim != 4:
            return func(*args, **kwargs)
        scores, *rest = args
        return func(functional.pad(scores, (0, 1)), *rest, **kwargs)[..., :-1]


def logits(model: nn.Module, **more: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False, **more).logits


def test_enough_families_are_covered():
    assert len(INSIDE) >= 60


@pytest.mark.parametrize("family", INSIDE)
def test_softmax_is_the_model_itself_and_softmax1_its_softmax_with_a_zero_column(family):
    model = families.tiny_model(family)
    plain = logits(model)
    with attention_of(model, "softmax") as replaced:
        torch.testing.assert_close(logits(model), plain, atol=1e-4, rtol=1e-4)
    assert replaced.calls
    with attention_of(model, "softmax1"):
        ours = logits(model)
    assert torch.equal(logits(model), plain)
    assert not torch.allclose(ours, plain, atol=1e-4)
    if family in OWN_SINK:
        return
    model.set_attn_implementation("eager")
    with WithZeroColumn():
        torch.testing.assert_close(ours, logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", OUTSIDE)
def test_a_model_that_is_not_reached_is_an_error(family):
    model = families.tiny_model(family)
    with pytest.raises(SuperweightsError, match="came by in a forward pass"), attention_of(model, "softmax1"):
        logits(model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_every_kind_is_that_of_a_lab_model_with_the_same_weights(kind, implementation):
    design = {"vocabulary": 256, "width": 32, "heads": 4, "layers": 2, "key_value_heads": 2, "inner": 48}
    name = {"null_logit": "softmax1"}.get(kind, kind)
    ours = build(Architecture(**design, attention=name, norm_epsilon=1e-6), seed=0).eval()
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    theirs = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    theirs.set_attn_implementation(implementation)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(5 if parameter.ndim > 1 else 1)
    theirs.load_state_dict(ours.state_dict())
    with attention_of(theirs, kind, *([0.0] if kind == "null_logit" else [])):
        torch.testing.assert_close(logits(theirs), logits(ours), atol=1e-5, rtol=1e-4)
        seen = torch.ones_like(IDS)
        seen[1, :4] = 0
        held = theirs(input_ids=IDS[:, :15], use_cache=True).past_key_values
        step = theirs(input_ids=IDS[:, 15:], past_key_values=held).logits
        torch.testing.assert_close(step, logits(ours)[:, 15:], atol=1e-5, rtol=1e-4)
        masked = logits(theirs, attention_mask=seen), logits(ours, attention_mask=seen)
        torch.testing.assert_close(masked[0][1, 4:], masked[1][1, 4:], atol=1e-5, rtol=1e-4)


def test_a_sink_that_a_model_has_stays_beside_ours():
    model = families.tiny_model("gpt_oss")
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.sinks.fill_(0.7)
    with attention_of(model, "softmax1"):
        ours = logits(model)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.sinks.fill_(torch.tensor(0.7).exp().add(1).log().item())
    torch.testing.assert_close(ours, logits(model), atol=1e-5, rtol=1e-4)
    with pytest.raises(SuperweightsError, match="has a learned sink"), attention_of(model, "softpick"):
        logits(model)


def test_capped_scores_are_capped_before_they_are_weighed():
    model = families.tiny_model("gemma2")
    model.config._attn_implementation = "sdpa"  # transformers' own cannot
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.q_proj.weight.mul_(40)
    with attention_of(model, "softmax1"):
        ours = logits(model)
    model.set_attn_implementation("eager")
    with WithZeroColumn():
        torch.testing.assert_close(ours, logits(model), atol=1e-4, rtol=1e-3)


def test_a_null_logit_of_each_head_goes_to_its_head():
    model = families.tiny_model("llama")
    shown: list[Tensor] = []
    heads = model.config.num_attention_heads
    null = torch.full((heads,), -1e9)
    null[1] = 50.0
    with attention_of(model, "null_logit", null), tapping(model, {Site("weights", 0): shown.append}):
        logits(model)
    sums = shown[-1].sum(-1)
    torch.testing.assert_close(sums[:, [0, *range(2, heads)]], torch.ones(2, heads - 1, 20))
    assert sums[:, 1].max() < 1e-6


def test_taps_inside_see_and_edit_the_new_weights():
    model = families.tiny_model("llama")
    shown: list[Tensor] = []
    with attention_of(model, "softpick"):
        plain = logits(model)
        with tapping(model, {Site("weights", 1): shown.append, Site("logits", 1): lambda _: None}):
            torch.testing.assert_close(logits(model), plain, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits(model), plain)
    assert (shown[-1] == 0).float().mean() > 0.6


def test_gradients_go_through_the_new_attention():
    model = families.tiny_model("llama")
    found = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        with attention_of(model, "softmax1"):
            loss = model(input_ids=IDS, labels=IDS).loss
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_everything_is_put_back_when_the_body_raises():
    model, before = families.tiny_model("llama"), dict(ALL_ATTENTION_FUNCTIONS)
    plain = logits(model)

    def body() -> None:
        with attention_of(model, "softmax1"):
            assert not torch.equal(logits(model), plain)
            raise KeyError

    with pytest.raises(KeyError):
        body()
    assert dict(ALL_ATTENTION_FUNCTIONS) == before
    assert torch.equal(logits(model), plain)


def test_two_models_have_each_their_own():
    one, other = families.tiny_model("llama"), families.tiny_model("llama")
    with attention_of(one, "softmax1"):
        alone = logits(one)
        assert torch.equal(logits(other), logits(families.tiny_model("llama")))
        with attention_of(other, "softpick"):
            assert torch.equal(logits(one), alone)
            assert not torch.allclose(logits(other), alone, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("softmx",), "no attention 'softmx'"),
        (("null_logit",), "is given with"),
        (("softmax", 1.0), "is given with"),
    ],
)
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(SuperweightsError, match=said), attention_of(families.tiny_model("llama"), *given):
        pass


def test_dropout_is_refused():
    model = families.tiny_model("llama", attention_dropout=0.5).train()
    with pytest.raises(SuperweightsError, match="attention dropout"), attention_of(model, "softmax1"):
        model(input_ids=IDS)


def test_kinds_without_parameters_are_offered():
    learned = {"softpick_scaled", "elu_kernel", "mlp_kernel", "mlp_kernel_normalized"}
    assert set(KINDS) == set(WEIGH) - learned | {"softmax", "softmax1", "null_logit"}
