"""How many model families a planted super weight is found in: one row per type that transformers maps.

    python benchmarks/coverage.py                    all types, table on stdout
    python benchmarks/coverage.py --write            and into docs/coverage.md
    python benchmarks/coverage.py llama gpt2 --json rows.jsonl

For every type: a tiny random model is built and saved, then a super weight is planted and the model saved
again. The two folders differ in one weight (and, where a norm would keep the spike from the residual stream,
in one gain of that norm); its tensor and index in the file are the truth, whatever the model calls its
parameters. The planted folder is then opened and searched as a stranger's checkpoint, and
the other one too: without a planted weight nothing may be called critical. The work is done in a process of
its own, which is replaced when it crashes or takes too long.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "coverage.md"
MARKS = "<!-- coverage: begin -->", "<!-- coverage: end -->"
# What is known about types that are missed; said beside what the search reported.
_INTO_MIXER = "its shared attention block feeds a Mamba mixer, not the residual stream, where nothing spikes"
_DECODER_ONLY = "transformers' own AutoModelForCausalLM cannot open it either"
WHY = {
    "musicgen": _DECODER_ONLY,
    "musicgen_melody": _DECODER_ONLY,
    "zamba": _INTO_MIXER,
    "zamba2": _INTO_MIXER,
}
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]


@dataclass(frozen=True)
class Row:
    """What became of one model type. `found`: the exact address was reported. None: it did not come to that."""

    model_type: str
    planted: str | None = None
    stored: str | None = None
    gain: bool | None = None
    found: bool | None = None
    located: bool | None = None
    verdict: str | None = None
    reported: int | None = None
    without: str | None = None
    seconds: float | None = None
    reason: str = ""


def examine(model_type: str) -> Row:
    """The row of one type, in this process."""
    import families
    from planting import down_projections, plant

    if model_type in families.NOT_BUILT:
        return Row(model_type, reason=f"not built: {families.NOT_BUILT[model_type]}")
    model = families.tiny_model(model_type)
    if not down_projections(model):
        return Row(model_type, reason="has no MLP, so no down-projection to plant in")
    ids = families.token_ids(rows=4)
    with tempfile.TemporaryDirectory() as folder:
        clean, planted = Path(folder, "clean"), Path(folder, "planted")
        families.save_tiny(model_type, clean, model)
        gain = plant(model, ids, seed=sum(model_type.encode())).gain
        families.save_tiny(model_type, planted, model)
        address, shape = difference(clean, planted)
        began = time.perf_counter()
        row = search(model_type, planted, ids, address)
        seconds = round(time.perf_counter() - began, 2)
        row = Row(**asdict(row) | {"stored": str(shape), "gain": gain is not None, "seconds": seconds})
        return row if row.found is None else Row(**asdict(row) | {"without": verdict_without(clean, ids)})


def difference(clean: Path, planted: Path) -> tuple[str, list[int]]:
    """The one weight that differs between two saved checkpoints: address as text, and its tensor's shape."""
    from safetensors import safe_open

    found = []
    for file in sorted(clean.glob("*.safetensors")):
        with safe_open(file, "pt") as one, safe_open(planted / file.name, "pt") as other:
            for name in one.keys():  # noqa: SIM118 - a safe_open is no dictionary
                tensor = one.get_tensor(name)
                if tensor.ndim < 2:  # a raised gain
                    continue
                for index in (tensor != other.get_tensor(name)).nonzero().tolist():
                    found.append((f"{name}[{', '.join(map(str, index))}]", list(tensor.shape)))
    assert len(found) == 1, f"{len(found)} numbers differ"
    return found[0]


def search(model_type: str, folder: Path, ids: Any, address: str) -> Row:
    """Open `folder` and search it: the only place that calls what is measured."""
    from superweights.errors import SuperweightsError

    try:
        findings = call_find(folder, ids)
    except SuperweightsError as error:
        return Row(model_type, address, reason=f"refused: {error.message.replace(str(folder), 'it')}")
    except Exception as error:  # noqa: BLE001 - a crash is a result here, and its name the reason
        return Row(model_type, address, reason=f"crashed: {type(error).__name__}: {one_line(error)}")
    tensor = address.partition("[")[0]
    reported = {str(candidate.address): candidate.verdict for candidate in findings.candidates}
    found = address in reported
    located = any(name.partition("[")[0] == tensor for name in reported)
    others = ", ".join(list(reported)[:2])
    reason = "" if found else (f"reported instead: {others}" if reported else "no candidate")
    verdict = reported.get(address)
    return Row(
        model_type,
        address,
        found=found,
        located=located,
        verdict=verdict,
        reported=len(reported),
        reason=reason,
    )


def verdict_without(folder: Path, ids: Any) -> str:
    """The verdict on the same model without a planted weight: critical would be a false alarm."""
    try:
        return call_find(folder, ids).verdict or "none"
    except Exception as error:  # noqa: BLE001 - said in the table
        return f"{type(error).__name__}"


def call_find(folder: Path, ids: Any) -> Any:
    """`superweights.discovery` of the checkpoint in `folder` on the token ids `[rows, tokens]`."""
    from superweights.checkpoint import open_checkpoint
    from superweights.discovery import find

    with open_checkpoint(str(folder)) as checkpoint:
        return find(checkpoint, token_ids=ids)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]


def work() -> None:
    """The worker: model types on stdin, one JSON row each on stdout."""
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            row = examine(line.strip())
        except Exception as error:  # noqa: BLE001 - ours to report, and the next type goes on
            row = Row(
                line.strip(), reason=f"could not be examined: {type(error).__name__}: {one_line(error)}"
            )
        print(json.dumps(asdict(row)), file=out, flush=True)


class Worker:
    """A child process that examines one type after the other."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__)), "--worker"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def ask(self, model_type: str, timeout: float) -> Row | None:
        """The row, or None when the process died or took longer than `timeout` seconds."""
        self.process.stdin.write(model_type + "\n")
        self.process.stdin.flush()
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            line = None
        if line is None:
            self.process.kill()
            return None
        return Row(**json.loads(line))


def examine_all(model_types: list[str], timeout: float) -> Iterator[Row]:
    """A row for every type; a type that kills or stalls its process gets a row that says so."""
    worker = Worker()
    for model_type in model_types:
        row = worker.ask(model_type, timeout)
        if row is None:
            row = Row(model_type, reason=f"its process died or took over {timeout:.0f} s")
            worker = Worker()
        print(f"{model_type}: {'found' if row.found else row.reason}", file=sys.stderr, flush=True)
        why = "" if row.found else WHY.get(model_type)
        yield Row(**asdict(row) | {"reason": f"{row.reason}; {why}"}) if why else row
    worker.process.stdin.close()


def page(rows: list[Row], command: str) -> str:
    """The tables for the documentation, as markdown."""
    import transformers

    planted = [row for row in rows if row.planted]
    alarms = [row.model_type for row in rows if row.without == "critical"]
    searched = [row for row in planted if row.without]
    lines = [
        f"Made by `{command}` with transformers {transformers.__version__}.",
        "",
        f"Of {len(rows)} model types, {len(planted)} were planted; the exact address was reported in "
        f"**{sum(bool(row.found) for row in rows)}**, the right tensor in {sum(bool(row.located) for row in rows)}. "
        f"Without a planted weight {len(alarms)} of {len(searched)} were called critical"
        + (f" ({', '.join(alarms)})." if alarms else "."),
        "",
        "### Missed, and why",
        "",
        "| type | planted | behind a gain | tensor located | reason |",
        "|--|--|--|--|--|",
        *(
            f"| {r.model_type} | {_code(r.planted)} | {_yes(r.gain)} | {_yes(r.located)} | {r.reason} |"
            for r in rows
            if not r.found
        ),
        "",
        "### Found",
        "",
        "| type | planted, as the file names it | stored as | behind a gain | verdict | candidates | without it |",
        "|--|--|--|--|--|--|--|",
        *(
            f"| {r.model_type} | {_code(r.planted)} | {r.stored} | {_yes(r.gain)} | {r.verdict} | {r.reported} "
            f"| {r.without} |"
            for r in rows
            if r.found
        ),
    ]
    return "\n".join(lines) + "\n"


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _yes(value: bool | None) -> str:
    return "" if value is None else ("yes" if value else "no")


def write_page(text: str) -> None:
    """Replace what stands between the marks in docs/coverage.md."""
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", help="model types (default: all)")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/coverage.md")
    parser.add_argument("--json", type=Path, help="write one JSON object per type here")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one type")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work()
    import families

    rows = list(examine_all(options.types or families.causal_model_types(), options.timeout))
    if options.json:
        options.json.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    text = page(rows, "python benchmarks/coverage.py --write")
    print(text)
    if options.write:
        write_page(text)


if __name__ == "__main__":
    main()
