"""What rounding the inputs of linear layers costs the embedded model, plain, held out, clipped and smoothed.

    python benchmarks/activations.py measure TEXT [--only WORD ...] [--store FILE] [--windows 24]
    python benchmarks/activations.py choose [--only WORD ...] [--windows 10]
    python benchmarks/activations.py places TEXT
    python benchmarks/activations.py overhead
    python benchmarks/activations.py write

`measure` keeps the loss of every window in the store, one line a row, and skips rows that it holds; several may
run side by side with different words. `choose` prints the perplexities of embedded prose by which the amounts in ROWS
were chosen. `write` puts the tables into docs/activations.md. Calibration sees the first eight windows of embedded
prose, choosing the last ten, reporting only TEXT.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import torch

from superweights.checkpoint import open_checkpoint
from superweights.quantization import Scheme
from superweights.quantization.activation_scheme import INT8_WEIGHTS, ActivationScheme, Hold, Smooth
from superweights.quantization.activations import product, round_input, round_weight
from superweights.quantization.calibration import calibrate
from superweights.quantization.held_places import activation_report, coverage, locate
from superweights.quantization.rounding import rounding_activations
from superweights.scoring import loss_per_window, perplexity_of
from superweights.scoring.error import bootstrap
from superweights.stream import streaming
from superweights.subject.text import embedded_prose, read_text, windows

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "activations.md"
STORE = ROOT / "build" / "activations.jsonl"
W4 = Scheme("int4", fit="centred")
ALL = Hold("deviations", 1e-9)  # everything held out: only the weights are rounded
CALIBRATION = 8
A = ActivationScheme

# Name, then the scheme. Amounts were chosen on embedded prose (`choose`).
ROWS: dict[str, ActivationScheme | None] = {
    "unrounded": None,
    "W8 only": A(hold=ALL),
    "W8A8 token plain": A(),
    "W8A8 token clipped at 20": A(clip=20),
    "W8A8 token smooth 0.5": A(smooth=Smooth(0.5)),
    "W8A8 token held top 1": A(hold=Hold("top", 1, "token")),
    "W8A8 token held 8": A(hold=Hold("deviations", 8, "token")),
    "W8A8 tensor plain": A(scale="tensor"),
    "W8A8 tensor clipped at 20": A(scale="tensor", clip=20),
    "W8A8 tensor smooth 0.5": A(scale="tensor", smooth=Smooth(0.5)),
    "W8A8 tensor smooth 0.85": A(scale="tensor", smooth=Smooth(0.85)),
    "W8A8 tensor smooth 0.5 everywhere": A(scale="tensor", smooth=Smooth(0.5, everywhere=True)),
    "W8A8 tensor held top 1": A(scale="tensor", hold=Hold("top", 1)),
    "W8A8 tensor held top 4": A(scale="tensor", hold=Hold("top", 4)),
    "W8A8 tensor held 20": A(scale="tensor", hold=Hold("deviations", 20)),
    "W8A8 tensor held 5": A(scale="tensor", hold=Hold("deviations", 5)),
    "W8A8 static plain": A(scale="static"),
    "W8A8 static clipped at 20": A(scale="static", clip=20),
    "W8A8 static smooth 0.5": A(scale="static", smooth=Smooth(0.5)),
    "W8A8 static held 5": A(scale="static", hold=Hold("deviations", 5)),
    "W4 only": A(hold=ALL, weights=W4),
    "W4A8 token plain": A(weights=W4),
    "W4A8 token held 8": A(weights=W4, hold=Hold("deviations", 8, "token")),
    "W4A8 tensor plain": A(scale="tensor", weights=W4),
    "W4A8 tensor held 5": A(scale="tensor", weights=W4, hold=Hold("deviations", 5)),
    "W4A8 static held 5": A(scale="static", weights=W4, hold=Hold("deviations", 5)),
}
CHOICES = {
    **{f"token top {m}": A(hold=Hold("top", m, "token")) for m in (1, 4)},
    **{f"token deviations {k}": A(hold=Hold("deviations", k, "token")) for k in (5, 8, 12)},
    **{f"tensor deviations {k}": A(scale="tensor", hold=Hold("deviations", k)) for k in (5, 8, 12, 20)},
    **{f"static deviations {k}": A(scale="static", hold=Hold("deviations", k)) for k in (5, 8, 12, 20)},
}


def measure(model, tokenizer, options) -> None:
    """Append each missing row's window losses to the store."""
    options.store.parent.mkdir(exist_ok=True)
    known = {row["name"] for row in read(options.store)}
    rows = windows(tokenizer, read_text(options.text), 512, count=options.windows)
    for name, scheme in chosen(ROWS, options.only):
        if name in known:
            continue
        losses, share = losses_of(model, tokenizer, rows, scheme)
        line = {"name": name, "held_share": share, "losses": losses.tolist()}
        with options.store.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{name:36} {perplexity_of(losses)}  held {share:.3%}", flush=True)


def choose(model, tokenizer, options) -> None:
    """Perplexity on prose that calibration has not seen."""
    count = min(options.windows, 10)
    rows = windows(tokenizer, embedded_prose(), 512)[-count:]
    for name, scheme in chosen({"unrounded": None, **CHOICES}, options.only):
        losses, share = losses_of(model, tokenizer, rows, scheme)
        print(f"{name:36} {perplexity_of(losses)}  held {share:.3%}", flush=True)


def chosen(rows: dict, words: list[str]):
    """The rows whose name has one of the words, in the order of the words."""
    names = dict.fromkeys(name for word in words for name in rows if word in name)
    return [(name, rows[name]) for name in names]


def losses_of(model, tokenizer, rows, scheme):
    """The mean loss of each window, and the share of scalars that was held out."""
    if scheme is None:
        return loss_per_window(model, rows), 0.0
    with rounding_activations(model, scheme, calibration_of(model, tokenizer, scheme)) as rounding:
        return loss_per_window(model, rows), rounding.held_share


def calibration_of(model, tokenizer, scheme):
    """What the scheme needs to know, from embedded prose."""
    if not scheme.calibrated:
        return None
    return calibrate(model, windows(tokenizer, embedded_prose(), 512, count=CALIBRATION), scheme)


def places(model, tokenizer, options) -> None:
    """The static list found on prose, what it covers on the text, and the layers that gain most."""
    prose = windows(tokenizer, embedded_prose(), 512, count=CALIBRATION)
    rows = windows(tokenizer, read_text(options.text), 512, count=4)
    found = {}
    for amount in (5, 20):
        scheme = A(scale="tensor", hold=Hold("deviations", amount))
        listed = locate(model, prose, scheme)
        covered = coverage(model, rows, scheme, listed)
        found[str(amount)] = {"places": len(listed), **asdict(covered)}
        print(amount, found[str(amount)], flush=True)
    report = activation_report(model, rows, A(scale="tensor", hold=Hold("deviations", 20)))
    gaining = sorted(report, key=lambda layer: layer.error_held - layer.error_plain)[:8]
    found["layers"] = [
        {
            "module": layer.module,
            "share": layer.share,
            "plain": layer.error_plain,
            "held": layer.error_held,
            "place": [layer.examples[0].place.position, layer.examples[0].place.channel],
            "value": layer.examples[0].value,
        }
        for layer in gaining
        if layer.examples
    ]
    for layer in gaining:
        print(layer)
    save(options.store, "places", found)


def overhead(options) -> None:
    """CPU time of one int8 layer with holding out over the same layer without; medians of interleaved rounds."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for tokens, outputs, inputs in ((512, 576, 1536), (512, 1536, 576), (1, 576, 1536)):
        x = torch.randn(tokens, inputs, generator=generator)
        x[0, 7] = 3000.0
        weight = round_weight(torch.randn(outputs, inputs, generator=generator), INT8_WEIGHTS, 0)
        schemes = {
            "token": (A(), A(hold=Hold("deviations", 8, "token"))),
            "tensor": (A(scale="tensor"), A(scale="tensor", hold=Hold("deviations", 5))),
        }
        dense = torch.randn(outputs, inputs, generator=generator)
        for scale, pair in schemes.items():
            times: list[list[float]] = [[], [], []]
            for _ in range(60):
                for i, scheme in enumerate(pair):
                    start = time.process_time()
                    for _ in range(5):
                        product(round_input(x, scheme, 1), weight)
                    times[i].append(time.process_time() - start)
                start = time.process_time()
                for _ in range(5):
                    torch.nn.functional.linear(x, dense)
                times[2].append(time.process_time() - start)
            plain, held, floats = (statistics.median(each) for each in times)
            share = len(round_input(x, pair[1], 1).values) / x.numel()
            row = {"tokens": tokens, "layer": f"{inputs} to {outputs}", "scale": scale, "share": share}
            found.append({**row, "held over plain": held / plain, "held over float32": held / floats})
            print(found[-1], flush=True)
    save(options.store, "overhead", found)


def save(store: Path, name: str, value) -> None:
    """Keep a finding beside the store."""
    store.parent.mkdir(exist_ok=True)
    store.with_name(f"activations-{name}.json").write_text(json.dumps(value), encoding="utf-8")


def read(store: Path) -> list[dict]:
    """The rows measured so far, one of each name."""
    lines = store.read_text(encoding="utf-8").splitlines() if store.exists() else []
    return list({row["name"]: row for row in map(json.loads, lines)}.values())


def write(options) -> None:
    """Put the tables between the markers of the page."""
    rows = {row["name"]: row for row in read(options.store)}
    base = torch.tensor(rows["unrounded"]["losses"], dtype=torch.float64)
    lines = ["| | perplexity | above fp32, 95 % interval | held out |", "|---|---|---|---|"]
    for name in ROWS:
        if name not in rows:
            continue
        losses = torch.tensor(rows[name]["losses"], dtype=torch.float64)
        ratio = bootstrap((losses - base)[:, None], lambda means: means[:, 0].exp() - 1)
        low, high = (float(ratio.quantile(q)) for q in (0.025, 0.975))
        rise = float((losses - base).mean().exp()) - 1
        share = rows[name]["held_share"]
        held = "" if not 0 < share < 0.5 else f"{share:.2%}"
        between = "" if name == "unrounded" else f"{rise:+.1%} ({low:+.1%} to {high:+.1%})"
        lines.append(f"| {name} | {float(losses.mean().exp()):.2f} | {between} | {held} |")
    fill("table", lines)
    for name in ("places", "overhead"):
        file = options.store.with_name(f"activations-{name}.json")
        if file.exists():
            fill(name, globals()[f"{name}_lines"](json.loads(file.read_text(encoding="utf-8"))))


def places_lines(found: dict) -> list[str]:
    """Coverage of the static list, and the layers that gain most."""
    lines = [
        "| beyond | places listed | of the scalars held on WikiText-2 | of their squares |",
        "|---|---|---|---|",
    ]
    for amount in ("5", "20"):
        row = found[amount]
        lines.append(
            f"| {amount} deviations | {row['places']} | {row['share_of_scalars']:.1%} | {row['share_of_squares']:.2%} |"
        )
    lines += ["", "| input of | largest held (token, channel) | error plain | held |", "|---|---|---|---|"]
    for row in found["layers"]:
        token, channel = row["place"]
        lines.append(
            f"| `{row['module']}` | {row['value']:,.0f} ({token}, {channel}) | {row['plain']:.1%} | {row['held']:.2%} |"
        )
    return lines


def overhead_lines(found: list[dict]) -> list[str]:
    """One line for each layer and scale."""
    lines = [
        "| tokens | layer | scale | held out | int8 held / int8 plain | int8 held / float32 |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row['tokens']} | {row['layer']} | {row['scale']} | {row['share']:.2%} | "
            f"{row['held over plain']:.2f} | {row['held over float32']:.2f} |"
        )
    return lines


def fill(name: str, lines: list[str]) -> None:
    """Replace what stands between the markers of `name`."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    PAGE.write_text(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}", encoding="utf-8")


def main() -> None:
    """Run one of the five."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["measure", "choose", "places", "overhead", "write"])
    parser.add_argument("text", nargs="?")
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD")
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--windows", type=int, default=24)
    options = parser.parse_args()
    if options.what in ("overhead", "write"):
        {"overhead": overhead, "write": write}[options.what](options)
        return
    with (
        open_checkpoint() as checkpoint,
        streaming(checkpoint, resident=True, dtype="float32", device="cpu") as model,
    ):
        {"measure": measure, "choose": choose, "places": places}[options.what](
            model, checkpoint.tokenizer(), options
        )


if __name__ == "__main__":
    main()
