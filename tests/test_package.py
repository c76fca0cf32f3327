"""The public door: what `import superweights` costs and gives."""

from __future__ import annotations

import subprocess
import sys

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
