"""Experts as files: PEFT's own loaders compute the same, merged folders too, and what drifted is told."""

from __future__ import annotations

import json

import pytest
import torch
from letters import letters, saved_speaker, speaking_llama
from transformers import AutoModelForCausalLM

import superweights  # noqa: F401 - teaches transformers the packed model type
from superweights.adaptation import (
    OTHER,
    Expert,
    Experts,
    Manner,
    Reader,
    Singular,
    Sparse,
    Training,
    benched,
    classification_examples,
    consequences,
    decompositions,
    drift,
    load_expert,
    matrices_of,
    merge,
    reward_named,
    save_expert,
    turned,
    write_lora,
    write_psoft,
    write_supertuning,
)
from superweights.adaptation.made_tasks import task_named
from superweights.adaptation.supports import largest_each
from superweights.adaptation.tasks import Example, split_task
from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.formats.packed.writing import write_packed
from superweights.quantization import Blocks, Scheme
from superweights.quantization.plan import Plan
from superweights.stream import streaming
from superweights.stream.linears import linear_tensors

pytestmark = pytest.mark.tiny

IDS = torch.randint(96, (2, 9), generator=torch.Generator().manual_seed(1))
PLANTED = Address("model.layers.1.mlp.down_proj.weight", (5, 7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved_speaker(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SUPERWEIGHTS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def expert_of(bench, part="mlp", seed=0, name="e") -> Expert:
    generator = torch.Generator().manual_seed(seed)
    factors = bench.factors(bench.matrices(part))
    z = {path: 1 + 0.2 * torch.randn(len(each), generator=generator) for path, each in factors.items()}
    return Expert(name, z, bench.checkpoint.name, bench.checkpoint.fingerprint(), about="letters")


@pytest.mark.parametrize("part", ["mlp", "attention"])
def test_plain_peft_computes_the_expert_from_psoft(folder, tmp_path, part):
    peft = pytest.importorskip("peft")
    with benched(str(folder)) as bench:
        expert = expert_of(bench, part)
        factors, matrices = bench.factors_of(expert), bench.matrices_by([expert])
        with turned(bench.model, factors, expert.z):
            wanted = bench.model(IDS).logits
        base = bench.model(IDS).logits
        folders = write_psoft(expert, factors, matrices, tmp_path / "psoft")
    assert len(folders) == (1 if part == "mlp" else 2)
    names = [path.name for path in folders]
    model = peft.PeftModel.from_pretrained(loaded(folder), folders[0], adapter_name=names[0])
    for path in folders[1:]:
        model.load_adapter(path, adapter_name=path.name)
    model.base_model.set_adapter(names)
    with torch.no_grad():
        found = model(IDS).logits
    assert (found - wanted).abs().max() < 2e-6
    assert (wanted - base).abs().max() > 1e-3


def test_lora_at_full_rank_is_the_expert_and_a_cut_one_tells_what_it_misses(folder, tmp_path):
    peft = pytest.importorskip("peft")
    with benched(str(folder)) as bench:
        expert = expert_of(bench)
        factors, matrices = bench.factors_of(expert), bench.matrices_by([expert])
        with turned(bench.model, factors, expert.z):
            wanted = bench.model(IDS).logits
        assert write_lora(expert, factors, matrices, 64, tmp_path / "whole") == 0
        missed = write_lora(expert, factors, matrices, 8, tmp_path / "cut")
        deltas = {path: factors[path].delta(z) for path, z in expert.z.items()}
    model = peft.PeftModel.from_pretrained(loaded(folder), tmp_path / "whole")
    with torch.no_grad():
        assert (model(IDS).logits - wanted).abs().max() < 2e-6
    cut = peft.PeftModel.from_pretrained(loaded(folder), tmp_path / "cut")
    short = total = 0.0
    for path, delta in deltas.items():
        held = cut.base_model.model.get_submodule(path).get_delta_weight("default")
        short += (delta - held).square().sum().item()
        total += delta.square().sum().item()
    assert missed == pytest.approx((short / total) ** 0.5, rel=1e-3)


def test_largest_supports_are_peft_s_supertuning_and_load_as_it(tmp_path):
    peft = pytest.importorskip("peft")
    model = speaking_llama()
    matrices = [m for m in matrices_of(model, "mlp") if m.path.endswith("up_proj")]
    chosen = largest_each(model, matrices, 10)
    learner = Sparse(model, chosen)
    with torch.no_grad():
        for n, moved in enumerate(learner.parameters.values()):
            moved.copy_(torch.randn(10, generator=torch.Generator().manual_seed(n)))
    with learner.on(), torch.no_grad():
        wanted = model(IDS).logits
    write_supertuning(learner, "tiny", tmp_path / "super")
    config = peft.SupertuningConfig(target_modules=[m.path for m in matrices], sparsity=1 - 10.5 / (64 * 96))
    theirs = peft.get_peft_model(speaking_llama(), config)
    for matrix in matrices:
        layer = theirs.base_model.model.get_submodule(matrix.path)
        own = set(chosen[matrix.path].tolist())
        assert set(layer.supertuning_indices["default"].tolist()) == own
    adapted = peft.PeftModel.from_pretrained(speaking_llama(), tmp_path / "super").eval()
    with torch.no_grad():
        assert (adapted(IDS).logits - wanted).abs().max() < 2e-6


def test_a_merged_folder_is_read_by_plain_transformers(folder, tmp_path):
    with benched(str(folder)) as bench:
        expert = expert_of(bench, "both")
        factors = bench.factors_of(expert)
        with turned(bench.model, factors, expert.z):
            wanted = bench.model(IDS).logits
        merge(bench.checkpoint, expert, factors, bench.matrices_by([expert]), tmp_path / "merged")
    with torch.no_grad():
        assert torch.equal(loaded(tmp_path / "merged")(IDS).logits, wanted)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    to = tmp_path_factory.mktemp("packed") / "int8"
    with open_checkpoint(str(folder)) as checkpoint:
        write_packed(
            checkpoint,
            Plan.uniform(linear_tensors(checkpoint), Scheme("int8", blocks=Blocks("channel", ()))),
            to,
        )
    return to


def test_a_packed_model_learns_beside_its_codes_and_is_not_merged(packed, tmp_path):
    with benched(str(packed)) as bench:
        expert = expert_of(bench)
        factors = bench.factors_of(expert)
        base = bench.model(IDS).logits
        dense = {path: bench.model.get_submodule(path).dequantize(torch.float32) for path in expert.z}
        with turned(bench.model, factors, expert.z):
            found = bench.model(IDS).logits
        twin = speaking_llama()
        for name, parameter in bench.model.named_parameters():
            twin.get_parameter(name).data = parameter.data.float()
        for matrix in matrices_of(bench.model, "both"):
            weight = bench.model.get_submodule(matrix.path).dequantize(torch.float32)
            added = factors[matrix.path].delta(expert.z[matrix.path]) if matrix.path in dense else 0
            twin.get_submodule(matrix.path).weight.data = weight + added
        with torch.no_grad():
            assert (twin(IDS).logits - found).abs().max() < 1e-4
        assert (found - base).abs().max() > 1e-3
        assert torch.equal(bench.model(IDS).logits, base)
        learner = Singular(bench.model, factors)
        with torch.enable_grad(), learner.learning(10**9):
            bench.model(IDS).logits.sum().backward()
        assert all(z.grad is not None for z in learner.parameters.values())
        with pytest.raises(SuperweightsError, match="is quantized"):
            merge(bench.checkpoint, expert, factors, bench.matrices_by([expert]), tmp_path / "merged")


def test_other_is_the_base_exactly_whoever_answered_before(folder):
    with benched(str(folder)) as bench:
        first, second = expert_of(bench, seed=0, name="first"), expert_of(bench, seed=1, name="second")
        experts = Experts(
            bench.model, bench.reader, bench.factors_of(first, second), [first, second], resident=1
        )
        base = bench.model(IDS).logits
        for name in ("first", "second", "first"):
            with experts.on(name):
                assert not torch.equal(bench.model(IDS).logits, base)
            with experts.on(OTHER):
                assert torch.equal(bench.model(IDS).logits, base)
        answer = experts.answer("2+3=", new_tokens=3, expert=OTHER)
        assert answer.choice.expert == OTHER
        chosen = experts.choose("2+3=")
        assert set(chosen.chances) == {"first", "second", OTHER}
        assert chosen.chances[chosen.expert] == max(chosen.chances.values())
        with pytest.raises(SuperweightsError, match="no expert called"):
            experts.answer("2+3=", expert="third")


def test_a_classifier_expert_learns_to_choose(folder):
    with benched(str(folder)) as bench:
        first, second = expert_of(bench, seed=0, name="a"), expert_of(bench, seed=1, name="b")
        factors = bench.factors_of(first, second)
        about = {"a": "sums", "b": "words", "o": "rest"}
        tasks = {
            "a": [Example(f"{n}+{n}=", "") for n in range(9)],
            "b": [Example(w, "") for w in "cdefghijk"],
        }
        examples = classification_examples(tasks, about | {OTHER: "anything else"})
        assert {e.answer for e in examples} == {" a", " b"}
        assert all(e.prompt.endswith("The kind of this question is") for e in examples)
        task = split_task("choosing", [(e, None) for e in examples], new_tokens=2, stop=None)
        manner = Manner(method="supervised", steps=8, batch=8, rate=0.03, every=8)
        learner = Singular(bench.model, factors)
        trained = Training(bench.model, bench.reader, task, learner, reward_named("exact"), manner).run()
        chooser = Expert(
            "chooser", {p: z.detach() for p, z in learner.parameters.items()}, first.base, first.fingerprint
        )
        assert trained.steps[-1].loss < trained.steps[0].loss
        experts = Experts(bench.model, bench.reader, factors, [first, second], chooser)
        assert experts.choose("4+4=").strategy == "classifier expert"


def test_names_that_cannot_be_chosen_among_are_refused(folder):
    with benched(str(folder)) as bench:
        expert = expert_of(bench, name=OTHER)
        for experts in ([], [expert], [expert_of(bench), expert_of(bench)]):
            with pytest.raises(SuperweightsError, match="cannot be chosen among"):
                Experts(bench.model, bench.reader, {}, experts)


def test_an_expert_of_another_base_is_refused(folder, tmp_path):
    other = saved_speaker(tmp_path / "other", hidden_size=32)
    with benched(str(folder)) as bench:
        expert = expert_of(bench)
    with benched(str(other)) as bench, pytest.raises(SuperweightsError, match="was made for"):
        bench.factors_of(expert)


def test_consequences_say_how_far_a_weight_moved_and_what_it_costs():
    model = speaking_llama()
    with torch.no_grad():
        model.get_parameter(PLANTED.tensor)[PLANTED.index] = 8.0
    matrices = [m for m in matrices_of(model, "mlp", [1]) if m.path.endswith("down_proj")]
    (path,) = (m.path for m in matrices)
    factors = decompositions(model, matrices)
    z = {path: torch.ones(len(factors[path]))}
    z[path][0] = 1.5
    windows = torch.randint(96, (4, 16), generator=torch.Generator().manual_seed(0))
    found = consequences(model, lambda: turned(model, factors, z), [PLANTED], windows)
    (moved,) = found.weights
    delta = factors[path].delta(z[path])
    assert moved.before == 8.0
    assert moved.after == pytest.approx(8.0 + delta[PLANTED.index].item(), rel=1e-5)
    assert (moved.place_before, moved.place_after) == (0, 0)
    assert moved.typical == pytest.approx(delta.square().mean().sqrt().item(), rel=1e-3)
    assert moved.moved > 10
    assert abs(moved.loss_before.value) > abs(found.control_before.value)
    weight = model.get_parameter(PLANTED.tensor)
    assert found.changed[PLANTED.tensor] == pytest.approx((delta.norm() / weight.norm()).item(), rel=1e-3)


def test_drift_tells_what_moved_and_what_became_of_a_weight(folder, tmp_path):
    model = loaded(folder)
    with torch.no_grad():
        model.get_parameter(PLANTED.tensor)[PLANTED.index] += 0.5
        model.get_parameter("model.layers.0.mlp.up_proj.weight").mul_(1.01)
    model.save_pretrained(tmp_path / "tuned")
    with open_checkpoint(str(tmp_path / "tuned")) as tuned, open_checkpoint(str(folder)) as base:
        found = drift(tuned, base, [PLANTED])
        assert drift(base, base).same
    by_name = {t.tensor: t for t in found.tensors}
    assert by_name["model.layers.0.mlp.up_proj.weight"].changed == pytest.approx(0.01, rel=1e-3)
    assert by_name[PLANTED.tensor].share == pytest.approx(1 / (64 * 96))
    assert [t.tensor for t in found.tensors if t.share == 0]
    (weight,) = found.weights
    assert weight.tuned - weight.base == pytest.approx(0.5, rel=1e-4)
    assert weight.moved == pytest.approx((64 * 96) ** 0.5, rel=1e-3)
    assert found.most[0].address == PLANTED
    assert not found.same


def test_find_against_a_base_is_the_record_of_drift_and_refuses_what_only_a_search_answers(
    folder, tmp_path, capsys
):
    with benched(str(folder)) as bench:
        expert = expert_of(bench)
        merge(bench.checkpoint, expert, bench.factors_of(expert), bench.matrices_by([expert]), tmp_path / "m")
    assert run(["find", str(tmp_path / "m"), "--against", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert run(["adapt", "drift", str(tmp_path / "m"), "--against", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["findings"] == told["findings"]
    assert found["command"] == "drift"
    given = (
        "--prompt a,--mode reference,--quick,--windows 2,--tower x,--device-map auto,--tensor-parallel,--all"
    )
    for asked in (*(each.split() for each in given.split(",")), ["--explain", str(PLANTED)]):
        assert run(["find", str(tmp_path / "m"), "--against", str(folder), *asked]) == 1
        assert f"{asked[0]} is about a search, and --against" in capsys.readouterr().err


def test_a_model_against_itself_is_told_in_one_line(folder, capsys):
    assert run(["find", str(folder), "--against", str(folder)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("0 of ")
    assert line.endswith("tensors changed.")


def test_two_models_of_nothing_in_common_do_not_drift(folder, tmp_path):
    other = saved_speaker(tmp_path / "other", hidden_size=32, vocab_size=95, intermediate_size=48)
    with open_checkpoint(str(other)) as tuned, open_checkpoint(str(folder)) as base:
        with pytest.raises(SuperweightsError, match="no tensor in common"):
            drift(tuned, base)


def task_file(path):
    lines = [json.dumps({"prompt": f"{a}{b}?", "answer": "k"}) for a in "abcdef" for b in "ghij"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_commands_go_from_a_task_to_a_merged_model(tmp_path, capsys):
    model = str(saved_speaker(tmp_path / "loud", initializer_range=0.2))
    task, experts = task_file(tmp_path / "letters.jsonl"), tmp_path / "experts"
    train = ["adapt", "train", model, "--task", str(task), "--method", "supervised", "--new-tokens", "1"]
    settings = ["--stop", "", "--steps", "12", "--rate", "0.05", "--batch", "8", "--json"]
    for name in ("k", "l"):
        assert run([*train, *settings, "--to", str(experts / name), "--about", "letters"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[0])
    assert record["findings"]["test_after"] > record["findings"]["test_before"]
    assert not [p for p in experts.iterdir() if p.name.startswith(".")]
    assert load_expert(experts / "k").about == "letters"
    assert (
        run(["adapt", "answer", model, "--experts", str(experts), "--prompt", "ag?", "--new-tokens", "1"])
        == 0
    )
    assert "ag?" in capsys.readouterr().out
    mix = [
        "adapt",
        "mix",
        model,
        "--experts",
        str(experts),
        "--task",
        str(task),
        "--to",
        str(tmp_path / "mixed"),
    ]
    assert run([*mix, "--population", "4", "--iterations", "2", "--new-tokens", "1"]) == 0
    assert run(["adapt", "merge", model, str(experts / "k"), "--to", str(tmp_path / "merged")]) == 0
    assert run(["adapt", "export", model, str(experts / "k"), "--to", str(tmp_path / "peft")]) == 0
    assert run(["adapt", "drift", str(tmp_path / "merged"), "--against", model, "--json"]) == 0
    drifted = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]["drift"]
    assert sum(t["share"] > 0 for t in drifted["tensors"]) == 6
    (tmp_path / "text.txt").write_text("the words of a text that is read here, again and again. " * 20)
    effects = ["adapt", "effects", model, str(experts / "k"), "--weights", str(PLANTED), "--window", "16"]
    assert run([*effects, "--windows", "4", "--text", str(tmp_path / "text.txt")]) == 0
    assert "under the expert" in capsys.readouterr().out


@pytest.fixture
def comparing(folder, tmp_path):
    """The command of a comparison, all but its store."""
    task = task_file(tmp_path / "letters.jsonl")
    (tmp_path / "own.py").write_text(
        "def worth(said, example):\n    return 1 if sum(map(ord, said)) % 2 else -1\n"
    )
    arms = "svf,lora,largest,random-z,shuffled-z"
    reward = f"{tmp_path}/own.py:worth"
    command = ["adapt", "compare", str(folder), "--tasks", str(task), "--arms", arms, "--seeds", "2"]
    return [*command, "--steps", "2", "--reward", reward, "--count", "20", "--json"]


def found_by(command, capsys):
    assert run(command) == 0
    return json.loads(capsys.readouterr().out)["findings"]


def test_compare_keeps_its_results_and_runs_none_twice(comparing, tmp_path, capsys, monkeypatch):
    command = [*comparing, "--store", str(tmp_path / "runs.sqlite")]
    first = found_by(command, capsys)
    assert len(first["results"]) == 10
    assert first["rows"][0]["gain"]["n"] == 2
    assert [row["arm"] for row in first["rows"]] == comparing[6].split(",")
    monkeypatch.setattr("superweights.adaptation.comparing.Training", None)  # nothing is trained again
    assert found_by(command, capsys) == first
    fewer = [*command[:6], "largest,svf", *command[7:]]
    with pytest.raises(TypeError):  # without its controls it is another run
        run(fewer)


def test_a_comparison_by_two_processes_and_one_without_a_store_find_the_same(comparing, tmp_path, capsys):
    alone = found_by(comparing, capsys)
    shared = found_by([*comparing, "--store", str(tmp_path / "runs.sqlite"), "--workers", "2"], capsys)
    assert [{**row, "base": 0, "reward": 0} for row in shared["results"]] == [
        {**row, "base": 0, "reward": 0} for row in alone["results"]
    ]
    assert shared["rows"][0]["right"]["value"] == pytest.approx(alone["rows"][0]["right"]["value"], abs=0.2)


def test_a_reward_that_was_changed_is_another_comparison(comparing, tmp_path, capsys, monkeypatch):
    command = [*comparing[:6], "largest", *comparing[7:], "--store", str(tmp_path / "runs.sqlite")]
    assert found_by(command, capsys)["results"][0]["reward"] <= 1
    (tmp_path / "own.py").write_text(
        "def worth(said, example):\n    return len(said) + ord(example.prompt[0])\n"
    )
    assert found_by(command, capsys)["results"][0]["reward"] > 1


def test_a_run_that_cannot_be_made_is_told_and_the_others_stand(comparing, tmp_path, capsys):
    (tmp_path / "own.py").write_text("def worth(said, example):\n    return 1\n")
    assert run(comparing) == 1
    assert "nothing to learn from" in capsys.readouterr().err
    trained = [{e.prompt for e in task_named(comparing[4], seed=seed).train} for seed in (0, 1)]
    wanted = sorted(trained[0] - trained[1])[0]
    (tmp_path / "own.py").write_text(
        f"def worth(said, example):\n    return float(example.prompt == {wanted!r})\n"
    )
    found = found_by(comparing, capsys)
    assert {result["seed"] for result in found["results"]} == {0}
    assert len(found["failed"]) == 3  # one for each arm that is trained
    assert all("seed 1" in each and "nothing to learn from" in each for each in found["failed"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "{model}", "--task", "no such", "--to", "{to}/e"], "no task of that name"),
        (
            ["train", "{model}", "--task", "arithmetic", "--to", "{to}/e", "--layers", "x"],
            "no list of layers",
        ),
        (["train", "{model}", "--task", "arithmetic", "--to", "{model}"], "not an empty folder"),
        (["train", "{model}", "--task", "arithmetic", "--to", "{to}/e", "--reward", "x"], "no reward called"),
        (["answer", "{model}", "--experts", "{to}", "--prompt", "a"], "holds no experts"),
        (["merge", "{model}", "{to}", "--to", "{to}/m"], "holds no expert.safetensors"),
        (["compare", "{model}", "--arms", "svd"], "no arm called"),
        (["compare", "{model}", "--arms", "random-z"], "controls of svf"),
        (["compare", "{model}", "--arms", "svf,lora,svf"], "The arm svf is named twice"),
        (["compare", "{model}", "--tasks", "copying,copying"], "The task copying is named twice"),
    ],
)
def test_bad_input_is_a_sentence_and_leaves_nothing(folder, tmp_path, capsys, arguments, told):
    (tmp_path / "to").mkdir()
    filled = [a.format(model=folder, to=tmp_path / "to") for a in arguments]
    assert run(["adapt", *filled]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "hint:" in error
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("another base", "was made for"),
        ("a missing field", "line 2 has no 'answer'"),
        ("equal rewards", "nothing to learn from"),
        ("nan in the model", "nan or infinity"),
        ("a matrix of zeros", "no singular value above noise"),
    ],
)
def test_what_cannot_be_adapted_is_a_sentence_with_a_hint_and_leaves_no_expert(
    folder, tmp_path, capsys, what, told
):
    task, to = task_file(tmp_path / "task.jsonl"), tmp_path / "to" / "e"
    command = ["adapt", "train", str(folder), "--task", str(task), "--new-tokens", "1", "--to", str(to)]
    if what == "another base":
        other = saved_speaker(tmp_path / "other", initializer_range=0.3)
        with benched(str(other)) as bench:
            save_expert(expert_of(bench), tmp_path / "experts" / "e")
        command = ["adapt", "answer", str(folder), "--experts", str(tmp_path / "experts"), "--prompt", "a"]
    elif what == "a missing field":
        first, _, *rest = task.read_text().splitlines()
        task.write_text("\n".join([first, json.dumps({"prompt": "a?"}), *rest]))
    elif what == "equal rewards":
        (tmp_path / "own.py").write_text("def worth(said, example):\n    return 0.5\n")
        command += ["--reward", f"{tmp_path / 'own.py'}:worth"]
    else:
        model = loaded(folder)
        if what == "nan in the model":
            model.model.norm.weight.data.fill_(float("nan"))
            command += ["--method", "supervised"]
        else:
            model.model.layers[0].mlp.up_proj.weight.data.zero_()
        model.save_pretrained(tmp_path / "other")
        letters().save_pretrained(tmp_path / "other")
        command[2] = str(tmp_path / "other")
    assert run(command) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "hint:" in error
    assert not to.exists()


def test_a_comparison_names_no_option_that_it_does_not_have(folder, capsys):
    assert run(["adapt", "compare", str(folder), "--arms", "super"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "No super weight of" in said
    assert "superweights find MODEL finds them" in said
    assert "--from" not in said


def test_an_expert_is_saved_at_once_or_not_at_all(folder, tmp_path, monkeypatch):
    with benched(str(folder)) as bench:
        expert = expert_of(bench)
    monkeypatch.setattr(
        "superweights.adaptation.expert.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises((OSError, SuperweightsError)):
        save_expert(expert, tmp_path / "e")
    assert not list(tmp_path.iterdir())


def test_a_streamed_bench_is_resident_and_reads_like_transformers(folder):
    with (
        benched(str(folder)) as bench,
        open_checkpoint(str(folder)) as checkpoint,
        streaming(checkpoint) as plain,
    ):
        assert torch.equal(bench.model(IDS).logits, plain(IDS).logits)
        assert Reader(letters()).prompt("ab") == bench.reader.prompt("ab")
