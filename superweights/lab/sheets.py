"""What the lab prints, as plain tables and lines of JSON: runs beside each other, verdicts, learning rates, claims."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from superweights.lab.claims import claims
from superweights.lab.comparison import Comparison, cell, compared, made_of
from superweights.lab.judging import PHENOMENA, Judged
from superweights.lab.running import SuiteRun
from superweights.lab.suites import SUITES


@dataclass(frozen=True)
class Sheet:
    """A table for people. A cell may have a second line; columns from number `right` on are numbers. `title` stands
    above it, `note` below."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Cells, as long as `columns`."""
    right: int | None = None
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """What is printed: tables for people, or `lines` as JSON for programs."""

    sheets: tuple[Sheet, ...]
    """The tables."""
    lines: tuple[dict[str, Any], ...] = ()


def suite_shown(run: SuiteRun) -> Shown:
    """The table of a suite with its verdicts, why, the learning rates, and what was claimed."""
    comparison = compared({n: list(r.values()) for n, r in run.judged.runs.items() if r}, run.judged)
    told = runs_shown(comparison)
    claimed = tuple((row.claim, row.paper, row.ours, row.verdict) for row in claims(run.suite, run.judged))
    made = Sheet((), (), note=made_of(list(run.results.values())))
    claim = Sheet(("claim", "paper", "ours", "verdict"), claimed)
    return Shown((*told.sheets, made, _why(run.judged), *_rates(run.judged), claim), told.lines)


def runs_shown(comparison: Comparison) -> Shown:
    """Designs beside each other: the mean, below it smallest to largest over seeds."""
    judged = PHENOMENA if any(line.verdicts for line in comparison.lines) else ()
    rows = []
    for line in comparison.lines:
        words = tuple(verdict.word for verdict in line.verdicts) or ("control",) * len(judged)
        seeds = f"{line.seeds}" + (f"\n{line.diverged} diverged" if line.diverged else "")
        cells = [cell(c, s) for c, s in zip(comparison.columns, line.spreads, strict=True)]
        rows.append(
            (line.name, *words, seeds, *(f"{mean}\n{ends}" if ends else mean for mean, ends in cells))
        )
    titles = tuple(column.title.replace(" ", "\n", 1) for column in comparison.columns)
    legend = "; ".join(f"{column.title}: {column.says}" for column in comparison.columns)
    note = f"mean, below it smallest..largest over seeds. {legend}."
    sheet = Sheet(("design", *judged, "seeds", *titles), tuple(rows), 2 + len(judged), note=note)
    return Shown((sheet,), tuple(_lines(comparison)))


def suites_shown() -> Shown:
    """Every suite and its arms."""
    sheets = []
    for suite in SUITES.values():
        rows = []
        for arm in suite.arms:
            said = "nothing (control)" if arm.negative or arm.matched else ", ".join(arm.prevents)
            said = said or ", ".join(f"{sign.measure} {sign.goes}" for sign in arm.signs)
            rows.append((arm.name, arm.of, arm.dial, str(arm.value), arm.about, arm.source, said))
        columns = ("arm", "of", "dial", "value", "what it is", "source", "said to prevent, or to move")
        title = f"{suite.name}: {suite.about}; seeds {', '.join(map(str, suite.seeds))}"
        sheets.append(Sheet(columns, tuple(rows), title=title))
    return Shown(tuple(sheets))


def _lines(comparison: Comparison) -> list[dict[str, Any]]:
    found = []
    for line in comparison.lines:
        numbers = {
            column.title: None if spread is None else asdict(spread)
            for column, spread in zip(comparison.columns, line.spreads, strict=True)
        }
        verdicts = [asdict(verdict) for verdict in line.verdicts]
        held = {"design": line.name, "seeds": line.seeds, "diverged": line.diverged}
        found.append({**held, "numbers": numbers, "verdicts": verdicts})
    return found


def _why(judged: Judged) -> Sheet:
    rows = tuple(
        (v.name, v.phenomenon, v.word, v.why, v.against, "" if v.loss is None else f"{v.loss.mean:+.4f}")
        for v in judged.verdicts
    )
    return Sheet(("design", "phenomenon", "verdict", "why", "against", "loss"), rows)


def _rates(judged: Judged) -> tuple[Sheet, ...]:
    rows = []
    for name, row in judged.rows.items():
        said = []
        for rate in row:
            if rate.loss is None:
                said.append(f"{rate.rate:g}: {rate.status}")
                continue
            share = "hidden" if rate.argmax_share is None else f"{rate.argmax_share:.0%}"
            best = " best" if rate.best else ""
            said.append(f"{rate.rate:g}: {rate.loss:.4f} ({share}, {rate.kurtosis:.1f}){best}")
        rows.append((name, "; ".join(said)))
    title = "learning rate: loss with the first seed (argmax, kurt_channel t=0)"
    return (Sheet(("design", title), tuple(rows)),) if rows else ()
