"""The Python of docs/quantize.md and docs/activations.md runs and says what the pages say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "quantize.md"

pytestmark = pytest.mark.unit


def test_the_example_of_the_page_runs(capsys):
    code, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, PAGE.name, "exec"), {})
    said = capsys.readouterr().out
    assert "int4 float zero point, group 64, clip z 6" in said
    assert "protected 3" in said


@pytest.mark.tiny
def test_the_example_of_the_page_on_activations_runs(capsys):
    code, *_ = re.findall(r"```python\n(.*?)```", PAGE.with_name("activations.md").read_text(), re.DOTALL)
    exec(compile(code, "activations.md", "exec"), {})
    said = capsys.readouterr().out
    assert "activations int8 static; beyond 5 deviations of each tensor held out" in said
    assert "% held out" in said
