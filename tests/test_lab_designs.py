"""The three designs beside each other: experiments in their smallest form, what is kept, and the page."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from superweights.cli import app
from superweights.errors import SuperweightsError
from superweights.lab.byte_latent.alphabet import encode
from superweights.lab.byte_latent.noising import noised
from superweights.lab.byte_latent.tokens import BytePairs
from superweights.lab.concepts.documents import Documents, encoded, manual
from superweights.lab.concepts.splitting import SentenceSplitter
from superweights.lab.designs.fitting import Schedule, fit, optimizer_of
from superweights.lab.designs.keeping import Spread, keep, kept
from superweights.lab.designs.page import designs_page
from superweights.lab.designs.rows import ByteRows, library_rows
from superweights.progress import silent

pytestmark = pytest.mark.tiny


@pytest.fixture(scope="module")
def rows() -> ByteRows:
    return library_rows(0.8)


@pytest.fixture(scope="module")
def results(tmp_path_factory, rows):
    """Every experiment once, as small as it goes, kept in one folder."""
    from superweights.lab.byte_latent.experiment import PatchingSettings, patching_run
    from superweights.lab.concepts.experiment import ConceptSettings, concept_run
    from superweights.lab.tokenformer.experiment import GrowthSettings, growth_run

    folder = tmp_path_factory.mktemp("designs")
    growing = GrowthSettings(
        width=16, layers=1, slots=4, added=4, base_steps=6, stage_steps=3, rows=2, length=32
    )
    patching = PatchingSettings(
        length=64, rows=2, steps=2, entropy_steps=2, merges=300, held_out=4, window=32
    )
    concepts = ConceptSettings(
        width=16, base_layers=1, context_layers=1, layers=1, steps=3, sampling=4, branch_steps=5
    )
    keep(folder, "growth", [growth_run(rows, growing, 0, silent)], growing, 1.0)
    keep(folder, "patching", [patching_run(rows, patching, 0, silent)], patching, 1.0)
    generator = torch.Generator().manual_seed(0)
    vectors = nn.functional.normalize(torch.randn(10, 6, 12, generator=generator), dim=-1)
    documents = Documents(vectors, torch.full((10,), 6), tuple(("s",) * 6 for _ in range(10)), vectors[0, 0])
    keep(folder, "concepts", [concept_run(documents, concepts, 0, silent)], concepts, 1.0)
    run = {
        "bits": {"own vector": 2.5, "no vector": 3.0},
        "bleu": {"own vector": 0.25, "no vector": 0.0, "nearest stored sentence": 0.125},
        "cosine": {"own vector": 0.5, "no vector": 0.0, "nearest stored sentence": 0.75},
        "shown": [["true", "written"]],
    }
    keep(folder, "decoder", [run], Schedule(1), 1.0)
    return folder


def test_what_a_stack_has_not_stays_not_applicable_up_to_the_page(tmp_path):
    stack = {"stack": "bytes read patches", "first": "none", "queries": 0, "sink": None, "uniform": None,
             "argmax_share": None, "peak": None, "peak_others": None, "why": "no such place"}  # fmt: skip
    run = {"design": "BLT, space", "seed": 0, "parameters": 9, "multiplications": 9.0, "bits": 1.0, "bits_int4": 1.0,
           "sink": None, "massive": None, "super_weights": None, "verdict": None, "why": "told one by one"}  # fmt: skip
    keep(tmp_path, "beside", [{**run, "stacks": [stack]}], Schedule(1), 1.0)
    page = designs_page(tmp_path)
    assert "Stack by stack" in page
    row = page[page.index("bytes read patches") :].split("</tr>")[0]
    assert row.count(">n/a</td>") == 5
    assert "no such place" in row
    keep(tmp_path, "beside", [run], Schedule(1), 1.0)  # of a version that knew no stacks
    assert "Stack by stack" not in designs_page(tmp_path)


def test_growth_begins_exactly_at_the_small_model(results):
    losses = kept(results, "growth")["runs"][0]["losses"]
    assert losses["zero keys, tau kept"]["0"] == losses["not grown"]["0"]
    assert losses["paper text"]["0"] != losses["not grown"]["0"]


def test_every_patching_arm_is_scored_in_bits_per_byte_and_costs_alike(results):
    run = kept(results, "patching")["runs"][0]
    assert all(0 < bits < 13 for bits in run["bits"].values())
    assert run["multiplications"]["flat, bytes"] <= 1.02 * run["multiplications"]["entropy"]
    assert run["patch"]["entropy"] == pytest.approx(run["patch"]["space"], rel=0.1)


def test_concepts_stand_beside_the_rows_that_need_no_model(results):
    scores = kept(results, "concepts")["runs"][0]["scores"]
    assert {"sentence before", "mean of document", "mean of training", "random sentence"} < set(scores)
    assert scores["sentence before"]["norm"] == pytest.approx(1.0, abs=1e-5)


def test_the_command_draws_what_is_kept(results, tmp_path):
    done = CliRunner().invoke(app, ["lab", "designs", str(results), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.exception
    page = (tmp_path / "page.html").read_text()
    assert all(word in page for word in ("not grown", "on noised text", "sentence before", "Planted two-way"))
    assert "0.250 (0.250 to 0.250)" in page
    assert "n/a" in page  # looking up has no probability of text
    assert "Ratios of CPU time" not in page  # nothing of the sort was kept


def test_a_folder_without_results_makes_no_page(tmp_path):
    with pytest.raises(SuperweightsError, match="holds no results"):
        designs_page(tmp_path)
    (tmp_path / "growth.json").write_text("{")
    with pytest.raises(SuperweightsError, match="is not JSON"):
        designs_page(tmp_path)


def test_what_is_kept_comes_back(tmp_path):
    @dataclass(frozen=True)
    class Settings:
        n: int

    keep(tmp_path, "some", [Settings(1)], Settings(2), 3.21)
    held = kept(tmp_path, "some")
    assert held["runs"] == [{"n": 1}]
    assert json.loads((tmp_path / "some.json").read_text())["settings"] == {"n": 2}
    assert str(Spread.of([1.0, 2.0, 6.0])) == "3.000 (1.000 to 6.000)"


def test_held_out_bytes_are_not_trained_on_and_batches_are_the_same_for_all(rows):
    assert torch.equal(rows.batch(1, 2, 3, 16), rows.batch(1, 2, 3, 16))
    assert not torch.equal(rows.batch(1, 2, 3, 16), rows.batch(1, 3, 3, 16))
    assert len(rows.held_out) == pytest.approx(len(rows.training) / 19, rel=0.3)
    held = bytes(rows.validation(1, 200)[0].tolist())
    assert rows.training.tobytes().find(held) == -1


def test_a_text_too_short_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(SuperweightsError, match="too few to learn from"):
        library_rows(1.0, tmp_path / "a.txt")


def test_fitting_is_torchs_adamw_with_this_schedule():
    """One linear layer, by hand: the same optimizer, clipping and learning rates."""
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 1), nn.Linear(3, 1)
    theirs.load_state_dict(ours.state_dict())
    x, plan = torch.randn(8, 3), Schedule(5, 1e-2)
    fit(ours, lambda step: ours(x).square().mean(), plan)
    adam = optimizer_of(theirs.parameters(), plan)
    for step in range(5):
        for group in adam.param_groups:
            group["lr"] = 1e-2 * plan.factor(step)
        adam.zero_grad()
        theirs(x).square().mean().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adam.step()
    assert torch.equal(ours.weight, theirs.weight)


def test_byte_pairs_lose_no_byte_and_are_scored_over_the_bytes():
    import numpy as np

    data = np.frombuffer(b"the cat sat on the mat \xff\xfe the cat\n" * 200, dtype=np.uint8)
    pairs = BytePairs.trained(data, 300)
    ids = encode(bytes(data[:72]), bos=True)[None]
    tokens, _ = pairs.padded(ids)
    text = "".join(pairs.tokenizer.id_to_token(int(t)) for t in tokens[0, 1:])
    assert text.encode("latin-1") == bytes(data[:72])

    class Uniform(nn.Module):
        def forward(self, tokens):
            return type("Out", (), {"logits": torch.zeros(*tokens.shape, pairs.vocabulary)})

    expected = (tokens.shape[1] - 1) * torch.tensor(float(pairs.vocabulary)).log2() / 72
    assert pairs.bits_per_byte(Uniform(), ids) == pytest.approx(float(expected), rel=1e-5)


def test_noise_turns_letters_and_takes_bytes():
    ids = encode("abcdefgh" * 40, bos=True)[None]
    other = noised(ids, 0)
    assert other.shape == ids.shape
    assert other[0, 0] == ids[0, 0]
    assert bytes((other[0, 1:] - 4).tolist()).lower() != bytes((ids[0, 1:] - 4).tolist())


def test_vectors_are_made_once_for_the_same_sentences(tmp_path):
    made = []

    class Encoder:
        def encode(self, sentences):
            made.append(len(sentences))
            return torch.eye(8)[: len(sentences)]

    texts = [["One.", "Two."], ["Three."]]
    first = encoded(texts, Encoder, tmp_path / "v.npz")
    again = encoded(texts, Encoder, tmp_path / "v.npz")
    assert made == [5]
    assert torch.equal(first.vectors, again.vectors)
    assert first.lengths.tolist() == [3, 2]
    encoded([["Other."]], Encoder, tmp_path / "v.npz")
    assert made == [5, 2]
    with pytest.raises(SuperweightsError, match="without a sentence"):
        encoded([["a"], []], Encoder, tmp_path / "w.npz")


def test_the_manual_has_documents_to_learn_from():
    texts = manual(SentenceSplitter())
    assert len(texts) > 30
    assert all(8 <= len(sentences) <= 24 for sentences in texts)
    assert importlib.util.find_spec("pydoc_data") is not None
