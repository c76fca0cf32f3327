"""Edits: written, parsed, made, and undone bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import tiny
from torch import nn
from transformers import (
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
)

from superweights.address import Address
from superweights.editing import (
    Edit,
    assign,
    double,
    edited,
    flip_sign,
    halve,
    randomise,
    scale,
    spread,
    weight_value,
    zero,
)
from superweights.errors import SuperweightsError
from superweights.subject import announce

DOWN = "model.layers.1.mlp.down_proj.weight"
IDS = torch.arange(12).reshape(2, 6)


def llama(**extra) -> nn.Module:
    return tiny(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            **extra,
        )
    )


def gpt2() -> nn.Module:
    return tiny(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2))


def mixtral() -> nn.Module:
    return tiny(
        MixtralConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
        )
    )


CASES = [
    pytest.param(llama, DOWN, (3, 20), id="linear"),
    pytest.param(gpt2, "transformer.h.1.mlp.c_proj.weight", (60, 3), id="conv1d"),
    pytest.param(mixtral, "model.layers.1.mlp.experts.down_proj", (2, 15, 20), id="fused-experts"),
    pytest.param(lambda: llama(tie_word_embeddings=True), "lm_head.weight", (5, 7), id="tied"),
    pytest.param(llama, "model.norm.weight", (3,), id="gain"),
]


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    now = model.state_dict()
    assert now.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(now[name].view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.unit
@given(
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
def test_an_edit_survives_text_and_json(index, number, sets):
    address = Address("a.b.weight", index)
    edit = Edit(address, value=number) if sets else Edit(address, factor=number)
    assert Edit.parse(str(edit)) == edit
    assert Edit.from_json(edit.to_json()) == edit


@pytest.mark.unit
@pytest.mark.parametrize(
    "text",
    ["", "w[1]", "w[1]=", "w[1]=x", "w[1]==2", "w[1]:2", "w[1]=nan", "w[1]:=inf", "w=2", "w[-1]=2", "[1]=2"],
)
def test_what_is_not_an_edit_is_refused_with_a_hint(text):
    with pytest.raises(SuperweightsError, match="hint: "):
        Edit.parse(text)


@pytest.mark.unit
@pytest.mark.parametrize("given_", [{}, {"factor": 1.0, "value": 1.0}, {"factor": True}, {"value": math.nan}])
def test_an_edit_needs_exactly_one_finite_number(given_):
    with pytest.raises(SuperweightsError):
        Edit(Address("w", (0,)), **given_)


@pytest.mark.unit
def test_named_edits_are_the_factors_they_say():
    two = [Address("w", (0, 1)), Address("w", (2, 3))]
    assert [e.factor for e in (*zero(two), *flip_sign(two), *halve(two), *double(two))] == [
        0, 0, -1, -1, 0.5, 0.5, 2, 2,
    ]  # fmt: skip
    assert assign(two[0], 3) == (Edit(two[0], value=3.0),)


@pytest.mark.unit
def test_random_replacements_are_seeded_and_as_large_as_the_weight():
    addresses = [Address("w", (i, 0)) for i in range(4000)]
    factors = torch.tensor([edit.factor for edit in randomise(addresses, seed=1)])
    assert randomise(addresses[7], seed=1) == randomise(addresses, seed=1)[7:8]
    assert randomise(addresses[7], seed=2) != randomise(addresses[7], seed=1)
    assert factors.square().mean().item() == pytest.approx(1, abs=5 * math.sqrt(2 / 4000))
    assert factors.mean().item() == pytest.approx(0, abs=5 / math.sqrt(4000))


@pytest.mark.tiny
def test_spreading_keeps_the_sum_of_the_row():
    model = llama()
    weight = model.get_parameter(DOWN).detach()
    before = weight.clone()
    edits = spread(Address(DOWN, (3, 20)), [0, 5, 9], lambda address: weight_value(model, address))
    with edited(model, edits):
        assert weight[3, 20] == 0
        assert weight[3].sum().item() == pytest.approx(before[3].sum().item(), abs=1e-6)
        assert (weight != before).sum() == 4
    assert torch.equal(weight, before)


@pytest.mark.unit
@pytest.mark.parametrize("over", [[], [1, 1], [2]])
def test_spreading_needs_other_neurons(over):
    with pytest.raises(SuperweightsError, match="spread"):
        spread(Address("w", (0, 2)), over, lambda address: 1.0)


@pytest.mark.tiny
@pytest.mark.parametrize(("make", "tensor", "index"), CASES)
@pytest.mark.parametrize("verify", [True, False])
def test_an_edit_changes_one_number_and_is_undone(make: Callable, tensor, index, verify):
    model = make()
    before = bits(model)
    w = before[tensor][index].item()
    with edited(model, Edit(Address(tensor, index), factor=-3), verify=verify) as (change,):
        assert (change.before, change.after) == (w, pytest.approx(-3 * w, rel=1e-6))
        now = model.state_dict()
        assert now[tensor][index].item() == change.after
        storages = {name for name in before if now[name].data_ptr() == now[tensor].data_ptr()}
        assert sum((now[name] != before[name]).sum().item() for name in storages) == len(storages)
        assert all(torch.equal(now[name], before[name]) for name in before if name not in storages)
    assert_same_bits(model, before)


@pytest.mark.tiny
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_edit_is_undone_when_the_body_raises(error):
    model = llama()
    before = bits(model)
    edits = zero([Address(DOWN, (3, 20)), Address(DOWN, (0, 0))])
    with pytest.raises(error), edited(model, edits):  # noqa: PT012
        assert model.get_parameter(DOWN)[3, 20] == 0
        raise error
    assert_same_bits(model, before)


@pytest.mark.tiny
def test_an_edit_is_undone_when_a_later_edit_fails():
    model = llama().half()
    before = bits(model)
    good, bad = Edit(Address(DOWN, (0, 0)), factor=0), Edit(Address(DOWN, (1, 1)), value=1e6)
    with pytest.raises(SuperweightsError, match="float16 cannot hold"), edited(model, [good, bad]):
        pytest.fail("the body must not run")
    assert_same_bits(model, before)


@pytest.mark.tiny
def test_nested_edits_of_different_weights_add_up():
    model = llama()
    before = bits(model)
    weight = model.get_parameter(DOWN)
    with edited(model, zero(Address(DOWN, (0, 0)))):
        with edited(model, zero(Address(DOWN, (1, 1)))):
            assert weight[0, 0] == weight[1, 1] == 0
        assert weight[0, 0] == 0
        assert weight[1, 1] == before[DOWN][1, 1]
    assert_same_bits(model, before)


@pytest.mark.tiny
def test_an_edited_model_computes_what_a_model_with_that_weight_computes():
    model, other = llama(), llama()
    other.get_parameter(DOWN).data[3, 20] = 5.0
    with torch.no_grad(), edited(model, Edit(Address(DOWN, (3, 20)), value=5)):
        assert torch.equal(model(IDS).logits, other(IDS).logits)
        assert not torch.equal(model(IDS).logits, llama()(IDS).logits)


@pytest.mark.tiny
def test_the_value_said_is_the_value_stored():
    model = llama().bfloat16()
    with edited(model, Edit(Address(DOWN, (3, 20)), value=math.pi)) as (change,):
        assert change.after == torch.tensor(math.pi).bfloat16().item() != math.pi


@pytest.mark.tiny
def test_ablating_a_negative_weight_stores_plain_zero():
    model = llama()
    index = tuple((model.get_parameter(DOWN) < 0).nonzero()[0].tolist())
    with edited(model, zero(Address(DOWN, index))) as (change,):
        assert math.copysign(1, change.after) == 1


@pytest.mark.tiny
def test_weights_made_in_inference_mode_can_be_edited():
    with torch.inference_mode():
        model = llama()
        before = bits(model)
    with edited(model, zero(Address(DOWN, (3, 20)))):
        assert model.get_parameter(DOWN)[3, 20] == 0
    assert_same_bits(model, before)


@pytest.mark.tiny
def test_weights_mapped_from_a_file_are_edited_in_memory_only(tmp_path):
    model = llama()
    file = tmp_path / "down"
    data = model.get_parameter(DOWN).detach().numpy().tobytes()
    file.write_bytes(data)
    mapped = torch.from_file(str(file), shared=False, size=16 * 24).reshape(16, 24)
    model.model.layers[1].mlp.down_proj.weight = nn.Parameter(mapped)
    with edited(model, zero(Address(DOWN, (3, 20)))):
        assert mapped[3, 20] == 0
    assert mapped.numpy().tobytes() == data == file.read_bytes()


def refusal(model: nn.Module, *edits: str) -> str:
    before = bits(model)
    with pytest.raises(SuperweightsError) as caught, edited(model, [Edit.parse(edit) for edit in edits]):
        pytest.fail("the body must not run")
    assert_same_bits(model, before)
    return str(caught.value)


@pytest.mark.tiny
def test_an_absent_tensor_is_refused_with_the_closest_name():
    assert f"closest names are {DOWN}" in refusal(llama(), "model.layers.1.mlp.down_porj.weight[0, 0]=0")


@pytest.mark.tiny
@pytest.mark.parametrize("index", ["16, 0", "0, 24", "0", "0, 0, 0"])
def test_an_index_outside_the_tensor_is_refused_with_its_shape(index):
    assert "[16, 24]" in refusal(llama(), f"{DOWN}[{index}]=0")


@pytest.mark.tiny
def test_two_edits_of_one_weight_are_refused():
    assert "one weight" in refusal(llama(), f"{DOWN}[3, 2]=0", f"{DOWN}[1, 1]=0", f"{DOWN}[3, 2]=2")
    tied = llama(tie_word_embeddings=True)
    assert "one weight" in refusal(tied, "lm_head.weight[3, 2]=0", "model.embed_tokens.weight[3, 2]=0")


@pytest.mark.tiny
def test_the_same_edit_twice_is_refused():
    edit = Edit(Address(DOWN, (0, 0)), factor=0)
    with pytest.raises(SuperweightsError, match="one weight"), edited(llama(), [edit, edit]):
        pytest.fail("the body must not run")


@pytest.mark.tiny
def test_a_change_lost_in_rounding_is_refused():
    assert "changes nothing" in refusal(llama().bfloat16(), f"{DOWN}[3, 2]=1.0001")


@pytest.mark.tiny
def test_a_factor_of_one_is_no_change_and_no_error():
    model = llama().bfloat16()
    with edited(model, scale(Address(DOWN, (3, 2)), 1)) as (change,):
        assert change.before == change.after


@pytest.mark.tiny
def test_integer_storage_is_refused():
    model = llama()
    quantized = nn.Parameter(torch.zeros(16, 24, dtype=torch.int8), requires_grad=False)
    model.model.layers[1].mlp.down_proj.weight = quantized
    assert "quantized storage (int8)" in refusal(model, f"{DOWN}[0, 0]=0")


@pytest.mark.tiny
def test_a_tensor_subclass_is_refused():
    class Packed(torch.Tensor):
        pass

    model = llama()
    model.model.layers[1].mlp.down_proj.weight = nn.Parameter(torch.zeros(16, 24).as_subclass(Packed))
    assert "stored as Packed" in refusal(model, f"{DOWN}[0, 0]=0")


@pytest.mark.tiny
def test_a_model_without_weights_is_refused():
    with torch.device("meta"):
        model = llama()
    with pytest.raises(SuperweightsError, match="meta device"), edited(model, zero(Address(DOWN, (0, 0)))):
        pytest.fail("the body must not run")


@pytest.mark.tiny
def test_a_tensor_changed_by_the_body_is_reported():
    model = llama()
    with pytest.raises(SuperweightsError, match="changed by something else"):
        with edited(model, zero(Address(DOWN, (0, 0)))):
            model.get_parameter(DOWN).data[5, 5] += 1


@pytest.mark.tiny
def test_a_tensor_replaced_by_the_body_is_reported():
    model = llama()
    with pytest.raises(SuperweightsError, match="replaced by another"):
        with edited(model, zero(Address(DOWN, (0, 0))), verify=False):
            model.model.layers[1].mlp.down_proj.weight = nn.Parameter(torch.zeros(16, 24))


@pytest.mark.tiny
def test_an_error_of_the_body_is_kept_when_the_tensor_was_changed_too():
    model = llama()
    with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012
        with edited(model, zero(Address(DOWN, (0, 0)))):
            model.get_parameter(DOWN).data[5, 5] += 1
            raise ValueError("mine")
    assert "changed by something else" in caught.value.__notes__[0]


class Stream:
    """The contract of a streamed model: one block's weights exist while it runs, mapped from a store."""

    def __init__(self, model: nn.Module):
        self.on_load: list[Callable] = []
        self.store = bits(model)
        announce(model, stream=self)
        for i, block in enumerate(model.model.layers):
            self._drop(block)
            block.register_forward_pre_hook(lambda b, _, i=i: self._load(b, f"model.layers.{i}"))
            block.register_forward_hook(lambda b, *_: self._drop(b), always_call=True)

    def _load(self, block: nn.Module, path: str) -> None:
        for name, module in block.named_modules():
            for leaf in [leaf for leaf, tensor in module._parameters.items() if tensor is not None]:
                full = ".".join(part for part in (path, name, leaf) if part)
                module._parameters[leaf] = nn.Parameter(self.store[full], requires_grad=False)
                for callback in self.on_load:
                    callback(full, module._parameters[leaf])

    def _drop(self, block: nn.Module) -> None:
        for module in block.modules():
            for leaf, tensor in module._parameters.items():
                if tensor is not None:
                    module._parameters[leaf] = nn.Parameter(tensor.detach().to("meta"), requires_grad=False)


@pytest.mark.tiny
@torch.no_grad()
def test_a_streamed_model_is_edited_at_each_reading_and_its_store_never():
    model, whole = llama(), llama()
    stream = Stream(model)
    before = {name: tensor.clone() for name, tensor in stream.store.items()}
    edits = [Edit(Address(DOWN, (3, 20)), factor=-40), Edit(Address("lm_head.weight", (1, 1)), factor=0)]
    with edited(whole, edits):
        wanted = whole(IDS).logits
    with edited(model, edits) as changes:
        assert [change.edit for change in changes] == edits[1:]
        assert torch.equal(model(IDS).logits, wanted)
        assert torch.equal(model(IDS).logits, wanted), "a second pass must not compound the factor"
        assert {change.edit for change in changes} == set(edits)
    assert not stream.on_load
    assert all(torch.equal(tensor, before[name]) for name, tensor in stream.store.items())
    assert torch.equal(model(IDS).logits, whole(IDS).logits)


@pytest.mark.tiny
@torch.no_grad()
def test_an_edit_of_a_streamed_weight_that_is_never_read_is_an_error():
    model = llama()
    Stream(model)
    model.config.num_hidden_layers = model.model.config.num_hidden_layers = 1
    with pytest.raises(SuperweightsError, match="never read"), edited(model, zero(Address(DOWN, (3, 20)))):
        model(IDS)


@pytest.mark.tiny
def test_a_layout_moves_the_edit_into_the_fused_tensor():
    class Fused:
        def parameter_of(self, address):
            expert = int(address.tensor.split(".")[-3])
            return "model.layers.1.mlp.experts.down_proj", (expert, *address.index)

    model = mixtral()
    announce(model, Fused())
    before = bits(model)
    address = Address("model.layers.1.block_sparse_moe.experts.2.w2.weight", (15, 20))
    with edited(model, zero(address)) as (change,):
        assert change.index == (2, 15, 20)
        assert model.get_parameter(change.parameter)[2, 15, 20] == 0
    assert_same_bits(model, before)
