"""A suite, or a few runs, as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from superweights.lab.claims import claims
from superweights.lab.comparison import Comparison, cell, compared, made_of
from superweights.lab.curves import charts, film
from superweights.lab.folder import RunFolder
from superweights.lab.judging import PHENOMENA, Judged
from superweights.lab.result import Result
from superweights.lab.running import SuiteRun
from superweights.reports.blocks import Block, Paragraph, Section, Table
from superweights.reports.html import to_html


def suite_page(run: SuiteRun) -> str:
    """The page of a suite: verdicts, the table, learning rates, curves, the film, claims, how it was made."""
    judged, suite = run.judged, run.suite
    results = {name: list(held.values()) for name, held in judged.runs.items() if held}
    first = {name: run.folder_of(name, min(held)) for name, held in judged.runs.items() if held}
    sections = [
        Section("Verdict", tuple(_verdict(judged))),
        Section("The designs beside each other", (table_of(compared(results, judged)),)),
        Section("Verdicts, one by one", (_verdicts(judged),)),
        Section("Learning rates", tuple(_rates(judged))),
        Section("Over training", tuple(_curves(run))),
        Section("The birth of a sink", tuple(_film(first))),
        Section("Claims", (_claims(run),)),
        Section("How this was made", tuple(_made(list(run.results.values()), suite.about))),
    ]
    return to_html(f"Lab: {suite.name}", [section for section in sections if section.blocks])


def runs_page(folders: Sequence[str | Path]) -> str:
    """The page of finished runs beside each other."""
    held = {str(place): RunFolder.open(place) for place in folders}
    results = {
        name: [Result.from_json(found)]
        for name, folder in held.items()
        if (found := folder.result()) is not None
    }
    sections = [
        Section("The runs beside each other", (table_of(compared(results)),)),
        Section("Over training", tuple(charts({n: [f] for n, f in held.items()}, "all runs"))),
        Section("The birth of a sink", tuple(_film(held))),
        Section("How this was made", tuple(_made([each[0] for each in results.values()], "single runs"))),
    ]
    return to_html("Lab: " + ", ".join(held), [section for section in sections if section.blocks])


def table_of(comparison: Comparison) -> Table:
    """A comparison as a table: the mean, and smallest to largest over seeds where there are several."""
    rows = []
    for line in comparison.lines:
        cells = [cell(c, s) for c, s in zip(comparison.columns, line.spreads, strict=True)]
        shown = tuple(f"{mean} ({ends})" if ends else mean for mean, ends in cells)
        status = f"{line.seeds}" + (f", {line.diverged} diverged" if line.diverged else "")
        judged = tuple(v.word for v in line.verdicts) or ("",) * len(PHENOMENA)
        rows.append((line.name, *judged, status, *shown))
    says = "; ".join(f"{c.title}: {c.says}" for c in comparison.columns)
    columns = ("design", *PHENOMENA, "seeds", *(c.title for c in comparison.columns))
    return Table(f"Means, with smallest to largest over seeds. {says}.", columns, tuple(rows))


def _verdict(judged: Judged) -> list[Block]:
    found: list[Block] = []
    for kind in PHENOMENA:
        named = {
            word: [v.name for v in judged.verdicts if v.phenomenon == kind and v.word == word]
            for word in ("prevented", "not prevented", "inconclusive")
        }
        what = "Sinks" if kind == "sink" else "Outliers"
        said = "; ".join(f"{word}: {', '.join(names)}" for word, names in named.items() if names)
        found.append(Paragraph(f"{what}. {said}.", strong=True))
    rules = (
        "Prevented: in every seed below the control of the same seed, and below the bar that the control passed (sink: "
        "largest weight on token 0 twice as often as by chance; outliers: kurtosis of token 0 twice that before "
        "training). Inconclusive: the control does not show it, fewer than three seeds, or unequal parameters."
    )
    return [*found, Paragraph(rules)]


def _verdicts(judged: Judged) -> Table:
    rows = []
    for v in judged.verdicts:
        loss = None if v.loss is None else v.loss.mean
        rows.append((v.name, v.phenomenon, v.word, v.why, v.against, loss))
    columns = (
        "design",
        "phenomenon",
        "verdict",
        "why",
        "against",
        "loss above the control's, nats per token",
    )
    return Table("Each verdict with its reason", columns, tuple(rows))


def _rates(judged: Judged) -> list[Block]:
    rows = [
        (name, rate.rate, rate.loss, rate.argmax_share, rate.kurtosis, "best" if rate.best else rate.status)
        for name, row in judged.rows.items()
        for rate in row
    ]
    columns = ("design", "learning rate", "loss", "argmax share of token 0", "kurt_channel of token 0", "")
    said = "The whole row of each optimizer, with the first seed"
    return [Table(said, columns, tuple(rows))] if rows else []


def _curves(run: SuiteRun) -> list[Block]:
    """Designs that keep the control's optimizer, then those that do not."""
    several = {arm.name: bool(arm.rates) for arm in run.suite.arms}
    found: list[Block] = []
    for which, rows in (("other parts", False), ("other optimizers", True)):
        names = ["control", *(name for name, has in several.items() if has is rows)]
        held = {
            name: [run.folder_of(name, seed) for seed in run.judged.runs[name]]
            for name in names
            if run.judged.runs[name]
        }
        if len(held) > 1:
            found += charts(held, which)
    return found


def _film(folders: Mapping[str, RunFolder]) -> list[Block]:
    made = film(folders)
    return [] if made is None else [made]


def _claims(run: SuiteRun) -> Table:
    rows = tuple((row.claim, row.paper, row.ours, row.verdict) for row in claims(run.suite, run.judged))
    return Table("What was claimed, and what came out here", ("claim", "paper", "ours", "verdict"), rows)


def _made(results: Sequence[Result], about: str) -> list[Block]:
    return [
        Paragraph(f"{about}. {made_of(results)}"),
        Paragraph("The control's recipe: " + "; ".join(results[0].recipe.to_toml().split("\n"))),
    ]
