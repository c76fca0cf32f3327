"""Pruned checkpoints: the same logits as the model without its sub-layers, cached and not, in families of all kinds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import families
import pytest
import torch
from laid_open import answers, embedded, prose
from small import saved_llama
from transformers import AutoModel, AutoModelForCausalLM

import superweights  # noqa: F401 - teaches transformers the pruned model type
from superweights.artefacts.place import MANIFEST
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.interpretability import ask
from superweights.interpretability.redundancy import (
    LayerRedundancy,
    Redundancies,
    Redundancy,
    Similarity,
    choose,
    choose_at_random,
)
from superweights.pruning import Dropped, drop_effects, prune, without
from superweights.scoring import perplexity
from superweights.stream import streaming
from superweights.subject import is_streamed

pytestmark = pytest.mark.tiny

IDS = torch.randint(3, 96, (2, 14), generator=torch.Generator().manual_seed(1))
# A sub-layer of each kind of block: after each other, side by side, with post-norms and hybrid windows, fused
# projections, transposed weights, experts, and an MLP that is no module.
FAMILIES = ("llama", "gpt2", "gemma2", "gpt_neox", "gptj", "phi3", "mixtral", "opt", "qwen3_next")


def saved(kind: str, folder: Path, **sizes) -> Path:
    families.tiny_model(kind, **sizes).save_pretrained(folder)
    return folder


def pruned(source: Path, to: Path, dropped: Dropped) -> Path:
    with open_checkpoint(source) as checkpoint:
        return prune(checkpoint, dropped, to).folder


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder)(IDS).logits


@pytest.mark.parametrize("kind", FAMILIES)
def test_sublayers_go_for_good(kind, tmp_path):
    source = (
        saved(kind, tmp_path / "whole", num_hidden_layers=4)
        if kind == "llama"
        else saved(kind, tmp_path / "whole")
    )
    dropped = Dropped(attention=(0,), mlp=(1,))
    folder = pruned(source, tmp_path / "pruned", dropped)
    assert bytes_of(folder) < bytes_of(source)
    original = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad(), without(original, dropped):
        expected = original(IDS, use_cache=False).logits
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    how = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(IDS, **how), model.generate(IDS, use_cache=False, **how))


def test_a_hole_in_the_cache_would_be_silent(tmp_path):
    """What the numbering of the cache is for: with the old numbers cached decoding goes wrong."""
    folder = pruned(saved("llama", tmp_path / "whole"), tmp_path / "pruned", Dropped(attention=(0,)))
    model = AutoModelForCausalLM.from_pretrained(folder)
    whole = model(IDS, use_cache=False).logits[:, -1]

    def cached() -> torch.Tensor:
        past = model(IDS[:, :9], use_cache=True).past_key_values
        return model(IDS[:, 9:], past_key_values=past).logits[:, -1]

    with torch.no_grad():
        assert torch.allclose(cached(), whole, atol=1e-5)
        for layer, block in enumerate(model.model.layers[1:], 1):
            block.self_attn.layer_idx = layer
        assert not torch.allclose(cached(), whole, atol=1e-4)


@pytest.mark.parametrize(("kind", "block"), [("llama", 0), ("gpt2", 1), ("gemma2", 1), ("mixtral", 2)])
def test_whole_blocks_go_and_the_rest_is_an_ordinary_checkpoint(kind, block, tmp_path):
    source = saved(kind, tmp_path / "whole")
    folder = pruned(source, tmp_path / "pruned", Dropped(blocks=(block,)))
    original = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad(), without(original, Dropped(blocks=(block,))):
        expected = original(IDS, use_cache=False).logits
    assert torch.allclose(logits(folder), expected, atol=1e-5)
    assert json.loads((folder / "config.json").read_text())["model_type"] == kind


PLAIN = """
import sys
from transformers import AutoModel, AutoModelForCausalLM
blocks, sublayers = sys.argv[1:]
AutoModelForCausalLM.from_pretrained(blocks)
for auto in (AutoModelForCausalLM, AutoModel):
    try:
        auto.from_pretrained(sublayers)
    except ValueError as error:
        assert "superweights_pruned" in str(error), error
    else:
        raise SystemExit("a model with random weights")
import superweights
AutoModelForCausalLM.from_pretrained(sublayers)
"""


def test_without_our_import_transformers_refuses_what_lacks_sublayers(tmp_path):
    source = saved("llama", tmp_path / "whole")
    blocks = pruned(source, tmp_path / "blocks", Dropped(blocks=(1,)))
    sublayers = pruned(source, tmp_path / "sublayers", Dropped(mlp=(1,)))
    found = subprocess.run(
        [sys.executable, "-c", PLAIN, str(blocks), str(sublayers)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    with pytest.raises(ValueError, match="PrunedLlamaConfig"):
        AutoModel.from_pretrained(sublayers)


def test_a_pruned_model_is_saved_trained_and_pruned_again(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    folder = pruned(saved("llama", tmp_path / "whole"), tmp_path / "pruned", Dropped(attention=(0,)))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(tmp_path / "again"), logits(folder))
    twice = pruned(tmp_path / "again", tmp_path / "twice", Dropped(mlp=(2,)))
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    with torch.no_grad(), without(original, Dropped(attention=(0,), mlp=(2,))):
        expected = original(IDS, use_cache=False).logits
    assert torch.allclose(logits(twice), expected, atol=1e-5)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted(IDS, labels=IDS).loss.backward()
    trained = [name for name, p in adapted.named_parameters() if p.grad is not None]
    assert {name.split("layers.")[1][0] for name in trained} == {"1", "2"}


def test_a_pruned_model_is_quantized(tmp_path):
    folder = pruned(
        saved("llama", tmp_path / "whole"), tmp_path / "pruned", Dropped(attention=(0,), mlp=(1,))
    )
    for form in ("packed", "dense"):
        code = run(
            ["quantize", str(folder), "--to", str(tmp_path / form), "--format", form, "--grid", "int8"]
        )
        assert code == 0
    assert torch.allclose(logits(tmp_path / "packed"), logits(tmp_path / "dense"), atol=1e-4)
    assert torch.allclose(logits(tmp_path / "packed"), logits(folder), atol=0.5)


@pytest.mark.parametrize(
    ("dropped", "said"),
    [
        (Dropped(attention=(7,)), "no layer 7"),
        (Dropped(attention=(0, 1, 2)), "leaves nothing of its kind"),
        (Dropped(), "Nothing is to be dropped"),
        (Dropped(mlp=(0,), blocks=(1,)), "one after the other"),
    ],
)
def test_what_cannot_go_is_refused(dropped, said, tmp_path):
    source = saved("llama", tmp_path / "whole")
    with open_checkpoint(source) as checkpoint, pytest.raises(SuperweightsError, match=said):
        prune(checkpoint, dropped, tmp_path / "pruned")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize(
    ("kind", "dropped", "said"),
    [
        ("diffllama", Dropped(blocks=(1,)), "predicts something else"),
        ("zamba", Dropped(blocks=(1,)), "share weights"),
        ("bert-generation", Dropped(mlp=(1,)), "normalises its stream"),
        ("granite_swa", Dropped(attention=(0,)), "key-value cache"),
    ],
)
def test_what_would_be_another_model_is_refused_and_leaves_nothing(kind, dropped, said, tmp_path):
    """diffllama scales by the number of a block; granite_swa's tiny config has one attention of the first kind."""
    source = saved(kind, tmp_path / "whole")
    with open_checkpoint(source) as checkpoint, pytest.raises(SuperweightsError, match=said):
        prune(checkpoint, dropped, tmp_path / "pruned")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"superweights_gaps": {"version": 9, "modules": {}, "cache": {}}}, "version 9"),
        ({"superweights_gaps": None}, "does not say"),
        ({"superweights_gaps": {"version": 1, "modules": {"model.x": [True, 0]}, "cache": {}}}, "model.x"),
        ({"superweights_pruned_model_type": "nothing"}, "'nothing'"),
    ],
)
def test_a_hostile_config_is_one_sentence(change, said, tmp_path):
    folder = pruned(saved("llama", tmp_path / "whole"), tmp_path / "pruned", Dropped(mlp=(1,)))
    (folder / MANIFEST).unlink()  # what stands behind it must hold by itself
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SuperweightsError, match=said):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.unit
def test_a_layer_goes_as_a_whole_or_in_part():
    with pytest.raises(SuperweightsError, match="as a whole and in part"):
        Dropped(mlp=(1,), blocks=(1,)).check(3)
    assert str(Dropped(mlp=(2, 1, 2))) == "mlp 1, 2"


def similar(*values: float) -> Redundancy:
    layers = tuple(
        LayerRedundancy(n, Similarity(v, v), Similarity(v - 0.05, 0), Similarity(v, v))
        for n, v in enumerate(values)
    )
    runs = tuple(tuple(0.5 for _ in range(len(values) + 1 - n)) for n in range(1, len(values) + 1))
    return Redundancy(layers, runs, 1)


@pytest.mark.unit
def test_the_most_similar_go_first_and_what_is_kept_stays():
    found = similar(0.1, 0.9, 0.8, 0.97)
    assert choose(found, "attention", 2) == Dropped(attention=(1, 3))
    assert choose(found, "attention", 2, {("attention", 3)}) == Dropped(attention=(1, 2))
    assert choose(found, "joint", 3) == Dropped(attention=(1, 3), mlp=(3,))
    assert choose(found, "block", 1, {("mlp", 3)}) == Dropped(blocks=(1,))
    with pytest.raises(SuperweightsError, match="4 could"):
        choose(found, "mlp", 5)
    drawn = choose_at_random(found, "mlp", 2, 0, {("mlp", 0)})
    assert drawn.count == 2
    assert 0 not in drawn.mlp
    assert drawn == choose_at_random(found, "mlp", 2, 0, {("mlp", 0)})


def silenced(*layers: int, parts: tuple[str, ...] = ("self_attn.o_proj", "mlp.down_proj")):
    """A tiny Llama of four blocks in which some parts write nothing."""
    model = families.tiny_model("llama", num_hidden_layers=4)
    for layer in layers:
        for part in parts:
            for parameter in model.model.layers[layer].get_submodule(part).parameters():
                parameter.data.zero_()
    return model


def test_a_silent_attention_is_most_redundant_and_costs_nothing():
    model = silenced(2, parts=("self_attn.o_proj",))
    (found,) = ask(model, IDS, Redundancies(), batch_size=1)
    assert found.layers[2].attention is not None
    assert found.layers[2].attention.mean == pytest.approx(1, abs=1e-6)
    assert choose(found, "attention", 1) == Dropped(attention=(2,))
    base, (effect,) = drop_effects(model, IDS, [Dropped(attention=(2,))])
    assert effect.loss.value == 0
    assert effect.perplexity == base


def test_a_run_of_blocks_is_as_long_as_asked():
    """The published code reads the similarity of one block more than it drops."""
    (found,) = ask(silenced(1, 2), IDS, Redundancies())
    assert choose(found, "run", 2) == Dropped(blocks=(1, 2))
    assert choose(found, "run", 1).blocks[0] in (1, 2)
    assert choose(found, "run", 2, {("mlp", 2)}) != Dropped(blocks=(1, 2))
    with pytest.raises(SuperweightsError, match="does not fit"):
        choose(found, "run", 4)


def test_similarities_are_those_of_transformers_states():
    model = families.tiny_model("llama")
    (found,) = ask(model, IDS, Redundancies(), batch_size=1)
    with torch.no_grad():
        states = model(IDS, output_hidden_states=True).hidden_states
    cosines = torch.cosine_similarity(states[1], states[2], dim=-1)
    assert found.layers[1].block is not None
    assert found.layers[1].block.mean == pytest.approx(cosines.mean().item(), abs=1e-6)
    assert found.layers[1].block.least == pytest.approx(cosines.min().item(), abs=1e-6)
    assert found.runs[0][1] == pytest.approx(cosines.mean().item(), abs=1e-6)
    both = torch.cosine_similarity(states[0], states[2], dim=-1)
    assert found.runs[1][0] == pytest.approx(both.mean().item(), abs=1e-6)


def test_the_command_keeps_a_super_weight_and_says_so(tmp_path, capsys):
    """The planted MLP is made the most redundant by its mean: its spike is one token's."""
    tensor = "model.layers.0.mlp.down_proj.weight"
    source = saved_llama(tmp_path / "whole", {tensor: {(5, 7): 4.0}})
    weights = ["--weights", f"{tensor}[5, 7]", "--windows", "4", "--window", "16", "--json"]
    assert (
        run(["prune", str(source), "--what", "mlp", "--drop", "1", *weights, "--to", str(tmp_path / "out")])
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert record["findings"]["dropped"]["mlp"] == [1]
    carrier = next(each for each in record["findings"]["carriers"] if each["layer"] == 0)
    assert (carrier["kind"], carrier["dropped"]) == ("mlp", False)
    assert str((5, 7))[1:-1] in carrier["reason"]
    assert len(record["findings"]["controls"]) == 3
    assert logits(tmp_path / "out").isfinite().all()
    refused = ["prune", str(source), "--what", "mlp", "--layers", "0", *weights]
    assert run(refused) == 1
    assert "holds the super weight" in capsys.readouterr().err
    assert run([*refused, "--carriers"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert next(each for each in record["findings"]["carriers"] if each["layer"] == 0)["dropped"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--what", "norm"],
        ["--layers", "a,b"],
        ["--layers", "9"],
        ["--what", "joint", "--layers", "1"],
        ["--windows", "1"],
        ["--drop", "50"],
        ["--weights", "model.layers.0.nothing[0, 0]"],
        ["--weights", "model.layers.0.mlp.down_proj.weight[9000, 0]"],
    ],
)
def test_the_command_refuses_in_one_sentence(wrong, tmp_path, capsys):
    source = saved_llama(tmp_path / "whole", {})
    assert run(["prune", str(source), "--windows", "2", "--window", "16", *wrong]) == 1
    said = capsys.readouterr().err
    assert "error:" in said
    assert "hint:" in said


@pytest.mark.real
def test_the_known_order_of_the_embedded_model():
    """Orders and similarities measured with other code on the same model and prose (32 windows of 64 tokens)."""
    found: Redundancy = answers()["redundancy"]
    assert found.order("attention")[:2] == [25, 26]
    assert set(found.order("attention")[-3:]) == {0, 1, 24}
    assert found.order("mlp")[0] == 25
    assert set(found.order("mlp")[1:5]) == {15, 16, 17, 26}
    assert found.order("mlp")[-2:] == [29, 0]
    assert found.order("block")[-4:] == [24, 1, 29, 0]
    first = found.layers[0]
    assert first.attention is not None
    assert first.attention.mean == pytest.approx(0.628, abs=0.02)
    writer = found.layers[11].mlp
    assert writer is not None
    assert writer.mean > 0.95 > 0.1 > writer.least, "one token of the window carries the massive activation"


@pytest.mark.real
def test_the_paper_s_ranking_on_the_embedded_model():
    """Attention goes cheaply, MLPs do not; the least similar attentions are dear (known answers: 36, 52, 11339)."""
    model, _ = embedded()
    found: Redundancy = answers()["redundancy"]
    choices = [choose(found, "attention", 4), choose(found, "mlp", 4), Dropped(attention=(0, 1, 21, 24))]
    base, (attention, mlp, least) = drop_effects(model, prose()[:8], choices)
    assert base.value == pytest.approx(perplexity(model, prose()[:8]).value)
    assert base.value < attention.perplexity.value < 1.3 * base.value
    assert 1.4 * base.value < mlp.perplexity.value < 2 * base.value
    assert least.perplexity.value > 100 * base.value


def test_a_checkpoint_larger_than_memory_is_pruned_block_by_block(tmp_path, monkeypatch):
    source = saved("llama", tmp_path / "whole")
    dropped = Dropped(attention=(0,), mlp=(1,))
    resident = pruned(source, tmp_path / "resident", dropped)
    monkeypatch.setattr("superweights.stream.available_memory", lambda device: 0)
    with open_checkpoint(source) as checkpoint, streaming(checkpoint) as model:
        assert is_streamed(model)
    streamed = pruned(source, tmp_path / "streamed", dropped)
    assert torch.equal(logits(streamed), logits(resident))
    blocks = pruned(source, tmp_path / "blocks", Dropped(blocks=(1,)))
    assert logits(blocks).isfinite().all()
