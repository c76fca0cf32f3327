"""Every artefact of ours changed at random, and read: a sentence, or what nothing could doubt. Prints a table.

    python tests/faults/mutations.py --times 5000 --table docs/faults.md

What is accepted is counted by the field that was changed, so that each kind can be looked at. A change that puts a
number into an artefact that is none (NaN, Infinity, 1e999) must be refused.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

import grown  # noqa: E402
import opened  # noqa: E402
from store_bytes import stored  # noqa: E402

TENSOR = "model.layers.1.mlp.down_proj.weight"
# Raw words for JSON, by the text that holds their place.
_RAW = {
    "@nan@": "NaN",
    "@inf@": "Infinity",
    "@big@": "1e999",
    "@digits@": "9" * 5000,
    "@deep@": "[" * 3000 + "]" * 3000,
}
_VALUES = (
    *("@nan@", "@inf@", "@big@", "@digits@", "@deep@"),
    *(None, True, False, 0, -1, 1, 3, 3e6, 1e30, -1e300, 1e-320, 2**63, -(2**70)),
    *("", "x", "../../etc/passwd", "\0", "\ud7ff", "x" * 5000, "1", [], {}, [[[]]], [None], {"a": 1}),
)
_SECONDS = 20


@dataclass(frozen=True)
class Artefact:
    """Something of ours: its bytes, and the function that reads changed ones (and tells what it made of them)."""

    name: str
    whole: bytes
    read: Callable[[bytes], Any]
    json: bool = True


@dataclass
class Tally:
    """What became of the changes of one artefact."""

    tried: int = 0
    refused: int = 0
    same: int = 0
    accepted: Counter = field(default_factory=Counter)
    lost: Counter = field(default_factory=Counter)


def places(data: Any, at: tuple = ()) -> Iterator[tuple]:
    """Every place in a JSON value."""
    yield at
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


def changed_json(whole: bytes, draw: random.Random) -> tuple[bytes, str, bool]:
    """A changed text, the field that was changed, and whether it holds a number now that is none."""
    data = json.loads(whole)
    at = draw.choice([place for place in places(data) if place])
    holder = data
    for key in at[:-1]:
        holder = holder[key]
    how = draw.choice(("value", "value", "value", "drop", "rename", "twice", "shift"))
    value = draw.choice(_VALUES)
    named = ".".join("*" if isinstance(key, int) or "." in key else key for key in at)
    if how == "drop":
        del holder[at[-1]]
    elif how == "rename" and isinstance(holder, dict):
        holder[f"{at[-1]}x"] = holder.pop(at[-1])
    elif how == "shift" and isinstance(holder[at[-1]], int | float) and not isinstance(holder[at[-1]], bool):
        holder[at[-1]] = holder[at[-1]] * draw.choice((-1, 2, 1.5)) + draw.choice((0, 1))
    else:
        holder[at[-1]] = value
    text = json.dumps(data)
    none = any(json.dumps(word) in text for word in ("@nan@", "@inf@", "@big@"))
    for word, raw in _RAW.items():
        text = text.replace(json.dumps(word), raw)
    if how == "twice" and text.startswith("{"):
        text = text[:-1] + "," + text[1:]
    return text.encode("utf-8", "surrogatepass"), f"{named}: {how}", none


def changed_bytes(whole: bytes, draw: random.Random) -> tuple[bytes, str, bool]:
    """Changed bytes: one flipped, a stretch overwritten, cut off, or doubled."""
    held = bytearray(whole)
    at = draw.randrange(len(held))
    how = draw.choice(("flip", "flip", "overwrite", "cut", "double"))
    if how == "flip":
        held[at] ^= 1 << draw.randrange(8)
    elif how == "overwrite":
        held[at : at + 16] = draw.randbytes(16)
    elif how == "cut":
        del held[at:]
    else:
        held[at:at] = held[at : at + 64]
    return bytes(held), f"bytes: {how}", False


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """The body, ended where it takes longer."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_one(artefact: Artefact, draw: random.Random, tally: Tally) -> None:
    """Change it, read it, and count what became of it."""
    from superweights.errors import SuperweightsError

    as_json = artefact.json and draw.random() < 0.8
    made, named, none = (changed_json if as_json else changed_bytes)(artefact.whole, draw)
    tally.tried += 1
    try:
        with at_most(_SECONDS):
            found = artefact.read(made)
    except SuperweightsError:
        tally.refused += 1
    except TimeoutError:
        tally.lost["never ended"] += 1
    except Exception as error:  # noqa: BLE001 - that is what is counted
        place = traceback.extract_tb(error.__traceback__)[-1]
        tally.lost[f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno} ({named})"] += 1
    else:
        if none:
            tally.lost[f"a number that is none was accepted ({named})"] += 1
        elif found == "same":
            tally.same += 1
        elif isinstance(found, str) and found.startswith("wrong"):
            tally.lost[f"{found} ({named})"] += 1
        else:
            tally.accepted[named] += 1


# --- the artefacts ----------------------------------------------------------------------------------------


def artefacts(folder: Path, *, folders: bool = True) -> list[Artefact]:
    """Each kind of artefact, as its own writer makes it."""
    import torch
    from small import saved_llama
    from transformers import logging
    from transformers.utils.logging import disable_progress_bar

    from superweights.address import Address
    from superweights.checkpoint import open_checkpoint
    from superweights.quantization import Blocks, Scheme
    from superweights.quantization.peel import SIDE_CAR, peel
    from superweights.quantization.plan import Plan
    from superweights.quantization.sidecar import SideCar
    from superweights.stream.linears import linear_tensors

    logging.set_verbosity_error()
    disable_progress_bar()
    torch.set_num_threads(1)
    source = saved_llama(folder / "source", {TENSOR: {(5, 7): 4.0}})
    keep = Address(TENSOR, (5, 7))
    with open_checkpoint(source) as checkpoint:
        peel(checkpoint, [keep], folder / "peeled")
        plan = Plan.uniform(linear_tensors(checkpoint), Scheme("int4", blocks=Blocks("group", (32,))), [keep])
    side_car = (folder / "peeled" / SIDE_CAR).read_bytes()

    def read_plan(made: bytes) -> str:
        (folder / "plan.json").write_bytes(made)
        from superweights.artefacts.reading import read_text

        held = Plan.from_json(read_text(folder / "plan.json"))
        with open_checkpoint(source) as checkpoint:
            held.check(checkpoint)
        return "same" if held == plan else ""

    def read_alone(made: bytes) -> str:
        held = SideCar.from_json(made.decode("utf-8", "surrogateescape"))
        return "same" if held == SideCar.from_json(side_car.decode()) else ""

    return [
        Artefact("side-car, without its folder", side_car, read_alone),
        Artefact(
            "side-car, in its folder", side_car, opened.in_folder(folder / "peeled", SIDE_CAR, _side_car)
        ),
        Artefact("plan", plan.to_json().encode(), read_plan),
        *_records(folder, source),
        *_stores(folder),
        *(Artefact(*row) for row in grown.rows(folder, TENSOR)),
        *((Artefact(*row) for row in opened.rows(folder, source, plan)) if folders else ()),
    ]


def _side_car(folder: Path) -> Any:
    from superweights.quantization.peel import read_side_car

    return read_side_car(folder)


def _records(folder: Path, source: Path) -> list[Artefact]:
    from test_reports import RECORDS

    from superweights.address import Address
    from superweights.checkpoint import open_checkpoint
    from superweights.index.choice import recorded_weights
    from superweights.record import Record, Score, SuperWeight, versions
    from superweights.reports import read_records, render

    def report(made: bytes) -> str:
        (folder / "record.json").write_bytes(made)
        pages = [render(read_records([folder / "record.json"]), form) for form in ("html", "md", "json")]
        if max(map(len, pages)) > 4_000_000:
            return "wrong: a page of many megabytes"
        return ""

    with open_checkpoint(source) as checkpoint:
        fingerprint = checkpoint.fingerprint()
    effect = Score("loss rise", 2.0, "nats/token", 8, 0.1)
    weight = SuperWeight(Address(TENSOR, (5, 7)), 4.0, 1.0, 2.0, 0.9, effect, verdict="critical", layer=1)
    inputs = {"name": "tiny", "fingerprint": fingerprint}
    findings = {"candidates": [weight.to_json()], "verdict": "critical"}
    recorded = (
        Record("find", inputs, versions(), seed=0, scores=(effect,), findings=findings).to_json().encode()
    )

    def taken(made: bytes) -> str:
        (folder / "from.json").write_bytes(made)
        with open_checkpoint(source) as checkpoint:
            return "same" if recorded_weights(checkpoint, folder / "from.json") == (weight.address,) else ""

    records = [Artefact(f"record of {r.command}, in a report", r.to_json().encode(), report) for r in RECORDS]
    return [*records, Artefact("record, as --from", recorded, taken)]


def _stores(folder: Path) -> list[Artefact]:
    from superweights.address import Address
    from superweights.editing import zero
    from superweights.errors import SuperweightsError
    from superweights.sweeps import Cell, Cut, Numbers
    from superweights.sweeps.cell import SWEEP

    models = {"f" * 32: "a model"}
    cells = [Cell("f" * 32, zero(Address("t", (i,))), Cut("a" * 64, 32, 8)) for i in range(20)]
    keys = [cell.key for cell in cells]
    results = {key: Numbers((float(i), 2.5, 1 / 3)) for i, key in enumerate(keys[:15])}
    results |= {keys[15]: SuperweightsError("It broke.", hint="-")}
    return [Artefact("store", *stored(folder, SWEEP, models, cells, results), json=False)]


def run_all(times: int, seed: int, *, folders: bool = True, only: tuple[str, ...] = ()) -> dict[str, Tally]:
    """A tally for each artefact, `times` changes in all."""
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as held:
        made = artefacts(Path(held), folders=folders)
        made = [each for each in made if not only or any(word in each.name for word in only)]
        # Folders are opened for each change, which takes fifty times as long.
        shares = [
            1 if each.name.split(",")[0] in ("packed", "compressed-tensors", "attach") else 5 for each in made
        ]
        for artefact, share in zip(made, shares, strict=True):
            tally, draw = Tally(), random.Random(f"{seed} {artefact.name}")
            for _ in range(max(1, times * share // sum(shares))):
                try_one(artefact, draw, tally)
            tallies[artefact.name] = tally
            print(artefact.name, file=sys.stderr, flush=True)
        shutil.rmtree(held, ignore_errors=True)
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """The tallies as Markdown, and under it the fields whose changes were accepted."""
    lines = [
        "| artefact | changes | refused | same as before | accepted | lost |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name, tally in tallies.items():
        lost = ", ".join(f"{n} {what}" for what, n in tally.lost.items()) or "none"
        held = sum(tally.accepted.values())
        lines.append(f"| {name} | {tally.tried} | {tally.refused} | {tally.same} | {held} | {lost} |")
    lines += ["", "| artefact | fields whose changes were accepted |", "|---|---|"]
    for name, tally in tallies.items():
        fields = Counter(re.sub(r": .*", "", named) for named in tally.accepted.elements())
        if fields:
            told = ", ".join(f"`{named}` {n}" for named, n in fields.most_common())
            lines.append(f"| {name} | {told} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5000, help="changes in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", action="append", default=[], help="a word in the artefact's name; repeatable"
    )
    parser.add_argument("--table", type=Path, help="put the tables between the marks of this page")
    args = parser.parse_args()
    tallies = run_all(args.times, args.seed, only=tuple(args.only))
    print(table(tallies))
    if args.table is not None:
        begin, end = "<!-- mutations: begin -->", "<!-- mutations: end -->"
        page = args.table.read_text(encoding="utf-8")
        before, rest = page.split(begin)
        args.table.write_text(
            f"{before}{begin}\n{table(tallies)}\n{end}{rest.split(end)[1]}", encoding="utf-8"
        )
    return 1 if any(tally.lost for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
