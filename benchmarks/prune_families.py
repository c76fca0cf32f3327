"""Which architectures can lose an attention, an MLP or a block.

    python benchmarks/prune_families.py [--write]

Each causal model type of the installed transformers, tiny and random: attention 0, MLP 1 and block 1 are dropped, each
from a checkpoint of three layers. A folder that `prune` writes has been run beside the original without the same
sub-layer; everything else is a refusal, whose reason is counted. Takes about three minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from transformers.utils import logging

from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError
from superweights.pruning import Dropped, prune

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent / "tests"))
import families  # noqa: E402

PAGE = HERE.parent.parent / "docs" / "prune.md"
MARKS = "<!-- families: begin -->", "<!-- families: end -->"
WANTED = {
    "an attention": Dropped(attention=(0,)),
    "an MLP": Dropped(mlp=(1,)),
    "a block": Dropped(blocks=(1,)),
}
REASONS = {
    "normalises its stream": "the block normalises its stream after adding to it",
    "add up": "the writes of the block cannot be told",
    "cannot be opened": "the architecture needs what was dropped (encoders, lists by layer)",
    "cannot run": "the architecture needs what was dropped (encoders, lists by layer)",
    "cache": "the key-value cache would be read wrongly (hybrids, the only layer of a kind)",
    "something else": "the blocks depend on their number",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"put the counts into {PAGE.name}")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kinds = [
        kind
        for kind in families.causal_model_types()
        if kind not in families.NOT_BUILT and kind not in families.NOT_OPENED
    ]
    done, reasons = Counter[str](), Counter[str]()
    for kind in kinds:
        for what, found in tried(kind).items():
            done[what] += found is None
            if found is not None:
                said = next((text for word, text in REASONS.items() if word in found), "other")
                reasons[said] += 1
                print(f"{kind}: not {what}: {found}", flush=True)
    lines = [
        f"Of tiny models of the {len(kinds)} causal types that transformers can reopen, "
        + ", ".join(f"{done[what]} lose {what}" for what in WANTED)
        + " (`python benchmarks/prune_families.py`). The other attempts are refused because:",
        "",
        *(f"* {said}: {count}" for said, count in reasons.most_common()),
    ]
    print("\n".join(lines))
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(MARKS[0])
        PAGE.write_text(
            f"{before}{MARKS[0]}\n" + "\n".join(lines) + f"\n{MARKS[1]}{rest.split(MARKS[1])[1]}",
            encoding="utf-8",
        )


def tried(kind: str) -> dict[str, str | None]:
    """What became of each attempt: None, or why it was refused."""
    found: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        families.tiny_model(kind).save_pretrained(folder / "whole")
        for number, (what, dropped) in enumerate(WANTED.items()):
            try:
                with open_checkpoint(folder / "whole") as checkpoint:
                    prune(checkpoint, dropped, folder / str(number), device="cpu")
                found[what] = None
            except SuperweightsError as error:
                found[what] = error.message
    return found


if __name__ == "__main__":
    main()
