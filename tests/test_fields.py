"""Every field of every public noun is explained where it stands: counted, room by room."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "superweights"
pytestmark = pytest.mark.unit


def unexplained(source: str) -> Iterator[str]:
    """`Class.field` for each field of a public frozen dataclass of which nothing is said.

    What counts: a text below the field, a comment beside or above it, or its name in the docstring of the class.
    """
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_") or not _is_frozen(node):
            continue
        said = set(re.findall(r"\w+", ast.get_docstring(node) or ""))
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            below = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            beside = any("#" in line for line in lines[field.lineno - 1 : field.end_lineno])
            above = lines[field.lineno - 2].lstrip().startswith("#")
            name = field.target.id
            if not (below or beside or above or name in said or name.startswith("_")):
                yield f"{node.name}.{name}"


def _is_frozen(node: ast.ClassDef) -> bool:
    """Whether a dataclass, frozen or of a kind that is not compared, stands above the class."""
    calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
    return any(
        isinstance(call.func, ast.Name)
        and call.func.id == "dataclass"
        and any(key.arg == "frozen" for key in call.keywords)
        for call in calls
    )


def test_an_unexplained_field_is_seen():
    source = '''
@dataclass(frozen=True)
class Noun:
    """What `said` is."""

    said: int
    told: int
    """In a text."""
    noted: int  # beside
    # above
    marked: int = 0
    unsaid: int = 1
'''
    assert list(unexplained(source)) == ["Noun.unsaid"]


# The options of the command line are explained by their help.
ELSEWHERE = {"cli"}
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.relative_to(PACKAGE).parts[0] not in ELSEWHERE]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_field_is_explained_where_it_stands(path):
    assert list(unexplained(path.read_text())) == []
