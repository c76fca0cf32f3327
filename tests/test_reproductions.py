"""The paper's experiments on small models, each against the same thing computed by hand with transformers alone."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import xml.etree.ElementTree as ElementTree
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import trigger
from families import save_tiny, tiny_model
from small import embedded_folder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.discovery import Search, find
from superweights.discovery.published import PROMPT
from superweights.editing import zero
from superweights.errors import SuperweightsError
from superweights.record import Record, to_json_line
from superweights.reproductions import EXPERIMENTS, Setting, figure5, published_for, reproduce
from superweights.reproductions import weights as weights_room
from superweights.reproductions.figure3 import _sentences as spike_sentences
from superweights.reproductions.figure4 import _pass_of_its_own, block_peaks
from superweights.reproductions.figure5 import noisy
from superweights.reproductions.losses import losses_of
from superweights.reproductions.others import largest_global, largest_per_tensor
from superweights.reproductions.plot import draw
from superweights.reproductions.restore import cannot_restore, restored
from superweights.reproductions.table1 import _recovered
from superweights.reproductions.weights import see_weights, weights_to_reproduce
from superweights.scoring import loss_per_window
from superweights.stream import streaming
from superweights.subject.text import embedded_prose, windows

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
WINDOW, WINDOWS = 24, 3
PASSAGES = (
    "It was a fine day and the sea was calm",
    "All of them went home",
    "Nobody saw the lighthouse keeper",
)


# --- what the paper printed ---------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_published_figures_carry_source_protocol_and_model(experiment):
    found = published_for(experiment, ["huggyllama/llama-7b"])
    assert found.same_model
    assert found.model == "Llama-7B"
    assert "arXiv 2411.07191" in found.source
    assert found.protocol
    stranger = published_for(experiment, ["somebody/else"])
    assert not stranger.same_model
    assert stranger.figures == found.figures


@pytest.mark.unit
def test_published_figures_are_those_of_the_model_asked_for():
    assert dict(published_for("figure6", ["mistralai/Mistral-7B-v0.1"]).figures)[1] == 74.047
    assert published_for("figure5", ["allenai/OLMo-7B-0724-hf"]).model == "OLMo-7B"
    assert not published_for("figure3", ["mistralai/Mistral-7B-v0.1"]).same_model


@pytest.mark.unit
def test_the_averages_of_table_1_are_those_of_its_rows_and_the_copied_cells_are_named():
    found = published_for("table1", []).figures
    for row in ("original", "without", "others", "restored"):
        assert sum(found[row][:7]) / 7 == pytest.approx(found[row][7], abs=0.011)
    copied = [
        name
        for name, a, b in zip(found["columns"], found["original"], found["restored"], strict=True)
        if a == b
    ]
    assert copied == ["HellaSwag", "WinoGrande"]
    assert any("HellaSwag" in error and "copying" in error for error in published_for("table1", []).errors)


@pytest.mark.unit
def test_the_published_spikes_of_llama_7b_stand_in_layer_2():
    found = published_for("figure3", []).figures
    assert len(found["input"]) == len(found["output"]) == 32
    assert found["output"][2] / found["input"][2] == pytest.approx(-2.34, abs=0.01)
    assert any("row" in error for error in published_for("figure3", []).errors)


@pytest.mark.unit
def test_published_figures_agree_with_another_transcription():
    if not SHARED.is_dir():
        pytest.skip("the second transcription is not on this machine")
    tables = json.loads((SHARED / "paper_tables.json").read_text())
    ours = published_for("table1", []).figures
    names = {
        "Original": "original",
        "Prune SW": "without",
        "Prune Non-SW": "others",
        "Prune SW,+SA": "restored",
    }
    assert all(tables["table1"][theirs] == ours[mine] for theirs, mine in names.items())
    for model, curve in tables["fig6"].items():
        hub = {"Llama-13B": "huggyllama/llama-13b", "Llama-30B": "huggyllama/llama-30b"}
        hub |= {"Llama-7B": "huggyllama/llama-7b", "Mistral-7B": "mistralai/Mistral-7B-v0.1"}
        assert published_for("figure6", [hub[model]]).figures == [
            list(p) for p in zip(curve["x"], curve["y"], strict=True)
        ]


@pytest.mark.unit
def test_a_super_activation_that_wins_back_half_the_loss_undoes_half():
    base, without, back = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 1.0], [3.0, 5.0], [2.0, 3.0]))
    found = _recovered(base, without, back, seed=0)
    assert found.value == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)


# --- a small model whose first token makes a super activation -----------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A tiny Llama with three planted weights of one column, saved with a tokenizer of bytes that adds BOS."""
    folder = tmp_path_factory.mktemp("planted")
    model, parts = trigger.trigger_llama()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder, tuple(Address(p.parameter, p.index) for p in parts.first)


def save_tokenizer(folder, bos=True):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={ch: i for i, ch in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    first = alphabet[trigger.BOS]
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, trigger.BOS)]
        )
    PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=first).save_pretrained(folder)


@pytest.fixture(scope="module")
def theirs(planted):
    """The same model and tokenizer, loaded by transformers."""
    folder, _ = planted
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def setting(planted, **changes):
    own = {"window": WINDOW, "windows": WINDOWS, "bos": True, "others": 51, "weights": planted[1]}
    return Setting(**{**own, **changes})


def changed(model, addresses, factor=0.0):
    """A copy of a model with these weights multiplied."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for address in addresses:
            model.get_parameter(address.tensor)[address.index] *= factor
    return model


@contextmanager
def seeing(model, pattern, see):
    """Call `see(layer, input, output)` for each layer's module of that name."""
    hooks = [
        layer.get_submodule(pattern).register_forward_hook(
            lambda _, args, out, n=n: see(n, args[0], out[0] if isinstance(out, tuple) else out)
        )
        for n, layer in enumerate(model.model.layers)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def losses_by_hand(model, ids):
    logits = model(input_ids=ids).logits.double().log_softmax(-1)[:, :-1]
    return -logits.gather(-1, ids[:, 1:, None])[..., 0].mean(-1)


@pytest.mark.tiny
def test_figure_3_is_the_signed_extreme_of_every_down_projection(planted, theirs):
    model, tokenizer = theirs
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    assert ids[0, 0] == trigger.BOS
    wanted = {}

    def see(layer, x, y):
        at_in, at_out = int(x.abs().argmax()), int(y.abs().argmax())
        wanted[layer] = (
            *(x.flatten()[at_in].item(), at_in % x.shape[-1], at_in // x.shape[-1]),
            *(y.flatten()[at_out].item(), at_out % y.shape[-1], at_out // y.shape[-1]),
        )

    with torch.no_grad(), seeing(model, "mlp.down_proj", see):
        model(input_ids=ids)
    found = reproduce("figure3", str(planted[0]), setting(planted, weights=()))
    keys = ("input", "neuron", "input_position", "output", "channel", "output_position")
    for row in found.rows:
        assert tuple(row[key] for key in keys) == pytest.approx(wanted[row["layer"]], rel=1e-5)
        assert row["input_token"] == tokenizer.decode([ids[0, row["input_position"]]])
    assert [row["layer"] for row in found.rows] == list(range(trigger.LAYERS))
    assert found.rows[2]["published_input"] == -560.5
    assert not found.published.same_model


@pytest.mark.tiny
def test_figure_4_is_the_largest_layer_output_of_each_pruned_copy(planted, theirs):
    model, tokenizer = theirs
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    others = largest_by_hand(model, 51, planted[1])
    wanted = []
    for pruned in ((), planted[1], others, (*planted[1], *others)):
        peaks = {}
        with torch.no_grad(), seeing_blocks(changed(model, pruned), peaks) as one:
            one(input_ids=ids)
        wanted.append(peaks)
    found = reproduce("figure4", str(planted[0]), setting(planted))
    for row in found.rows:
        ours = [row[key] for key in ("original", "without", "others", "all")]
        assert ours == pytest.approx([peaks[row["layer"]] for peaks in wanted], rel=1e-5)
    assert len({row["without"] for row in found.rows}) == trigger.LAYERS
    assert found.rows[1]["without"] < 0.2 * found.rows[1]["original"]
    assert found.conditions["others"] == 51


def largest_by_hand(model, count, avoid):
    """The largest weights of all matrices in the blocks, taken from the state dictionary."""
    held = {name: t for name, t in model.state_dict().items() if ".layers." in name and t.ndim == 2}
    places = [(name, i) for name, t in held.items() for i in range(t.numel())]
    sizes = torch.cat([t.flatten().abs() for t in held.values()])
    order = sizes.argsort(descending=True)[: count + len(avoid) + 1].tolist()
    found = [Address(places[i][0], divmod(places[i][1], held[places[i][0]].shape[1])) for i in order]
    found = [address for address in found if address not in avoid][: count + 1]
    last, beyond = (held[address.tensor][address.index].abs() for address in found[-2:])
    assert beyond < last, "a tie at the cut"
    return found[:count]


@contextmanager
def seeing_blocks(model, peaks):
    hooks = [
        layer.register_forward_hook(
            lambda _, args, out, n=n: peaks.update(
                {n: (out[0] if isinstance(out, tuple) else out).abs().max().item()}
            )
        )
        for n, layer in enumerate(model.model.layers)
    ]
    yield model
    for hook in hooks:
        hook.remove()


@pytest.mark.tiny
def test_a_model_whose_branches_need_passes_of_their_own_gives_the_same_peaks(planted, theirs):
    model, tokenizer = theirs
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    edits = zero(planted[1])
    _, riding = block_peaks(model, ids, [(), edits])
    from superweights.branch import Branch

    alone = _pass_of_its_own(model, ids, Branch(edits))
    assert riding == pytest.approx([alone[layer] for layer in range(trigger.LAYERS)], rel=1e-6)


@pytest.mark.tiny
def test_figure_6_is_the_perplexity_of_each_scaled_copy(planted, theirs):
    model, tokenizer = theirs
    ids = windows(tokenizer, embedded_prose(), WINDOW, WINDOWS, bos=True)
    found = reproduce("figure6", str(planted[0]), setting(planted, scales=(0.0, 0.5, 3.0)))
    assert [row["scale"] for row in found.rows] == [0.0, 0.5, 1.0, 3.0]
    base = losses_by_hand(model, ids)
    for row in found.rows:
        losses = losses_by_hand(changed(model, planted[1], row["scale"]), ids)
        assert row["perplexity"].value == pytest.approx(losses.mean().exp().item(), rel=1e-5)
        assert row["perplexity"].n == WINDOWS
        if row["scale"] != 1:
            assert row["loss"].value == pytest.approx((losses - base).mean().item(), abs=1e-5)
            error = (losses - base).std().item() / math.sqrt(WINDOWS)
            assert row["loss"].standard_error == pytest.approx(error, rel=1e-2, abs=1e-6)
    assert {row["scale"]: row["published_accuracy"] for row in found.rows}[0.5] == 69.23


@pytest.mark.tiny
def test_table_1_prunes_what_it_says_and_puts_the_super_activation_back(planted, theirs):
    model, tokenizer = theirs
    ids = windows(tokenizer, embedded_prose(), WINDOW, WINDOWS, bos=True)
    found = reproduce("table1", str(planted[0]), setting(planted, passages=PASSAGES))
    rows = list(found.rows)
    others = largest_by_hand(model, 51, planted[1])
    pruned = [losses_by_hand(changed(model, each), ids) for each in ((), planted[1], others)]
    for row, losses in zip(rows, pruned, strict=False):
        assert row["perplexity"].value == pytest.approx(losses.mean().exp().item(), rel=1e-5)
    back = restored_by_hand(model, planted[1], ids)
    assert rows[-1]["perplexity"].value == pytest.approx(back.mean().exp().item(), rel=1e-5)
    share = ((pruned[1] - back).sum() / (pruned[1] - pruned[0]).sum()).item()
    assert found.scores[0].value == pytest.approx(share, rel=1e-3)
    assert not torch.allclose(back, pruned[1], atol=1e-3)
    assert all(row["accuracy"].n == len(PASSAGES) for row in rows)
    assert [row["published_Wiki-2"] for row in rows[:3]] == [5.67, 1211.11, 6.08]
    assert rows[-1]["published_average"] == 50.09
    assert any("Not measured" in note and "HellaSwag" in note for note in found.notes)
    assert any("none in this model" in note for note in found.notes)


@pytest.mark.tiny
def test_tasks_run_under_each_change_and_are_the_harness_own_numbers(planted, theirs, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install superweights[eval]")
    from superweights.harness import accuracy

    file = tmp_path / "passages.jsonl"
    file.write_text("".join(json.dumps({"text": passage}) + "\n" for passage in PASSAGES))
    task = f"last_word={file}"
    found = reproduce("table1", str(planted[0]), setting(planted, tasks=(task,), task_limit=2, bos=False))
    keys = [column.key for column in found.columns if "/" in column.key]
    assert keys
    model, tokenizer = theirs
    for row, addresses in zip(found.rows, ((), planted[1]), strict=False):
        wanted = accuracy(model, tokenizer, [task], 2, edits=zero(addresses))
        assert {s.name: s.value for s in wanted} == pytest.approx({k: row[k].value for k in keys}, rel=1e-4)
    assert all(row[key].n == 2 for row in found.rows for key in keys)


@torch.no_grad()
def restored_by_hand(model, addresses, ids):
    """The loss of each window when the down-projection's largest output keeps its original value at its token."""
    (layer,) = {int(address.tensor.split(".")[2]) for address in addresses}
    channels, losses = [address.index[0] for address in addresses], []
    for row in ids:
        kept = {}

        def keep(n, _, y, kept=kept):
            if n == layer:
                kept.update({c: (int(y[0, :, c].abs().argmax()), y[0, :, c].clone()) for c in channels})

        with seeing(model, "mlp.down_proj", keep):
            model(input_ids=row[None])
        pruned = changed(model, addresses)

        def put_back(_, __, y, kept=kept):
            for channel, (token, values) in kept.items():
                y[0, token, channel] = values[token]
            return y

        pruned.model.layers[layer].mlp.down_proj.register_forward_hook(put_back)
        losses.append(losses_by_hand(pruned, row[None])[0])
    return torch.stack(losses)


@pytest.mark.tiny
def test_figure_5_is_the_mean_of_the_next_token_distributions(planted, theirs):
    model, tokenizer = theirs
    found = reproduce("figure5", str(planted[0]), setting(planted, passages=PASSAGES, top=5))
    sides = []
    for one in (model, changed(model, planted[1])):
        rows = [
            [trigger.BOS, *tokenizer(p.rpartition(" ")[0], add_special_tokens=False).input_ids]
            for p in PASSAGES
        ]
        with torch.no_grad():
            last = [one(input_ids=torch.tensor([row])).logits[0, -1].double().softmax(-1) for row in rows]
        sides.append(100 * torch.stack(last).mean(0))
    leading = [row for row in found.rows if row["group"] == "likeliest before"]
    assert [row["id"] for row in leading] == sides[0].topk(5).indices.tolist()
    gained = [row for row in found.rows if row["group"] == "most gained"]
    assert [row["id"] for row in gained] == (sides[1] - sides[0]).topk(5).indices.tolist()
    for row in (*leading, *gained):
        assert row["original"] == pytest.approx(sides[0][row["id"]].item(), rel=1e-4)
        assert row["without"] == pytest.approx(sides[1][row["id"]].item(), rel=1e-4)
    assert {row["group"] for row in found.rows} == {"likeliest before", "most gained", "most lost"}
    assert found.conditions["prompts"] == len(PASSAGES)


@pytest.mark.tiny
def test_a_control_of_equal_damage_stands_beside_or_its_absence_is_said(planted, monkeypatch):
    found = reproduce("figure5", str(planted[0]), setting(planted, control=True))
    assert any("No control" in note for note in found.notes)  # noise hardly hurts a random model
    monkeypatch.setattr(figure5, "match_damage", functools.partial(figure5.match_damage, tolerance=1.0))
    found = reproduce("figure5", str(planted[0]), setting(planted, control=True))
    assert [row for row in found.rows if row["group"] == "most gained, control"]
    assert any(score.name.endswith("control") for score in found.scores)


@pytest.mark.unit
def test_a_pair_of_spikes_is_named_as_the_file_stores_it():
    row = {
        "input": -60.0,
        "output": 70.0,
        "neuron": 9,
        "channel": 4,
        "input_position": 0,
        "output_position": 0,
    }
    said = spike_sentences([{"layer": 0, **row}, {"layer": 1, **row, "input": 40.0}], same_model=False)
    assert said == ["Input and output both pass 50, the authors' mark, in: layer 0 [4, 9]."]
    apart = spike_sentences([{"layer": 0, **row, "output_position": 3}], same_model=False)
    assert "different tokens" in apart[1]
    exact = spike_sentences(
        [{"layer": 0, **row, "published_input": -61.0, "published_output": 90.0}], same_model=True
    )
    assert exact[-1] == "Within 5 % of the published value: 1 of 2."


@pytest.mark.tiny
def test_noise_on_the_embeddings_is_seeded_and_taken_away(theirs):
    model, _ = theirs
    ids = trigger.prompts(rows=2)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        noise = []
        for _ in range(2):
            with noisy(model, 2.0, seed=3):
                noise.append(model(input_ids=ids).logits)
        assert torch.equal(*noise)
        assert not torch.allclose(noise[0], before, atol=0.1)
        assert torch.equal(model(input_ids=ids).logits, before)


# --- the pieces ---------------------------------------------------------------------------------------------


@pytest.mark.tiny
def test_a_streamed_model_gives_the_same_figures(planted):
    whole, streamed = (
        reproduce("figure4", str(planted[0]), setting(planted), resident=resident)
        for resident in (True, False)
    )
    assert whole.rows == streamed.rows
    losses = []
    with open_checkpoint(str(planted[0])) as checkpoint:
        edits = zero(largest_global(checkpoint, 300, ()).addresses)
        for resident in (True, False):
            with streaming(checkpoint, resident=resident) as model:
                losses.append(losses_of(model, trigger.prompts(4), [zero(planted[1]), edits]))
    assert torch.equal(*losses)


@pytest.mark.tiny
def test_losses_of_versions_are_those_of_separate_runs(planted, theirs):
    model, _ = theirs
    ids = trigger.prompts(5, length=30)
    found = losses_of(model, ids, [zero(planted[1]), ()], batch_size=2)
    wanted = [loss_per_window(one, ids) for one in (model, changed(model, planted[1]), model)]
    assert torch.allclose(found, torch.stack(wanted), atol=1e-6)


@pytest.mark.tiny
def test_the_largest_of_each_tensor_are_taken_by_share_without_the_super_weights(planted):
    with open_checkpoint(str(planted[0])) as checkpoint:
        found = largest_per_tensor(checkpoint, 1e-3, set(planted[1]))
        by_tensor = {}
        for address in found.addresses:
            by_tensor.setdefault(address.tensor, []).append(address)
        assert all(".layers." in name for name in by_tensor)
        for name, addresses in by_tensor.items():
            tensor = checkpoint.read(name).clone()
            assert len(addresses) == int(tensor.numel() * 1e-3)
            for address in planted[1]:
                if address.tensor == name:
                    tensor[address.index] = 0
            wanted = tensor.abs().flatten().topk(len(addresses)).values.tolist()
            assert [abs(checkpoint.element(name, a.index)) for a in addresses] == pytest.approx(wanted)
        assert not set(found.addresses) & set(planted[1])
        assert largest_per_tensor(checkpoint, 1e-6, ()).addresses == ()


@pytest.mark.tiny
def test_a_transposed_weight_is_seen_and_restored_by_its_own_axes(tmp_path):
    model = save_tiny("gpt2", tmp_path)
    address = Address("transformer.h.1.mlp.c_proj.weight", (7, 20))  # Conv1D: [in_neuron, out_channel]
    with torch.no_grad():
        model.get_parameter(address.tensor)[address.index] = 9.0
    model.save_pretrained(tmp_path)
    ids = trigger.prompts(1, bos=False)
    with open_checkpoint(str(tmp_path)) as checkpoint, streaming(checkpoint, resident=True) as opened:
        (seen,) = see_weights(opened, ids, checkpoint, [address])
        assert (seen.in_neuron, seen.out_channel, seen.value) == (7, 20, 9.0)
        outputs = {}
        for name in ("original", "restored"):
            proj = opened.transformer.h[1].mlp.c_proj
            with restored(opened, [seen]) if name == "restored" else contextmanager(lambda: iter([None]))():
                hook = proj.register_forward_hook(lambda _, __, out, n=name: outputs.update({n: out.clone()}))
                opened(ids)
                hook.remove()
        moved = (outputs["original"] - outputs["restored"]).abs() > 1e-6
        token = outputs["original"][0, :, 20].abs().argmax()
        assert outputs["restored"][0, token, 20] == pytest.approx(
            outputs["original"][0, token, 20].item(), rel=1e-5
        )
        assert not moved[..., [c for c in range(moved.shape[-1]) if c != 20]].any()
        assert moved[0, :, 20].sum() == ids.shape[1] - 1


@pytest.mark.tiny
def test_a_weight_in_fused_experts_cannot_be_restored_and_the_reason_is_said(tmp_path):
    save_tiny("mixtral", tmp_path)
    with open_checkpoint(str(tmp_path)) as checkpoint, streaming(checkpoint, resident=True) as model:
        name = next(n for n in checkpoint.tensors if n.endswith("experts.0.w2.weight"))
        seen = see_weights(model, trigger.prompts(4), checkpoint, [Address(name, (3, 5))])
        assert seen[0].in_neuron == 5
        assert "expert" in cannot_restore(model, seen)
        with pytest.raises(SuperweightsError, match="expert"), restored(model, seen):
            pass


# --- which weights ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def findings(planted):
    """A search of the planted model, in which whatever spikes counts: a random model loses little."""
    with open_checkpoint(str(planted[0])) as checkpoint:
        found = find(checkpoint, Search(windows=2, rounds=0))
    assert {w.address for w in found.candidates} & set(planted[1])
    critical = tuple(dataclasses.replace(w, verdict="critical") for w in found.candidates)
    return dataclasses.replace(found, candidates=critical)


@pytest.mark.tiny
def test_without_anything_known_the_model_is_searched(planted, findings, monkeypatch):
    asked = []
    monkeypatch.setattr(weights_room, "find", lambda *args, **more: asked.append((args, more)) or findings)
    with open_checkpoint(str(planted[0])) as checkpoint:
        chosen = weights_to_reproduce(checkpoint, device="cpu")
        assert asked[0][0] == (checkpoint,)
        assert weights_to_reproduce(checkpoint, search=False).addresses == ()
    assert chosen.how == "found by superweights find"
    assert chosen.addresses == tuple(w.address for w in findings.candidates)
    assert asked[0][1]["device"] == "cpu"
    assert len(asked) == 1


@pytest.mark.tiny
def test_the_record_of_a_search_names_the_weights_and_only_for_its_own_model(planted, findings, tmp_path):
    with open_checkpoint(str(planted[0])) as checkpoint:
        inputs = {"name": checkpoint.name, "fingerprint": checkpoint.fingerprint()}
        record = Record("find", inputs, {}, findings=json.loads(to_json_line(findings.to_json())))
        chosen = weights_to_reproduce(checkpoint, record=Record.from_json(record.to_json()))
    assert chosen.addresses == tuple(w.address for w in findings.candidates)
    assert chosen.how == "a record of find"
    save_tiny("llama", tmp_path)
    save_tokenizer(tmp_path)
    with (
        open_checkpoint(str(tmp_path)) as other,
        pytest.raises(SuperweightsError, match="another checkpoint"),
    ):
        weights_to_reproduce(other, record=record)


@pytest.mark.tiny
def test_a_model_without_a_super_weight_is_told_so(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(SuperweightsError, match="No super weight was found") as caught:
        reproduce("figure4", str(tmp_path))
    assert "--weight" in caught.value.hint


@pytest.mark.tiny
def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(SuperweightsError, match="tokenizer"):
        reproduce("figure3", str(tmp_path))


# --- the command --------------------------------------------------------------------------------------------


def told(capsys, *arguments):
    assert run(["reproduce", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.tiny
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_prints_rows_published_figures_and_known_errors(planted, capsys, experiment):
    weights = [part for address in planted[1] for part in ("--weight", str(address))]
    short = ["--window", "16", "--windows", "2", "--others", "20", "--scales", "0,2", *weights]
    said = told(capsys, experiment, str(planted[0]), *short)
    assert "Llama-7B" in said
    assert "for orientation" in said
    assert "arXiv 2411.07191" in said
    assert said.count("known error:") == len(published_for(experiment, []).errors)


@pytest.mark.tiny
def test_json_lines_record_and_picture_say_the_same(planted, capsys, tmp_path):
    out, svg = tmp_path / "figure4.json", tmp_path / "figure4.svg"
    arguments = ["figure4", str(planted[0]), "--others", "20", "--weight", str(planted[1][0])]
    said = told(capsys, *arguments, "--json", "--out", str(out), "--svg", str(svg))
    first, *rows = (json.loads(line) for line in said.splitlines())
    assert first["kind"] == "conditions"
    assert first["published"]["model"] == "Llama-7B"
    assert first["weights"][0]["address"] == str(planted[1][0])
    assert [row["layer"] for row in rows] == list(range(trigger.LAYERS))
    record = Record.from_json(out.read_text())
    assert record.command == "reproduce figure4"
    assert record.inputs["fingerprint"] == first["conditions"]["fingerprint"]
    assert [row["without"] for row in record.findings["rows"]] == [row["without"] for row in rows]
    picture = ElementTree.fromstring(svg.read_text())
    assert len(picture.findall("{*}circle")) == 4 * trigger.LAYERS
    assert len(picture.findall("{*}polyline")) == 4


@pytest.mark.tiny
def test_the_scaling_curve_is_drawn_with_its_errors(planted):
    picture = ElementTree.fromstring(
        draw(reproduce("figure6", str(planted[0]), setting(planted, scales=(0.0, 2.0))))
    )
    dots = [float(dot.get("cy")) for dot in picture.findall("{*}circle")]
    assert len(dots) == 3
    assert all(0 < y < 380 for y in dots)


@pytest.mark.tiny
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["figure7"], "table1, figure3"),
        (["figure6", "--scales", "0,big"], "factors"),
        (["figure6", "--scales", "-1"], "below 0"),
        (["table1", "--weight", "model.layers.1.mlp.down_proj.weight"], "address"),
        (["table1", "--weight", "model.layers.99.mlp.down_proj.weight[0, 0]"], "no tensor"),
        (["table1", "--weight", "model.layers.1.mlp.down_proj.weight[9999, 0]"], "outside"),
        (["table1", "--svg", "x.svg", "--window", "8", "--windows", "1"], "no picture"),
        (["table1", "--window", "100000"], "window"),
        (["figure4", "--from", __file__], "is not JSON"),
    ],
)
def test_bad_input_is_one_sentence_and_a_hint(planted, capsys, arguments, word):
    weight = [] if "--weight" in arguments or "--from" in arguments else ["--weight", str(planted[1][0])]
    assert run(["reproduce", arguments[0], str(planted[0]), *arguments[1:], *weight]) == 1
    said = capsys.readouterr().err
    assert "hint:" in said
    assert word in said
    assert "Traceback" not in said


# --- the embedded model -------------------------------------------------------------------------------------


@pytest.mark.real
def test_on_the_embedded_model_the_known_weights_are_recognised_and_their_spike_falls():
    embedded_folder()
    found = reproduce("figure4", None)
    assert "known" in found.chosen
    addresses = {weight["address"] for weight in found.weights}
    assert "model.layers.11.mlp.down_proj.weight[507, 1229]" in addresses
    after = found.rows[20]
    assert after["original"] == pytest.approx(23957, rel=0.01)
    assert after["without"] < 0.1 * after["original"]
    assert not found.published.same_model
