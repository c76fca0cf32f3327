"""`superweights score`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.progress import Progress

if TYPE_CHECKING:
    from superweights.record import Record


def score(
    model: options.Model,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            help="TENSOR[i, j]=FACTOR (0 ablates) or TENSOR[i, j]:=VALUE; repeatable, made together."
        ),
    ] = None,
    text: options.TextFile = None,
    window: options.Window = 512,
    windows: options.Windows = 24,
    stride: options.Stride = None,
    bos: options.Bos = False,
    passages: Annotated[
        Path | None, typer.Option(help="JSON lines with a text each: is the last word predicted?")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="The first so many passages.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Continue this before and after the edits; repeatable.")
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write after each prompt.")] = 30,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest token; else sample.")] = 0.0,
    shift: Annotated[bool, typer.Option("--shift", help="Which tokens gain and lose probability.")] = False,
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Score a model on a text, as it is and with edited weights.

    Example: superweights score embedded --edit 'model.layers.11.mlp.down_proj.weight[507, 1229]=0'
    """
    from superweights.cli.scoring import Reading, Source, Writing, measure
    from superweights.editing import Edit

    edits = [Edit.parse(each) for each in edit or ()]
    source = Source(model, dtype, device, allow_pickle, trust_remote_code)
    reading = Reading(text, window, windows, stride, bos, batch_size, passages, count)
    writing = Writing(tuple(prompt or ()), new_tokens, temperature, shift)
    rows = [("edited", edits)] if edits else []
    with progress() as bar:
        record = measure("score", source, reading, rows, writing=writing, seed=seed, progress=bar)
    show(record, as_json, out)


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on stderr that follows (label, done, total)."""
    with console.progress_bar("opening") as bar:
        task = bar.task_ids[0]
        yield lambda label, done, total: bar.update(task, description=label, completed=done, total=total)


def show(record: Record, as_json: bool, out: Path | None) -> None:
    """The record as a line of JSON, or as tables for people; and in a file if asked."""
    if out is not None:
        console.write_out(out, record.to_json() + "\n")
    if as_json:
        console.print_line(record.to_json())
        return
    found = record.findings
    _show_scores(found)
    for part, table in (("last_words", _show_last_words), ("continuations", _show_continuations)):
        if part in found:
            table(found[part])
    for each in found.get("shift", ()):
        _show_shift(each)
    console.data.print(f"[dim]{console.plain(_conditions(found['conditions']))}[/]", soft_wrap=True)


def _show_scores(found: dict[str, Any]) -> None:
    table = _table("weights", "perplexity", "loss, nats", "KL, nats", "same top", "bits/byte")
    base = found["base"]
    table.add_row("as they are", _score(base["perplexity"]), "", "", "", _plain(base["bits_per_byte"]))
    for row in found["rows"]:
        table.add_row(
            console.plain(row["name"]),
            _score(row["perplexity"]),
            _score(row["loss"], sign="+"),
            _score(row["kl"]),
            f"{row['agreement']['value']:.1%}",
            _plain(row["bits_per_byte"]),
        )
    console.data.print(table)
    for line in _changes(found["rows"]):
        console.data.print(f"[dim]{console.plain(line)}[/]", soft_wrap=True)


def _changes(rows: list[dict[str, Any]]) -> list[str]:
    """Each weight once, numbered as the rows number them: what it was, and what it was scored as."""
    scored: dict[tuple[str, float], dict[float, None]] = {}
    for row in rows:
        for change in row["changes"]:
            scored.setdefault((change["address"], change["before"]), {})[change["after"]] = None
    return [
        f"{number}: {address}, {before:.6g}, scored as {', '.join(f'{after:.6g}' for after in afters)}"
        for number, ((address, before), afters) in enumerate(scored.items(), 1)
    ]


def _show_last_words(rows: list[dict[str, Any]]) -> None:
    table = _table("weights", "last words right", "perplexity of the word")
    for row in rows:
        name = "as they are" if row["name"] == "base" else console.plain(row["name"])
        table.add_row(name, _percent(row["accuracy"]), _score(row["perplexity"]))
    console.data.print(table)


def _show_continuations(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        lines = (f"{row['prompt']} ...", f"  as it is:  {row['base']!r}", f"  edited:    {row['other']!r}")
        console.data.print(*lines, sep="\n", markup=False, soft_wrap=True)


def _show_shift(shift: dict[str, Any]) -> None:
    console.data.print(
        f"\ntoken shift over {shift['prompts']} prompts, weights {console.plain(shift['name'])}"
    )
    table = _table("token", "probability", "then", "times", "95 %")
    for title, group in (("most gained", "gained"), ("most lost", "lost")):
        table.add_row(f"[bold]{title}[/]")
        for token in shift[group][:8]:
            interval = token["ratio_interval"]
            table.add_row(
                console.plain(f"  {token['text']!r}"),
                f"{token['base']:.4f}",
                f"{token['other']:.4f}",
                "" if token["ratio"] is None else f"{token['ratio']:.3g}",
                "" if interval is None else f"{interval[0]:.2g} to {interval[1]:.2g}",
            )
    console.data.print(table)
    console.data.print(
        f"entropy {_score(shift['entropy_base'])} then {_score(shift['entropy_other'])} nats; declared stop words "
        f"{_score(shift['stop_words_base'])} then {_score(shift['stop_words_other'])} of the probability",
        soft_wrap=True,
    )


def _conditions(held: dict[str, Any]) -> str:
    bos = "with" if held["bos"] else "without"
    return (
        f"{held['windows']} windows of {held['window']} tokens, stride {held['stride']}, {bos} BOS, "
        f"{held['tokens_scored']:,} tokens scored, {held['dtype']} on {held['device']}; {held['text']}, "
        f"SHA-256 {held['text_sha256'][:12]}. Errors are standard errors over windows."
    )


def _table(*titles: str) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(titles[0], no_wrap=True)
    for title in titles[1:]:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _score(score: dict[str, Any] | None, sign: str = "") -> str:
    """A number with its error to two digits, and as many decimals (3 at most) as the error gives meaning to."""
    if score is None:
        return ""
    value, error = score["value"], score["standard_error"]
    if error is None or not error > 0:
        return f"{value:{sign}.4g}"
    decimals = min(3, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:{sign},.{decimals}f} ±{error:,.{decimals}f}"


def _plain(score: dict[str, Any] | None) -> str:
    return "" if score is None else f"{score['value']:.4g}"


def _percent(score: dict[str, Any]) -> str:
    error = score["standard_error"]
    return f"{score['value']:.1%}" + ("" if error is None else f" ±{100 * error:.1f}")
