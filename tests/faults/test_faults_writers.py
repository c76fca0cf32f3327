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


# Not in it: `lab train` and `facts`, whose tries take seconds each; `campaign.py` does them too.
MODELS = ("packed", "dense", "compressed-tensors", "gguf", "prune", "peel", "attach (PEFT)", "attach (GGUF)")
OTHERS = ("record, page, plan", "adapt train", "adapt mix (an expert)", "adapt write (LoRA)", "report")


@pytest.mark.parametrize("writers", [MODELS, OTHERS])
def test_no_fault_leaves_half_a_result_a_mixture_or_a_foreign_file(tmp_path, writers):
    if campaign.compiled(tmp_path) is None:
        pytest.skip("no C compiler, or no Linux: system calls cannot be counted")
    needed, extra = ("compressed_tensors", "formats") if writers is MODELS else ("peft", "adapt")
    pytest.importorskip(needed, reason=f"needs superweights[{extra}]")
    only = [word for name in writers for word in ("--only", name)]
    command = [sys.executable, HERE / "campaign.py", "--times", "5", *only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if line.endswith("| none |")]
    assert {row.split("|")[1].strip() for row in rows} == set(writers), done.stdout


def test_changed_artefacts_are_refused_or_cannot_be_told():
    tallies = mutations.run_all(800, seed=1, folders=False)
    assert len(tallies) > 5
    assert {name: dict(tally.lost) for name, tally in tallies.items() if tally.lost} == {}
    noticed = {name: tally.refused + tally.same for name, tally in tallies.items()}  # same: made anew
    assert min(noticed.values()) > 10, f"nothing was noticed, so nothing was changed: {noticed}"
