"""A GGUF file made of a transformers folder: llama.cpp computes the same with it, and transformers reads it back."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from letters import letters
from small import tiny
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders as decode
from tokenizers import models as kinds
from tokenizers import pre_tokenizers as cut
from tokenizers import trainers as train
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.formats import gguf_pre
from superweights.formats.gguf import write_gguf
from superweights.quantization import Blocks, Scheme
from superweights.quantization.defaults import Rounding
from superweights.quantization.plan import Plan
from superweights.stream.linears import linear_tensors
from superweights.verbs.quantize import quantize
from tests.llama_cpp import divergence, log_probabilities

Q8_0 = Scheme("int8", zero_point="none", blocks=Blocks("group", (32,)))
Q4_0 = Scheme("int4", zero_point="none", anchor="signed", blocks=Blocks("group", (32,)))
KEPT = Address("model.layers.1.mlp.down_proj.weight", (3, 5))
SIZES = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
TEXT = "It's 1234 new bridges over the river, isn't it? "


def bytes_tokenizer(before=None, *, bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE that has merged what stands in a line of text and digits; `before` cuts what it is given."""
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer = cut.ByteLevel(add_prefix_space=False)
    made.decoder = decode.ByteLevel()
    trainer = train.BpeTrainer(
        vocab_size=480,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=cut.ByteLevel.alphabet(),
        show_progress=False,
    )
    seen = [TEXT * 3, "1234 12345 99 1999 the bridge's\n\n  river", "riverBridge newRiver.Over"]
    made.train_from_iterator(seen * 8, trainer)
    made.add_tokens([AddedToken("<think>", normalized=False)])
    if before is not None:
        made.pre_tokenizer = cut.Sequence([before, cut.ByteLevel(add_prefix_space=False, use_regex=False)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    if bos:
        from tokenizers.processors import TemplateProcessing

        made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, **named)


def saved(folder: Path, config=None, tokenizer=None, dtype=torch.float32) -> Path:
    """A tiny model and a tokenizer in a folder; its weights are large enough that every head is heard."""
    model = tiny(config or LlamaConfig(**SIZES, **HEADS))
    random = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        spread = 0.15 * torch.randn(parameter.shape, generator=random)
        parameter.data = spread + 1 if parameter.dim() == 1 else spread
    model.to(dtype).save_pretrained(folder)
    (tokenizer or bytes_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture
def llama_cpp():
    pytest.importorskip("xllamacpp", reason="llama.cpp (xllamacpp) is not installed")


def plan_of(checkpoint, keep=()) -> Plan:
    """Q8_0 in the queries and what goes down, Q4_0 in what goes up; the keys and others stay."""
    schemes = {}
    for name in linear_tensors(checkpoint):
        if "q_proj" in name or "down_proj" in name:
            schemes[name] = Q8_0
        elif "up_proj" in name:
            schemes[name] = Q4_0
    return Plan(schemes, tuple(keep))


def fields_of(path: Path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


# transformers' own pieces for llama.cpp's names; GPT-2's is the one inside ByteLevel.
SPLITS = {
    name: cut.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), "isolated")
    for name in ("llama-bpe", "qwen2", "tekken")
}
CUTS = [(None, "gpt-2"), *((split, name) for name, split in SPLITS.items())]
STRETCHED = {
    **{"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, **HEADS),
    "tied": LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True),
    "wide heads": LlamaConfig(**SIZES, **HEADS, head_dim=32),
    "stretched": LlamaConfig(**SIZES, **HEADS, rope_parameters=STRETCHED),
    "mistral": MistralConfig(**SIZES, **HEADS, sliding_window=None),
}


@pytest.mark.tiny
@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_computes_what_transformers_computes(name, tmp_path):
    """The weights of every head, and of every position, stand where llama.cpp looks for them."""
    folder, to = saved(tmp_path / "model", CONFIGS[name]), tmp_path / "new.gguf"
    with open_checkpoint(str(folder)) as source:
        plan, tokenizer = plan_of(source), source.tokenizer()
        ids = tokenizer(TEXT * 2).input_ids
        write_gguf(source, plan, to)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        before = predictions(model, ids)
        for tensor in plan.schemes:
            model.get_parameter(tensor).data = plan.round(tensor, source.read(tensor)).dequantize()
    ours = predictions(model, ids)
    last = next(n for n in reversed(range(len(ids))) if tokenizer.decode([int(ours[n].argmax())]).isascii())
    theirs = log_probabilities(
        to, ids[: last + 1]
    )  # it tells nothing where half a character is the likeliest
    assert last > 16
    assert divergence(ours[last], theirs) < 0.001
    assert divergence(before[last], theirs) > 3 * divergence(ours[last], theirs)


def predictions(model, ids: list[int]) -> torch.Tensor:
    """Log-probabilities `[places, tokens]`."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


@pytest.mark.tiny
@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_transformers_reads_back_every_tensor_that_is_not_rounded_bit_for_bit(name, tmp_path):
    folder, to = saved(tmp_path / name, CONFIGS[name]), tmp_path / "new.gguf"
    with open_checkpoint(str(folder)) as source:
        plan = plan_of(source, [KEPT])
        write_gguf(source, plan, to)
        read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="new.gguf", dtype=torch.float32)
        for name in source.tensors:
            stored = source.read(name)
            wanted = plan.round(name, stored).dequantize() if name in plan.schemes else stored
            wanted = stored if name == KEPT.tensor else wanted
            assert torch.equal(read.get_parameter(name), wanted), name
        with open_checkpoint(str(to)) as ours:
            assert set(ours.tensors) == set(source.tensors)
            assert ours.tensors[KEPT.tensor].dtype == "F32"
            assert ours.tensors["model.layers.0.mlp.down_proj.weight"].dtype == "Q8_0"
    told = fields_of(to)
    assert told["general.architecture"] == "llama"
    assert told["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    assert told["general.file_type"] == gguf.LlamaFileType.ALL_F32
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.tiny
@pytest.mark.usefixtures("llama_cpp")
def test_sixteen_bits_stay_sixteen_and_vectors_become_float32(tmp_path):
    for dtype, kind in ((torch.bfloat16, "BF16"), (torch.float16, "F16")):
        folder, to = saved(tmp_path / kind, dtype=dtype), tmp_path / f"{kind}.gguf"
        with open_checkpoint(str(folder)) as source:
            write_gguf(source, plan_of(source), to)
            with open_checkpoint(str(to)) as read:
                for name in ("model.layers.0.self_attn.k_proj.weight", "model.norm.weight"):
                    assert torch.equal(read.read(name), source.read(name).float())
                assert read.tensors["model.layers.0.self_attn.k_proj.weight"].dtype == kind
                assert read.tensors["model.norm.weight"].dtype == "F32"


@pytest.mark.tiny
@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize(("before", "name"), CUTS)
@pytest.mark.parametrize("bos", [False, True])
def test_the_pre_tokenizer_is_the_one_that_cuts_as_the_tokenizer(before, name, bos, tmp_path):
    tokenizer = bytes_tokenizer(before, bos=bos)
    folder, to = saved(tmp_path / "model", tokenizer=tokenizer), tmp_path / "new.gguf"
    with open_checkpoint(str(folder)) as source:
        write_gguf(source, plan_of(source), to)
    told = fields_of(to)
    assert told["tokenizer.ggml.pre"] == name
    assert told["tokenizer.ggml.add_bos_token"] is bos
    assert told["tokenizer.ggml.add_eos_token"] is False
    special = {each: told[f"tokenizer.ggml.{each}_token_id"] for each in ("bos", "eos")}
    assert special == {"bos": 0, "eos": 1}
    assert told["tokenizer.ggml.padding_token_id"] == 2
    types = told["tokenizer.ggml.token_type"]
    think = tokenizer.convert_tokens_to_ids("<think>")
    assert types[:3] == [gguf.TokenType.CONTROL] * 3
    assert types[think] == gguf.TokenType.USER_DEFINED
    assert types[-1] == gguf.TokenType.UNUSED
    assert len(told["tokenizer.ggml.tokens"]) == len(types) == 512


def refused(folder: Path, to: Path, sentence: str, hint: str = "convert_hf_to_gguf.py") -> None:
    with open_checkpoint(str(folder)) as source:
        with pytest.raises(SuperweightsError, match=sentence) as caught:
            write_gguf(source, plan_of(source), to)
    assert caught.value.message.count(". ") == 0, "one sentence"
    assert hint in str(caught.value.hint)
    assert not [path for path in to.parent.iterdir() if path != folder], "nothing is left"


BAD = {
    "Qwen2ForCausalLM": Qwen2Config(**SIZES, **HEADS),
    "biases": LlamaConfig(**SIZES, **HEADS, attention_bias=True),
    "activation gelu": LlamaConfig(**SIZES, **HEADS, hidden_act="gelu"),
    "sliding window of 64": MistralConfig(**SIZES, **HEADS, sliding_window=64),
    "angles in a part": LlamaConfig(
        **SIZES,
        **HEADS,
        rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 1e4},
    ),
    "angles of the type linear": LlamaConfig(
        **SIZES, **HEADS, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    ),
}


@pytest.mark.tiny
@pytest.mark.parametrize("told", BAD)
def test_another_architecture_is_refused_by_its_name(told, tmp_path):
    refused(saved(tmp_path / "model", BAD[told]), tmp_path / "new.gguf", told)


@pytest.mark.tiny
def test_another_tokenizer_is_refused_by_what_it_is(tmp_path):
    refused(saved(tmp_path / "model", tokenizer=letters()), tmp_path / "new.gguf", "is WordLevel with")
    for path in (tmp_path / "model").glob("tokenizer*"):
        path.unlink()
    refused(tmp_path / "model", tmp_path / "new.gguf", "has no tokenizer, and no GGUF file")


@pytest.mark.tiny
def test_the_whole_verb_refuses_before_it_measures_or_writes_anything(tmp_path):
    folder = saved(tmp_path / "model", tokenizer=letters())
    with pytest.raises(SuperweightsError, match="is WordLevel with"):
        quantize(str(folder), tmp_path / "new.gguf", format="gguf", save_plan=tmp_path / "plan.json")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.tiny
def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tmp_path):
    small = LlamaConfig(**{**SIZES, "vocab_size": 96}, **HEADS)
    refused(saved(tmp_path / "model", small), tmp_path / "new.gguf", "table ends at 95", "that belongs to")


@pytest.mark.tiny
@pytest.mark.usefixtures("llama_cpp")
def test_a_tokenizer_that_llama_cpp_does_not_follow_is_refused(tmp_path, monkeypatch):
    """One that cuts at the letter e, and one whose name the installed llama.cpp does not know."""
    monkeypatch.setattr(gguf_pre, "NAMES", ("gpt-2", "no such name"))
    folder = saved(tmp_path / "model", tokenizer=bytes_tokenizer(cut.Split("e", "isolated")))
    refused(folder, tmp_path / "new.gguf", "no pre-tokenizer among 2 that cuts")


@pytest.mark.tiny
@pytest.mark.usefixtures("llama_cpp")
def test_llama_cpp_is_asked_once_for_one_tokenizer(tmp_path, monkeypatch):
    asked, tried = [], gguf_pre._tried
    monkeypatch.setattr(gguf_pre, "_FOUND", {})
    monkeypatch.setattr(gguf_pre, "_tried", lambda *given: asked.append(given) or tried(*given))
    quantize(
        str(saved(tmp_path / "model")),
        tmp_path / "new.gguf",
        Rounding("int8", 32),
        format="gguf",
        keep=["none"],
        check=None,
    )
    assert len(asked) == 1


@pytest.mark.tiny
def test_without_llama_cpp_no_name_is_guessed(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_pre, "find_spec", lambda name: None)
    refused(saved(tmp_path / "model"), tmp_path / "new.gguf", "llama.cpp, which is not installed")


@pytest.mark.tiny
def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path):
    folder = saved(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with open_checkpoint(str(folder)) as source:
        plan = Plan({"model.layers.0.mlp.up_proj.weight": Q8_0})
        with pytest.raises(SuperweightsError, match=r"has no tensor for model\.layers\.2"):
            write_gguf(source, plan, tmp_path / "new.gguf")
    assert not (tmp_path / "new.gguf").exists()


@pytest.mark.tiny
@pytest.mark.usefixtures("llama_cpp")
def test_a_stopped_one_goes_on_to_the_same_bytes(tmp_path):
    folder = saved(tmp_path / "model")

    def stop(name, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with open_checkpoint(str(folder)) as source:
        with pytest.raises(KeyboardInterrupt):
            write_gguf(source, plan_of(source), tmp_path / "new.gguf", progress=stop)
        assert not (tmp_path / "new.gguf").exists()
        write_gguf(source, plan_of(source), tmp_path / "new.gguf")
        write_gguf(source, plan_of(source), tmp_path / "whole.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "new.gguf", "whole.gguf"]
    assert (tmp_path / "new.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
