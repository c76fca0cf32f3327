"""Streaming: the model's own forward with one block in memory, against transformers' whole model."""

from __future__ import annotations

import gc
import json
import weakref

import families
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.stream import opened, streaming
from superweights.stream.device import choose_device, choose_dtype
from superweights.subject import is_streamed, layout_of

pytestmark = pytest.mark.tiny

# dense, GQA, fused qkv and gate-up, parallel residual, Conv1D, sliding window, post-norm, MoE with fused and
# shared experts, hybrids, tied and untied heads
FAMILIES = [
    "llama",
    "qwen3",
    "phi3",
    "gpt_neox",
    "falcon",
    "gpt2",
    "mistral",
    "gemma3_text",
    "olmo2",
    "mixtral",
    "qwen3_moe",
    "deepseek_v3",
    "gpt_oss",
    "granitemoe",
    "jamba",
    "opt",
    "bloom",
    "dbrx",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a tiny checkpoint of the family, made once for this file."""

    def save(model_type: str):
        folder = tmp_path_factory.getbasetemp() / f"stream-{model_type}"
        if not folder.exists():
            families.save_tiny(model_type, folder)
        return folder

    return save


def whole_logits(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.config.use_cache = False
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("model_type", FAMILIES)
def test_streamed_logits_equal_the_whole_models(saved, model_type):
    folder, ids = saved(model_type), families.token_ids()
    with (
        open_checkpoint(str(folder)) as checkpoint,
        streaming(checkpoint, dtype="float32", resident=False) as model,
    ):
        assert is_streamed(model)
        assert torch.equal(model(ids).logits, whole_logits(folder, ids))


def test_resident_logits_equal_the_streamed_ones(saved):
    folder, ids = saved("llama"), families.token_ids()
    with open_checkpoint(str(folder)) as checkpoint:
        with streaming(checkpoint, resident=True) as model:
            assert not is_streamed(model)
            resident = model(ids).logits
        with streaming(checkpoint, resident=False) as model:
            assert torch.equal(model(ids).logits, resident)


def test_only_one_block_is_in_memory_while_it_runs(saved):
    with open_checkpoint(str(saved("llama"))) as checkpoint, streaming(checkpoint, resident=False) as model:
        held = []

        def count(*_):
            held.append([not block.mlp.down_proj.weight.is_meta for block in model.model.layers])

        for block in model.model.layers:
            block.mlp.register_forward_hook(count)
        model(families.token_ids())
        assert [sum(row) for row in held] == [1] * len(model.model.layers)
        assert all(p.is_meta for p in model.model.layers.parameters())


def test_blocks_are_dropped_when_the_forward_fails(saved):
    with open_checkpoint(str(saved("llama"))) as checkpoint, streaming(checkpoint, resident=False) as model:

        def fail(*_):
            raise ValueError("on purpose")

        model.model.layers[1].mlp.register_forward_hook(fail)
        with pytest.raises(ValueError, match="on purpose"):
            model(families.token_ids())
        gc.collect()
        assert all(p.is_meta for p in model.model.layers.parameters())


def test_a_stored_float16_is_computed_in_float32_unless_asked_for(saved, tmp_path):
    families.save_tiny("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: t.half() for name, t in load_file(file).items()}, file, metadata={"format": "pt"})
    with open_checkpoint(str(tmp_path)) as checkpoint:
        assert choose_dtype(checkpoint, None) is torch.float32
        assert choose_dtype(checkpoint, "float16") is torch.float16


@pytest.mark.parametrize(("has", "computed"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_stored_bfloat16_is_computed_in_float32_where_the_processor_has_none(
    tmp_path, monkeypatch, has, computed
):
    families.save_tiny("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: t.bfloat16() for name, t in load_file(file).items()}, file, metadata={"format": "pt"})
    monkeypatch.setattr("superweights.stream.device.has_bfloat16", lambda: has)
    with open_checkpoint(str(tmp_path)) as checkpoint:
        assert choose_dtype(checkpoint, None) is computed
        assert choose_dtype(checkpoint, "bfloat16") is torch.bfloat16
        assert choose_dtype(checkpoint, None, torch.device("meta")) is torch.bfloat16
        with streaming(checkpoint) as model:
            assert model.dtype is computed
            assert model(families.token_ids()).logits.dtype is computed


def test_bad_types_and_devices_are_explained(saved):
    with open_checkpoint(str(saved("llama"))) as checkpoint:
        with pytest.raises(SuperweightsError, match="not a floating-point type"):
            choose_dtype(checkpoint, "int8")
    for name in ("no-such-device", "tpu"):
        with pytest.raises(SuperweightsError) as refused:
            choose_device(name)
        assert refused.value.message == f"There is no device {name!r}."
    with pytest.raises(SuperweightsError, match="cannot be used"):
        choose_device("hpu")


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path):
    families.save_tiny("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    kept = {n: t for n, t in load_file(file).items() if n != "model.layers.1.mlp.down_proj.weight"}
    save_file(kept, file, metadata={"format": "pt"})
    with open_checkpoint(str(tmp_path)) as checkpoint:
        with pytest.raises(SuperweightsError, match=r"lacks 1 of the tensors.*layers\.1\.mlp\.down_proj"):
            with streaming(checkpoint):
                pass


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    families.save_tiny("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(3, 5)
    save_file(tensors, file, metadata={"format": "pt"})
    with open_checkpoint(str(tmp_path)) as checkpoint, pytest.raises(SuperweightsError, match="has shape"):
        with streaming(checkpoint, resident=False) as model:
            model(families.token_ids())


@pytest.mark.parametrize("config", [{"model_type": "t5"}, {"model_type": "vit"}])
def test_what_is_no_causal_language_model_is_refused(tmp_path, config):
    families.save_tiny("llama", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with open_checkpoint(str(tmp_path)) as checkpoint, pytest.raises(SuperweightsError, match="hint:"):
        with streaming(checkpoint):
            pass


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "qwen3_moe", "gpt_oss", "dbrx", "phi3"])
def test_every_checkpoint_element_is_found_in_the_model_and_back(saved, model_type):
    """The layout's two directions agree, and the element that they name has the file's value."""
    folder = saved(model_type)
    with open_checkpoint(str(folder)) as checkpoint, streaming(checkpoint, resident=True) as model:
        layout = layout_of(model)
        picker = torch.Generator().manual_seed(0)
        for name, info in checkpoint.tensors.items():
            index = tuple(int(torch.randint(n, (), generator=picker)) for n in info.shape)
            if len(index) < 2:
                continue
            parameter, place = layout.parameter_of(Address(name, index))
            assert float(model.get_parameter(parameter)[place]) == checkpoint.element(name, index)
            stored = layout.address_of(parameter, place)
            assert checkpoint.element(stored.tensor, stored.index) == checkpoint.element(name, index)
            if parameter not in ("lm_head.weight", "transformer.wte.weight"):
                assert stored == Address(name, index)


def test_an_opening_for_training_has_gradients_and_never_writes_to_the_file(saved):
    """One step of torch's own SGD moves every parameter; the checkpoint's bytes stay."""
    folder, ids = saved("llama"), families.token_ids()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with (
        open_checkpoint(str(folder)) as checkpoint,
        opened(checkpoint, trainable=True, dtype="float32") as model,
    ):
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        old = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        model(ids, labels=ids).loss.backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        assert all(not torch.equal(old[name], parameter) for name, parameter in model.named_parameters())
        assert checkpoint.fingerprint() == open_checkpoint(str(folder)).fingerprint()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_opening_for_training_predicts_what_transformers_does(saved):
    folder, ids = saved("llama"), families.token_ids()
    with (
        open_checkpoint(str(folder)) as checkpoint,
        opened(checkpoint, trainable=True, dtype="float32") as model,
    ):
        assert torch.equal(model.eval()(ids).logits.detach(), whole_logits(folder, ids))


def test_a_model_that_nobody_holds_any_more_is_gone(saved):
    with open_checkpoint(str(saved("llama"))) as checkpoint, streaming(checkpoint, resident=False) as model:
        gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
