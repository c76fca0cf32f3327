"""Whether a planted super weight is found in every tower of the types that are no plain decoders: one row per tower.

    python benchmarks/towers.py                      all types, tables on stdout
    python benchmarks/towers.py --write              and into docs/coverage.md
    python benchmarks/towers.py masked:bert seq2seq:t5 --json rows.jsonl

For every type that transformers maps as masked, sequence to sequence, or seeing and hearing: a tiny random model is
built and saved; what it predicts is compared bit for bit with the same checkpoint streamed a block at a time; then, in
one tower after the other, a super weight is planted, saved, and searched for as in a stranger's checkpoint (one proving
pass, since the place is what counts here), on the arguments that the model runs with: pictures and sounds are random
numbers. A tower is a stack of blocks with feed-forward matrices. Each type has a process of its own, which is ended
when it takes too long; a run that was stopped goes on with `--json`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "coverage.md"
MARKS = "<!-- towers: begin -->", "<!-- towers: end -->"
TITLES = {
    "masked": "Masked words",
    "seq2seq": "Sequence to sequence",
    "image": "Decoders that see or hear",
}
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent)]


@dataclass(frozen=True)
class Row:
    """What became of one tower of one type; of the type as a whole where it did not come to that.

    `equal`: streamed as the whole model, bit for bit. `found`: the exact address was reported.
    """

    kind: str
    model_type: str
    tower: str | None = None
    planted: str | None = None
    equal: bool | None = None
    found: bool | None = None
    located: bool | None = None
    verdict: str | None = None
    seconds: float | None = None
    reason: str = ""


def examine(kind: str, model_type: str) -> list[Row]:
    """The rows of one type, in this process."""
    import reaching

    row = Row(kind, model_type)
    try:
        model = reaching.tiny(kind, model_type)
    except Exception as error:  # noqa: BLE001 - said in the table
        return [replace(row, reason=f"not built: {one_line(error)}")]
    try:
        inputs = reaching.inputs_for(kind, model)
    except Exception as error:  # noqa: BLE001 - said in the table
        return [replace(row, reason=f"not run: {one_line(error)}")]
    with tempfile.TemporaryDirectory() as folder:
        reaching.save(model, Path(folder, "clean"))
        try:
            row = replace(row, equal=is_equal(kind, model, Path(folder, "clean"), inputs))
        except Exception as error:  # noqa: BLE001 - said in the table
            return [replace(row, equal=False, reason=f"not opened: {one_line(error)}")]
        places = reaching.places_to_plant(model)
        if not places:
            return [replace(row, reason="has no matrix that could be a down-projection")]
        rows = list(planted_rows(row, kind, model_type, Path(folder), inputs, places))
        return rows or [replace(row, reason="its inputs reach no matrix that could be a down-projection")]


def planted_rows(
    row: Row, kind: str, model_type: str, folder: Path, inputs: dict[str, Any], places: dict[str, Any]
) -> Iterator[Row]:
    """A row for each tower; a tower that the inputs do not reach has none."""
    import reaching
    from coverage import difference
    from planting import plant

    for number, (stack, (parameter, width)) in enumerate(places.items()):
        here = replace(row, tower=stack)
        model = reaching.tiny(kind, model_type)
        began = time.perf_counter()
        try:
            plant(model, inputs, seed=sum(model_type.encode()), parameter=parameter, width=width)
        except AssertionError as error:
            if "not called" not in str(error):
                yield replace(here, reason=f"not planted: {one_line(error)}")
            continue
        except Exception as error:  # noqa: BLE001 - said in the table
            yield replace(here, reason=f"not planted: {one_line(error)}")
            continue
        target = folder / f"planted{number}"
        reaching.save(model, target)
        address = difference(folder / "clean", target)[0]
        found = search(replace(here, planted=address), target, inputs)
        yield replace(found, seconds=round(time.perf_counter() - began, 2))


def search(row: Row, folder: Path, inputs: dict[str, Any]) -> Row:
    """Open `folder` and search it."""
    from superweights.discovery import Search, find

    try:
        findings = find(
            str(folder), Search(budget=1, rounds=0), token_ids=inputs, objective=objective(row.kind)
        )
    except Exception as error:  # noqa: BLE001 - a refusal or a crash is a result here
        return replace(row, found=False, reason=f"{type(error).__name__}: {one_line(error)}")
    reported = {str(candidate.address): candidate.verdict for candidate in findings.candidates}
    tensor = str(row.planted).partition("[")[0]
    others = ", ".join(list(reported)[:2])
    found = row.planted in reported
    return replace(
        row,
        found=found,
        located=any(name.partition("[")[0] == tensor for name in reported),
        verdict=reported.get(str(row.planted)),
        reason="" if found else (f"reported instead: {others}" if reported else "no candidate"),
    )


def is_equal(kind: str, model: Any, folder: Path, inputs: dict[str, Any]) -> bool:
    """Whether the checkpoint, streamed a block at a time, predicts what the model does, bit for bit."""
    import torch

    from superweights.checkpoint import open_checkpoint
    from superweights.stream import streaming
    from superweights.subject import Batch
    from superweights.subject.facts import forward, predicted

    given = {name: held for name, held in inputs.items() if name != "labels"}
    with (
        open_checkpoint(str(folder)) as checkpoint,
        streaming(checkpoint, resident=False, objective=objective(kind)) as streamed,
        torch.no_grad(),
    ):
        # The same call of both: with a cache FSMT, by default, looks at what comes after a token.
        both = [forward(each, Batch(given)) for each in (streamed, model)]
        return torch.equal(predicted(both[0]), predicted(both[1]))


def objective(kind: str) -> str:
    """The objective that a kind is opened for: pictures are given here, so that no processor is asked for."""
    return "next-token" if kind == "image" else kind


def one_line(error: BaseException) -> str:
    said = re.sub(r"\S*/(clean|planted\d+)\b", "the checkpoint", " ".join(str(error).split()))
    return said[:160] or type(error).__name__


def _work(kind: str, model_type: str, answer: Any) -> None:
    import os

    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    answer.send(examine(kind, model_type))


def examine_all(types: list[tuple[str, str]], timeout: float) -> Iterator[Row]:
    """The rows of every type; one that kills or stalls its process gets a row that says so."""
    import torch  # noqa: F401 - read once, before the processes part
    import transformers  # noqa: F401

    context = multiprocessing.get_context("fork")
    for kind, model_type in types:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(kind, model_type, there))
        process.start()
        there.close()
        rows = [Row(kind, model_type, reason=f"its process died or took over {timeout:.0f} s")]
        try:
            if here.poll(timeout):
                rows = here.recv()
        except EOFError:
            pass
        process.kill()
        process.join()
        for row in rows:
            print(
                f"{kind}:{model_type} {row.tower or ''}: {row.found} {row.reason}",
                file=sys.stderr,
                flush=True,
            )
            yield row


def in_turn(lists: list[list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """The lists as one, an element of each in turn: a run that is stopped has something of every kind."""
    longest = max(map(len, lists))
    return [held[i] for i in range(longest) for held in lists if i < len(held)]


def page(rows: list[Row], wanted: int) -> str:
    """The tables for the documentation, as markdown."""
    import transformers

    lines = [
        f"Made by `python benchmarks/towers.py --write` with transformers {transformers.__version__}.",
    ]
    measured = len({(row.kind, row.model_type) for row in rows})
    if measured < wanted:
        lines += [
            f"The run was stopped after {measured} of {wanted} types, taken in turn from each kind by name."
        ]
    lines += [""]
    lines += [
        "| kind | types | run here | bit-equal when streamed | towers planted | found at the exact place |"
    ]
    lines += ["|--|--|--|--|--|--|", *(_counts(kind, rows) for kind in TITLES), ""]
    for kind, title in TITLES.items():
        mine = [row for row in rows if row.kind == kind]
        lines += [
            f"### {title}",
            "",
            "Missed or not planted:",
            "",
            "| type | tower | planted | reason |",
            "|--|--|--|--|",
        ]
        lines += [
            f"| {r.model_type} | {r.tower or ''} | {f'`{r.planted}`' if r.planted else ''} | {r.reason} |"
            for r in mine
            if not r.found
        ]
        lines += ["", "Found:", "", "| type | planted, as the file names it | verdict |", "|--|--|--|"]
        lines += [f"| {r.model_type} | `{r.planted}` | {r.verdict} |" for r in mine if r.found]
        lines += [""]
    return "\n".join(lines)


def _counts(kind: str, rows: list[Row]) -> str:
    mine = [row for row in rows if row.kind == kind]
    types, ran = {r.model_type for r in mine}, {r.model_type for r in mine if r.equal is not None}
    equal = {r.model_type for r in mine if r.equal}
    planted = [r for r in mine if r.planted]
    found = sum(bool(r.found) for r in planted)
    share = f" ({found / len(planted):.1%})" if planted else ""
    return f"| {TITLES[kind]} | {len(types)} | {len(ran)} | {len(equal)} | {len(planted)} | {found}{share} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", help="kind:type, for example masked:bert (default: all)")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/coverage.md")
    parser.add_argument(
        "--json", type=Path, help="one JSON object per row; what it holds is not measured again"
    )
    parser.add_argument("--page", action="store_true", help="measure nothing: the page of what --json holds")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one type")
    options = parser.parse_args()
    import reaching

    types = [tuple(each.split(":")) for each in options.types] or in_turn(
        [[(kind, each) for each in reaching.types_of(kind)] for kind in reaching.KINDS]
    )
    rows = []
    if options.json and options.json.exists():
        rows = [Row(**json.loads(line)) for line in options.json.read_text(encoding="utf-8").splitlines()]
    done = {(row.kind, row.model_type) for row in rows}
    for row in examine_all(
        [each for each in types if each not in done and not options.page], options.timeout
    ):
        rows.append(row)
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    text = page(rows, len(types))
    print(text)
    if options.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
        PAGE.write_text(
            f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
