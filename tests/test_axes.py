"""Shapes in annotations are checked by `make shapes`: that the check can fail, and that nothing else needs it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tiny
ROOT = Path(__file__).parent.parent
CHECKED = """
from jaxtyping import install_import_hook
with install_import_hook(["superweights.scoring", "superweights.subject"], "shape_checks.shapes"):
    import torch
    from superweights.scoring.compare import kl_nats
    from superweights.scoring.error import mean_error
p = torch.log_softmax(torch.randn(3, 5, 7), -1)
assert kl_nats(p, p).shape == (3, 5)
for wrong in (lambda: kl_nats(p, p[..., :6]), lambda: kl_nats(p, p.long()), lambda: mean_error(torch.zeros(2, 2))):
    try:
        wrong()
    except Exception as error:
        assert "TypeCheckError" in type(error).__name__, error
    else:
        raise AssertionError("a wrong shape was taken")
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(importlib.util.find_spec("jaxtyping") is None, reason="jaxtyping is not installed")
def test_a_wrong_shape_is_seen_where_shapes_are_checked():
    done = python(CHECKED)
    assert done.returncode == 0, done.stderr


def test_rooms_open_without_jaxtyping():
    done = python(
        "import sys; sys.modules['jaxtyping'] = None; import superweights.scoring, superweights.taps"
    )
    assert done.returncode == 0, done.stderr
