"""The commands of README and docs, in the order in which they stand, and what each becomes on tiny models."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

# What a command says about the embedded model, and what is said about the tiny one in its place.
_SUPER = "model.layers.0.mlp.down_proj.weight[5, 7]"
_SMALLER = (
    (r"org/name@revision|path/to/model|\./my-model|\./my-llama|org/llama-70b", "embedded"),
    (r"model\.layers\.11\.mlp\.down_proj\.weight\[507, 1229\]|TENSOR\[i, j\]", _SUPER),
    (r"arithmetic,copying,classification", "arithmetic"),
    (r"--layers 20-29", "--layers 1"),
    (r"--layers 1,2,11", "--layers 0,1"),
    (r"--layers 5\b", "--layers 1"),
    (r"(?<!linearity )--windows \d+", "--windows 2"),
    (r"LayerNorm\.weight\[99\]", "LayerNorm.weight[9]"),
    (r"c_proj\.weight\[(953|1424), 207\]", r"c_proj.weight[\1, 7]"),
    (r"--format compressed-tensors", "--format compressed-tensors --group 32"),
    (r"--limit \d+(.*)=0'", r"--limit 4\1=0.8'"),  # without it the tiny model's perplexity has no bounds
    (r"--limit \d+", "--limit 4"),
    (r"--steps \d+ --batch \d+ --every \d+", "--steps 2 --batch 2 --every 1"),
    (r"--new-tokens \d+", "--new-tokens 1"),
    (r"--top \d+", "--top 2"),
    (r"--drop \d+", "--drop 1"),
    (r"lab run prevention", "lab run prevention --quick"),
    (r"lab train softmax1 ", "lab train softmax1.toml "),
)
_DOWN = r"model\.layers\.(\d+)\.mlp\.down_proj\.weight\[(\d+), (\d+)\]"
# Commands that are longer than a test may be, or are about the world outside, each with its reason.
_LEFT_OUT = (
    (r"^(OMP_NUM_THREADS=\d+ )?(pip|make|torchrun|python|lm_eval|jq|git)\b", "another program"),
    (r"^superweights anatomy relations\b", "a tiny model knows none"),
    (r"^superweights explore\b", "serves until it is stopped; its page is looked at instead"),
)


@dataclass(frozen=True)
class Line:
    """A command as a page shows it: the page, its words after `superweights`, where its output goes, if not seen."""

    page: str
    told: str
    arguments: tuple[str, ...]
    into: str | None = None
    code: int = 0  # what it ends with: 1 where the page shows its error

    def __str__(self) -> str:
        return f"{self.page}: {self.told}"


def lines_of(page: Path) -> list[Line]:
    """The `superweights` commands of a page, each for the tiny model."""
    found = []
    for told, fails in commands(page):
        if any(re.search(pattern, told) for pattern, _ in _LEFT_OUT):
            continue
        small = told.removeprefix("make find ARGS=")
        for pattern, instead in _SMALLER:
            small = re.sub(pattern, instead, small)
        small = re.sub(_DOWN, _tiny_place, small)
        words = shlex.split(small.partition(" | ")[0], comments=True)
        into = words[words.index(">") + 1] if ">" in words else None
        words = words[1 : words.index(">") if into else None]
        found.append(Line(page.stem, told, tuple(words), into, int(fails)))
    return found


def _tiny_place(found: re.Match[str]) -> str:
    """A place of the tiny model for a place of the embedded one; different ones stay different."""
    layer, row, column = map(int, found.groups())
    return f"model.layers.{layer % 2}.mlp.down_proj.weight[{row % 64}, {column % 96}]"


def commands(page: Path) -> list[tuple[str, bool]]:
    """Every command line of the page's sh and console blocks, whole, and whether an error is shown below it."""
    found: list[tuple[str, bool]] = []
    for kind, block in re.findall(r"```(sh|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in re.sub(r"\\\n\s*>?\s*", "", block).splitlines():
            if kind == "console" and not line.startswith("$ "):
                if line.startswith("error:"):
                    found[-1] = found[-1][0], True
            elif (told := line.removeprefix("$ ").strip()) and not told.startswith("#"):
                found.append((told, False))
    return found
