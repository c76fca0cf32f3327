"""The Python of docs/quantize.md runs and says what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "quantize.md"

pytestmark = pytest.mark.unit


def test_the_example_of_the_page_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, PAGE.name, "exec"), {})
    said = capsys.readouterr().out
    assert "int4 float zero point, group 64, clip z 6" in said
    assert "protected 3" in said
