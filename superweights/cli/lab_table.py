"""How `superweights lab` prints: suites and their arms, runs beside each other, verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from superweights.cli import console

if TYPE_CHECKING:
    from superweights.lab.comparison import Comparison
    from superweights.lab.judging import Judged
    from superweights.lab.running import SuiteRun

_COLOURS = {"prevented": "green", "not prevented": "yellow", "inconclusive": "dim"}


def show_suite(run: SuiteRun, as_json: bool) -> None:
    """The table of a suite with its verdicts, the learning rates, what was claimed, and where the page is."""
    from superweights.lab.claims import claims
    from superweights.lab.comparison import compared, made_of

    comparison = compared({n: list(r.values()) for n, r in run.judged.runs.items() if r}, run.judged)
    show_runs(comparison, as_json)
    if as_json:
        return
    console.data.print(f"[dim]{console.plain(made_of(list(run.results.values())))}[/]")
    _show_why(run.judged)
    _show_rates(run.judged)
    table = _table("claim", "paper", "ours", "verdict")
    for row in claims(run.suite, run.judged):
        table.add_row(*map(console.plain, (row.claim, row.paper, row.ours, row.verdict)))
    _print(table)


def show_runs(comparison: Comparison, as_json: bool) -> None:
    """One table, or a line of JSON for each design."""
    if as_json:
        _print_json(comparison)
        return
    from superweights.lab.comparison import cell
    from superweights.lab.judging import PHENOMENA

    judged = PHENOMENA if any(line.verdicts for line in comparison.lines) else ()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for title in ("design", *judged, "seeds"):
        table.add_column(title, no_wrap=title != "seeds")
    for column in comparison.columns:
        table.add_column(column.title.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for line in comparison.lines:
        words = [f"[{_COLOURS[v.word]}]{v.word}[/]" for v in line.verdicts] or ["control"] * len(judged)
        seeds = f"{line.seeds}" + (f" ({line.diverged} diverged)" if line.diverged else "")
        cells = [cell(c, s) for c, s in zip(comparison.columns, line.spreads, strict=True)]
        shown = [f"{mean}\n[dim]{ends}[/]" if ends else mean for mean, ends in cells]
        table.add_row(console.plain(line.name), *words, seeds, *shown)
    _print(table)
    legend = "; ".join(f"{column.title}: {column.says}" for column in comparison.columns)
    console.data.print(f"[dim]mean, below it smallest..largest over seeds. {console.plain(legend)}.[/]")


def show_list() -> None:
    """Every suite and its arms."""
    from superweights.lab.suites import SUITES

    for suite in SUITES.values():
        console.data.print(f"[bold]{suite.name}[/]: {suite.about}; seeds {', '.join(map(str, suite.seeds))}")
        table = _table("arm", "of", "dial", "value", "what it is", "source", "said to prevent")
        for arm in suite.arms:
            said = "nothing (control)" if arm.negative or arm.matched else ", ".join(arm.prevents)
            table.add_row(arm.name, arm.of, arm.dial, str(arm.value), arm.about, arm.source, said)
        _print(table)


def _show_why(judged: Judged) -> None:
    table = _table("design", "phenomenon", "verdict", "why", "against", "loss")
    for v in judged.verdicts:
        loss = "" if v.loss is None else f"{v.loss.mean:+.4f}"
        table.add_row(v.name, v.phenomenon, f"[{_COLOURS[v.word]}]{v.word}[/]", v.why, v.against, loss)
    _print(table)


def _show_rates(judged: Judged) -> None:
    table = _table(
        "design", "learning rate: loss with the first seed (argmax share, kurt_channel of token 0)"
    )
    for name, row in judged.rows.items():
        said = []
        for rate in row:
            if rate.loss is None:
                said.append(f"{rate.rate:g}: {rate.status}")
                continue
            share = "hidden" if rate.argmax_share is None else f"{rate.argmax_share:.0%}"
            best = " best" if rate.best else ""
            said.append(f"{rate.rate:g}: {rate.loss:.4f} ({share}, {rate.kurtosis:.1f}){best}")
        table.add_row(name, "; ".join(said))
    if judged.rows:
        _print(table)


def _print_json(comparison: Comparison) -> None:
    from dataclasses import asdict

    from superweights.record import to_json_line

    for line in comparison.lines:
        numbers = {
            column.title: None if spread is None else asdict(spread)
            for column, spread in zip(comparison.columns, line.spreads, strict=True)
        }
        verdicts = [asdict(verdict) for verdict in line.verdicts]
        held = {"design": line.name, "seeds": line.seeds, "diverged": line.diverged}
        console.print_line(to_json_line({**held, "numbers": numbers, "verdicts": verdicts}))


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _print(table: Table) -> None:
    """As wide as it needs where stdout is no terminal."""
    from rich.measure import Measurement

    if console.data.is_terminal:
        console.data.print(table)
        return
    needed = Measurement.get(console.data, console.data.options.update(max_width=10_000), table).maximum
    console.with_width(max(needed, console.data.width)).print(table)
