"""The three designs on one HTML page: each experiment that a folder holds, in units that compare, or none.

Bits per byte stand together; concept models have no likelihood of text, so their distances stand by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from superweights.errors import SuperweightsError
from superweights.lab.designs.keeping import Spread, kept
from superweights.reports.blocks import Chart, Paragraph, Section, Series, Table
from superweights.reports.html import to_html

_CONCEPTS = ("l2", "norm", "ca", "ca_unit", "par", "l2_nn", "mrr")


def designs_page(folder: Path) -> str:
    """The page of the results in `folder`. Raises `SuperweightsError` where it holds none."""
    sections = [section for name, make in _SECTIONS.items() if (section := _section(folder, name, make))]
    if not sections:
        raise SuperweightsError(
            f"{folder} holds no results of the designs.",
            hint="python benchmarks/designs.py growth makes some.",
        )
    return to_html("Lab: three other ways to build", sections)


def _section(folder: Path, name: str, make: Callable[[dict[str, Any]], Section]) -> Section | None:
    if not (folder / f"{name}.json").is_file():
        return None
    held = kept(folder, name)
    try:
        return make(held)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        # Each experiment keeps what it likes; what does not fit was not written by it.
        raise SuperweightsError(
            f"{folder / name}.json is not what the experiment {name} writes.",
            hint="run the experiment again.",
        ) from error


def _beside(held: dict[str, Any]) -> Section:
    columns = ("design", "seed", "parameters", "mult./byte", "bits per byte", "int4 adds", "sink", "massive")
    rows = [
        (
            run["design"],
            str(run["seed"]),
            f"{run['parameters']:,}",
            f"{run['multiplications']:,.0f}",
            f"{run['bits']:.3f}",
            f"{run['bits_int4'] - run['bits']:+.3f}",
            _or_none(run["sink"]),
            _or_none(run["massive"]),
            "n/a" if run["super_weights"] is None else f"{run['super_weights']} ({run['verdict']})",
            run["why"],
        )
        for run in held["runs"]
    ]
    table = Table("Held-out text", (*columns, "super weights", "why n/a"), tuple(rows))
    says = "Llamas of as many parameters, and of as many multiplications for each byte, read the same bytes."
    concepts = "A concept model gives vectors, no probability of text: it has no place in this table (n/a)."
    return Section(
        "Each design beside a Llama", (Paragraph(says), table, *_stacks(held), Paragraph(concepts))
    )


def _stacks(held: dict[str, Any]) -> tuple[Table, ...]:
    """What each stack of a design of several shows; n/a stays n/a, with its reason."""
    columns = ("design", "seed", "stack", "first place", "queries", "sink", "if uniform", "looks there most")
    rows = tuple(
        (
            *(run["design"], str(run["seed"]), each["stack"], each["first"], f"{each['queries']:,}"),
            *(_or_none(each[name]) for name in ("sink", "uniform", "argmax_share", "peak", "peak_others")),
            each["why"],
        )
        for run in held["runs"]
        for each in run.get("stacks", ())
    )
    more = ("peak of the first place over the median", "peak of others", "why n/a")
    return (Table("Stack by stack", (*columns, *more), rows),) if rows else ()


def _growth(held: dict[str, Any]) -> Section:
    runs = held["runs"]
    arms = list(runs[0]["losses"])
    steps = sorted({int(s) for arm in arms for s in runs[0]["losses"][arm]})
    spreads = {arm: {s: _over(runs, arm, s) for s in steps} for arm in arms}
    rows = [(arm, *("" if (x := spreads[arm][s]) is None else str(x) for s in steps)) for arm in arms]
    caption = f"nats/byte, {_seeds(runs)}: mean (least to most)"
    table = Table(caption, ("arm", *(f"step {s}" for s in steps)), tuple(rows))
    stage = [s for s in steps if spreads[arms[0]][s] is not None]
    series = tuple(_series(arm, [spreads[arm][s] for s in stage]) for arm in arms[:5])
    chart = Chart(
        "After growth",
        "Held-out loss of the arms that begin at the small model",
        "step",
        "nats/byte",
        tuple(map(float, stage)),
        series,
    )
    return Section("TokenFormer: are added slots worth it?", (chart, table))


def _patching(held: dict[str, Any]) -> Section:
    runs = held["runs"]
    rows = [
        (
            arm,
            *(str(Spread.of([run[name][arm] for run in runs])) for name in ("bits", "noised_bits")),
            f"{Spread.of([run['patch'][arm] for run in runs]).mean:.2f}",
            f"{Spread.of([run['multiplications'][arm] for run in runs]).mean:,.0f}",
            f"{runs[0]['parameters'][arm]:,}",
        )
        for arm in runs[0]["bits"]
    ]
    columns = ("arm", "bits per byte", "on noised text", "bytes/patch", "mult./byte", "parameters")
    table = Table(f"{_seeds(runs)}: mean (least to most)", columns, tuple(rows))
    return Section("Byte Latent Transformer: where patches end", (table,))


def _concepts(held: dict[str, Any]) -> Section:
    runs = held["runs"]
    rows = [
        (arm, *(str(Spread.of([run["scores"][arm][name] for run in runs])) for name in _CONCEPTS))
        for arm in runs[0]["scores"]
    ]
    table = Table(f"Next sentence, {_seeds(runs)}: mean (least to most)", ("arm", *_CONCEPTS), tuple(rows))
    branch = {name: Spread.of([run["branch"][name] for run in runs]) for name in runs[0]["branch"]}
    says = "; ".join(f"{name} {spread}" for name, spread in branch.items())
    planted = Paragraph(f"Planted two-way branch, distance to the nearer branch (1: the middle): {says}.")
    return Section("Large Concept Model: squared error or diffusion", (table, planted))


def _decoder(held: dict[str, Any]) -> Section:
    runs = held["runs"]
    rows = [
        (
            name,
            str(Spread.of([run["bits"][name] for run in runs])) if name in runs[0]["bits"] else "n/a",
            *(str(Spread.of([run[what][name] for run in runs])) for what in ("bleu", "cosine")),
        )
        for name in runs[0]["bleu"]
    ]
    columns = ("what the decoder read", "bits per byte", "BLEU", "cosine of the text")
    table = Table(f"Held-out sentences, {_seeds(runs)}: mean (least to most)", columns, tuple(rows))
    shown = [f"{written!r} for {true!r}" for true, written in runs[0]["shown"]]
    text = "Written of a sentence's own vector; what it is worth, the rows above say: "
    return Section("Large Concept Model: vectors back to text", (table, Paragraph(text + "; ".join(shown))))


def _speed(held: dict[str, Any]) -> Section:
    rows = tuple((run["what"], f"{run['ratio']:.2f}", run["aim"]) for run in held["runs"])
    return Section("Speed", (Table("Ratios of CPU time in one process", ("what", "ratio", "aim"), rows),))


def _over(runs: Sequence[dict[str, Any]], arm: str, step: int) -> Spread | None:
    found = [run["losses"][arm].get(str(step)) for run in runs]
    return None if any(x is None for x in found) else Spread.of(found)


def _series(name: str, spreads: Sequence[Spread | None]) -> Series:
    def each(what: str) -> tuple[float | None, ...]:
        return tuple(None if spread is None else getattr(spread, what) for spread in spreads)

    return Series(name, each("mean"), each("least"), each("most"))


def _or_none(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _seeds(runs: Sequence[Any]) -> str:
    return f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"


_SECTIONS: dict[str, Callable[[dict[str, Any]], Section]] = {
    "beside": _beside,
    "growth": _growth,
    "patching": _patching,
    "concepts": _concepts,
    "decoder": _decoder,
    "speed": _speed,
}
