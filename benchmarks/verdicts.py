"""Whether verdicts hold when one looks again: the same model, other texts.

    python benchmarks/verdicts.py                     the embedded model, eight disjoint texts
    python benchmarks/verdicts.py MODEL               any other, a .gguf file for instance
    python benchmarks/verdicts.py --write             and into docs/verdicts.md

The texts: five chapters of the prose that Python brings along (its paragraphs dealt out in runs) and three modules of
the standard library, as source code. What counts: how often a text gives a candidate the verdict that most texts give
it, among those that decided, and how many are undecided.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

import torch

from superweights.checkpoint import open_checkpoint
from superweights.discovery import Findings, Search, find
from superweights.subject.text import Text, embedded_prose

PAGE = Path(__file__).resolve().parent.parent / "docs" / "verdicts.md"
MARKS = "<!-- stability: begin -->", "<!-- stability: end -->"


def texts() -> list[Text]:
    """Eight texts that share no line."""
    paragraphs = embedded_prose().text.split("\n\n")
    size = len(paragraphs) // 5
    chapters = [
        Text.of(f"prose {n + 1}", "\n\n".join(paragraphs[n * size : (n + 1) * size])) for n in range(5)
    ]
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [library / "argparse.py", library / "typing.py", library / "statistics.py"]
    return [*chapters, *(Text.of(f"source {path.name}", path.read_text()) for path in sources)]


def verdicts(model: str | None, search: Search) -> dict[str, Findings]:
    found = {}
    for text in texts():
        start = time.process_time()
        with open_checkpoint(model) as checkpoint:
            found[text.name] = find(checkpoint, search, text=text)
        print(f"{text.name}: {time.process_time() - start:.0f} s", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, Findings]) -> list[str]:
    """A row for each candidate that some text does not call benign, and what all candidates come to."""
    held = {name: {str(c.address): c.verdict for c in f.candidates} for name, f in found.items()}
    addresses = list(dict.fromkeys(address for verdicts in held.values() for address in verdicts))
    lines = [f"| weight | {' | '.join(held)} |", f"|---|{'---|' * len(held)}"]
    same = pairs = undecided = total = 0
    for address in addresses:
        row = [verdicts.get(address) for verdicts in held.values()]
        seen = [verdict for verdict in row if verdict is not None]
        undecided, total = undecided + seen.count("undecided"), total + len(seen)
        decided = [verdict for verdict in seen if verdict != "undecided"]
        commonest = Counter(decided).most_common(1)
        same += commonest[0][1] if commonest else 0
        pairs += len(decided)
        if set(seen) != {"benign"}:
            short = address.replace("model.layers.", "").replace(".mlp.down_proj.weight", "")
            lines.append(f"| {short} | {' | '.join(verdict or '-' for verdict in row)} |")
    all_benign = sum({v.get(a) for v in held.values()} - {None} == {"benign"} for a in addresses)
    lines += ["", f"and {all_benign} that every text calls benign. "]
    lines[-1] += (
        f"Of {pairs} decided (candidate, text) pairs {same} ({100 * same / max(pairs, 1):.1f} %) have the "
    )
    lines[-1] += (
        f"candidate's commonest verdict; {undecided} of {total} ({100 * undecided / total:.1f} %) are undecided."
    )
    agree = disagree = 0
    for one, other in itertools.combinations(held.values(), 2):
        for address in one.keys() & other.keys():
            if "undecided" not in (one[address], other[address]):
                agree, disagree = (
                    agree + (one[address] == other[address]),
                    disagree + (one[address] != other[address]),
                )
    lines.append(
        f"Between two texts: {100 * agree / max(agree + disagree, 1):.1f} % of {agree + disagree} agree."
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("--budget", type=int, default=Search().budget)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = verdicts(options.model, Search(budget=options.budget))
    lines = [
        f"`python benchmarks/verdicts.py{f' {options.model}' if options.model else ''}`:",
        "",
        *table(found),
        "",
    ]
    print("\n".join(lines))
    if options.write:
        page = PAGE.read_text()
        before, rest = page.split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        PAGE.write_text(f"{before}{MARKS[0]}\n\n" + "\n".join(lines) + f"\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
