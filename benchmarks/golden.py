"""Every command's JSON on the embedded model with small settings, kept, and compared field by field.

    python benchmarks/golden.py --to before            # with one version of superweights
    python benchmarks/golden.py --to after             # with another
    python benchmarks/golden.py --compare before after

A move of walls must change no number. What may differ stands in `FREE`: versions, and the folder that a run wrote to.
Numbers agree when they are equal to 1e-6 of their size (sums of another order); words and keys when they are the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CRITICAL = "model.layers.11.mlp.down_proj.weight[507, 1229]"
EARLIER = "model.layers.2.mlp.down_proj.weight[507, 90]"
TEXT = ["--window", "32", "--windows", "2"]
PASSAGES = (
    "The lamp stood on the table beside the window",
    "She opened the door and walked into the room",
    "He put the letter into the fire and watched it burn",
)

# One entry a run: its name, and what stands behind `superweights`. {to} is a scratch folder, {find} `find`'s record.
RUNS: dict[str, list[str]] = {
    "find": ["find", "--windows", "2", "--length", "16", "--out", "{find}", "--json"],
    "find-reference": ["find", "--mode", "reference", "--json"],
    "scan": ["scan", "--json"],
    "known": ["known", "embedded", "--verify", "--json"],
    "score": ["score", "embedded", "--edit", f"{CRITICAL}=0", "--shift", "--prompt", "The sea was", "--new-tokens", "4",
              "--passages", "{passages}", *TEXT, "--json"],
    "ablate": ["ablate", "embedded", CRITICAL, EARLIER, *TEXT, "--json"],
    "scale": ["scale", "embedded", CRITICAL, "--factor", "0.5", *TEXT, "--json"],
    "sweep": ["sweep", "embedded", "--grid", "each", "--grid", "pairs", "--grid", "controls", "--count", "2",
              "--score", "kl", "--store", "{to}/store.sqlite", *TEXT, "--json"],
    "evaluate": ["evaluate", "embedded", "--tasks", "last_word={passages}", "--edit", f"{CRITICAL}=0", "--json"],
    "anatomy-all": ["anatomy", "all", *TEXT, "--json"],
    "anatomy-massive": ["anatomy", "massive", "--causal", *TEXT, "--json"],
    "anatomy-sinks": ["anatomy", "sinks", "--causal", *TEXT, "--json"],
    "anatomy-contributions": ["anatomy", "contributions", "--causal", *TEXT, "--json"],
    "anatomy-depth": ["anatomy", "depth", "--causal", *TEXT, "--json"],
    "anatomy-redundancy": ["anatomy", "redundancy", *TEXT, "--json"],
    "anatomy-linearity": ["anatomy", "linearity", "--window", "64", "--windows", "56", "--json"],
    "anatomy-information": ["anatomy", "information", *TEXT, "--json"],
    "anatomy-lens": ["anatomy", "lens", *TEXT, "--json"],
    "anatomy-replacement": ["anatomy", "replacement", *TEXT, "--json"],
    "activations": ["activations", "embedded", "--scale", "token", *TEXT, "--json"],
    "plan": ["plan", "embedded", "--window", "16", "--windows", "2", "--json"],
    "quantize": ["quantize", "embedded", "--to", "{to}/packed", "--json"],
    "quantize-gguf": ["quantize", "embedded", "--to", "{to}/a.gguf", "--format", "gguf", "--keep", "none", "--json"],
    "audit": ["audit", "{to}/packed", "--against", "embedded", *TEXT, "--json"],
    "peel": ["peel", "embedded", "--to", "{to}/peeled", "--json"],
    "attach": ["attach", "{to}/peeled", "--side-car", "{to}/peeled", "--to", "{to}/adapter", "--json"],
    "recipe": ["recipe", "embedded", "--json"],
    "prune": ["prune", "embedded", "--drop", "2", "--draws", "1", *TEXT, "--json"],
    "report": ["report", "{find}", "--format", "json"],
    "reproduce-figure3": ["reproduce", "figure3", "--json"],
    "reproduce-figure6": ["reproduce", "figure6", "--scales", "0,1", *TEXT, "--json"],
    "reproduce-table1": ["reproduce", "table1", "--others", "64", *TEXT, "--json"],
}  # fmt: skip

FREE = {"versions", "to", "folder", "store"}


def run_all(to: Path, names: list[str]) -> None:
    """Write NAME.json for every run: exit code and the JSON lines that it printed."""
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        passages = Path(scratch) / "passages.jsonl"
        passages.write_text("".join(json.dumps({"text": text}) + "\n" for text in PASSAGES))
        places = {"to": scratch, "find": f"{scratch}/find.json", "passages": str(passages)}
        for name in names:
            command = [sys.executable, "-m", "superweights", *(part.format(**places) for part in RUNS[name])]
            done = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "160"}
            )
            lines = _values(done.stdout.replace(scratch, "SCRATCH"))
            said = done.stderr.replace(scratch, "SCRATCH") if done.returncode else ""
            (to / f"{name}.json").write_text(
                json.dumps({"exit": done.returncode, "said": said, "lines": lines})
            )
            print(f"{name}: exit {done.returncode}, {len(lines)} lines {said}", flush=True)


def _values(printed: str) -> list[Any]:
    """The JSON values that were printed, on a line each or one over many lines."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while (rest := printed[at:]).strip():
        at += len(rest) - len(rest.lstrip())
        value, at = decoder.raw_decode(printed, at)
        found.append(value)
    return found


def differences(a: Any, b: Any, at: str = "") -> Iterator[str]:
    """Each place where `a` and `b` are not the same."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if key in FREE:
                continue
            if key not in a or key not in b:
                yield f"{at}.{key}: only {'after' if key in b else 'before'}"
            else:
                yield from differences(a[key], b[key], f"{at}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from differences(one, other, f"{at}[{i}]")
    elif _number(a) and _number(b):
        if not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9):
            yield f"{at}: {a!r} before, {b!r} after"
    elif a != b:
        yield f"{at}: {str(a)[:80]!r} before, {str(b)[:80]!r} after"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compare(before: Path, after: Path, both: bool = False) -> int:
    """Print every difference; 1 where there is one. `both`: only the runs that are kept in both folders."""
    found = 0
    for name in RUNS:
        if both and not all((folder / f"{name}.json").exists() for folder in (before, after)):
            continue
        pair = [json.loads((folder / f"{name}.json").read_text()) for folder in (before, after)]
        here = list(differences(*pair))
        print(f"{name}: {'the same' if not here else f'{len(here)} differences'}")
        for line in here[:30]:
            print(f"  {line}")
        found += len(here)
    return 1 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path)
    parser.add_argument("--only", action="append", choices=list(RUNS))
    parser.add_argument("--compare", nargs=2, type=Path)
    parser.add_argument("--both", action="store_true", help="compare only the runs that both folders have")
    options = parser.parse_args()
    if options.compare:
        sys.exit(compare(*options.compare, options.both))
    run_all(options.to, options.only or list(RUNS))


if __name__ == "__main__":
    main()
