"""Every writer killed, torn, on a full disk and interrupted, a few times each; `campaign.py` does it often."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import campaign  # noqa: E402
import mutations  # noqa: E402

pytestmark = pytest.mark.tiny


def test_no_fault_leaves_half_a_result_a_mixture_or_a_foreign_file(tmp_path):
    if campaign.compiled(tmp_path) is None:
        pytest.skip("no C compiler, or no Linux: system calls cannot be counted")
    pytest.importorskip("compressed_tensors", reason="needs superweights[formats]")
    command = [sys.executable, HERE / "campaign.py", "--times", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if line.endswith("| none |")]
    assert len({row.split("|")[1] for row in rows}) == 9, done.stdout


def test_changed_artefacts_are_refused_or_cannot_be_told():
    tallies = mutations.run_all(400, seed=1, folders=False)
    assert len(tallies) > 5
    assert {name: dict(tally.lost) for name, tally in tallies.items() if tally.lost} == {}
    assert min(tally.refused for tally in tallies.values()) > 10, (
        "nothing was refused, so nothing was changed"
    )
