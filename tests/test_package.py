"""The public door: what `import superweights` costs and gives."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import superweights

pytestmark = pytest.mark.unit


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_superweights_brings_neither_torch_nor_transformers():
    heavy = "[name for name in ('torch', 'transformers', 'numpy', 'rich', 'typer') if name in sys.modules]"
    assert run_python(f"import sys, superweights; print({heavy})") == "[]"


def test_every_public_name_exists():
    for name in superweights.__all__:
        assert getattr(superweights, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        superweights.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "order",
    [
        "from superweights import find",
        "from superweights.discovery import Search; from superweights import find",
    ],
)
def test_find_can_be_called_whatever_was_imported_first(order):
    assert run_python(f"{order}; print(callable(find))") == "True"


def test_type_checkers_see_the_same_names_as_python():
    stub = ast.parse((Path(superweights.__file__).parent / "__init__.pyi").read_text())
    told = {
        alias.asname: f"{node.module}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted([*told, "__version__"]) == superweights.__all__
    for name, home in told.items():
        assert getattr(superweights, name) is getattr(importlib.import_module(home), name)


USER = """
from superweights import Findings, Reading, Record, Score, find, open_checkpoint, quantize, score

findings = find()
reveal_type(findings)
record = score("embedded", ["a.b[0, 1]=0"], Reading(windows=2))
reveal_type(record)
with open_checkpoint() as checkpoint:
    reveal_type(checkpoint)
quantized = quantize("embedded", "somewhere")
reveal_type(quantized)
"""


def test_pyright_knows_the_public_door(tmp_path):
    """Every verb is called as a person would, and pyright has nothing to say but what it was asked."""
    verbs = [name for name in superweights.__all__ if name.islower() and not name.startswith("_")]
    script = tmp_path / "user.py"
    script.write_text(
        USER + f"from superweights import {', '.join(verbs)}\n" + "\n".join(f"{v}.__name__" for v in verbs)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(script)],
        capture_output=True, text=True, cwd=Path(superweights.__file__).parent.parent,
    )  # fmt: skip
    said = json.loads(done.stdout)["generalDiagnostics"]
    assert [each["message"] for each in said if each["severity"] == "error"] == []
    told = [each["message"].rsplit('"', 2)[1] for each in said if each["severity"] == "information"]
    assert told == ["Findings", "Record", "Checkpoint", "Record"]
