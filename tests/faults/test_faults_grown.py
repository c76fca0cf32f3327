"""What the lab and adaptation leave on a disk: half-written is not there, and changed is refused or made anew."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
import torch

from superweights.adaptation import load_experts, save_expert
from superweights.adaptation.cache import remembered
from superweights.adaptation.comparing import Result
from superweights.adaptation.comparison_jobs import COMPARISON, Comparison, Gained
from superweights.adaptation.expert import FILE, Expert
from superweights.adaptation.kept_state import keep_state, kept_state
from superweights.artefacts.folder import seal
from superweights.artefacts.manifest import Work
from superweights.artefacts.place import partial_of
from superweights.errors import SuperweightsError
from superweights.jobs import Store
from superweights.lab.frames import load_frames
from superweights.lab.training import _checked

pytestmark = pytest.mark.unit


def flipped(path):
    """The file with one bit changed in its middle."""
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


def test_an_expert_in_the_making_is_not_among_the_experts(tmp_path):
    save_expert(Expert("sums", {"m": torch.ones(4)}, "a model", "f" * 32), tmp_path / "sums")
    shutil.copytree(tmp_path / "sums", partial_of(tmp_path / "other", "0" * 16))
    assert [expert.name for expert in load_experts(tmp_path)] == ["sums"]


def test_an_expert_of_which_a_byte_is_another_is_refused(tmp_path):
    save_expert(Expert("sums", {"m": torch.ones(400)}, "a model", "f" * 32), tmp_path / "sums")
    flipped(tmp_path / "sums" / FILE)
    with pytest.raises(SuperweightsError, match="is not what was written"):
        load_experts(tmp_path)


def test_a_number_that_was_changed_in_the_store_of_a_comparison_is_refused(tmp_path):
    job = Comparison("f" * 32, "t", "d", 0, "svf", (), "mlp", None, 0.01, 0, (), "exact", "", {"steps": 4})
    path, models = tmp_path / "runs.sqlite", {"f" * 32: "a model"}
    with Store(path, models, COMPARISON) as store:
        store.add([job])
        store.finish({job.key: Gained([Result("t", "svf", 0, -1.0, 0.5, 24, 3)])})
        assert store.read([job.key])[job.key].result.results[0].gain == 0.75
    with sqlite3.connect(path) as db:
        db.execute("UPDATE cell SET numbers = replace(numbers, '0.5', '0.7')")
    db.close()
    with Store(path, models, COMPARISON) as store, pytest.raises(SuperweightsError, match=r"runs\.sqlite"):
        store.read([job.key])


def test_factors_that_were_changed_on_disk_are_made_anew(tmp_path):
    weight = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    first = remembered(weight, None, tmp_path, "m")
    (file,) = tmp_path.glob("*.safetensors")
    held = file.read_bytes()
    flipped(file)
    changed = file.read_bytes()
    again = remembered(weight, None, tmp_path, "m")
    assert torch.equal(first.U, again.U)
    assert len(file.read_bytes()) == len(held)
    assert file.read_bytes() != changed


def test_the_state_of_a_training_is_taken_only_as_it_was_written(tmp_path):
    keep_state(tmp_path / ".e.training" / "state.pt", {"numbers": torch.arange(400.0), "step": 3})
    assert kept_state(tmp_path / ".e.training" / "state.pt")["step"] == 3
    flipped(tmp_path / ".e.training" / "state.pt")
    with pytest.raises(SuperweightsError, match="hint: remove it"):
        kept_state(tmp_path / ".e.training" / "state.pt")


def test_a_checkpoint_of_the_lab_is_taken_only_as_it_was_written(tmp_path):
    (tmp_path / "run.json").write_text('{"seconds": 1.5, "cpu_seconds": 1.0}')
    (tmp_path / "optimizer.bin").write_bytes(bytes(3 << 20))
    seal(tmp_path, Work("lab checkpoint", "a recipe", "2"))
    assert _checked(tmp_path).seconds == 1.5
    flipped(tmp_path / "optimizer.bin")
    with pytest.raises(SuperweightsError, match="hint: remove it"):
        _checked(tmp_path)


def test_a_frame_that_is_none_is_named(tmp_path):
    (tmp_path / "step-00000003.npz").write_bytes(b"PK\3\4 and so on")
    (tmp_path / "step-last.npz").write_bytes(b"somebody's own")
    with pytest.raises(SuperweightsError, match=r"step-00000003\.npz"):
        load_frames(tmp_path)
