"""What `score`, `ablate` and `scale` print for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from superweights.cli import console
from superweights.cli.printing import bos_words, cut_words, percent, print_table, table, value, with_error
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.findings import Continuation, EffectRow, Effects, LastWordsRow, TokenShift
    from superweights.record import Record


def show_effects(record: Record) -> None:
    """The scores, and whatever else was asked for, as tables; the conditions below."""
    found: Effects = record.findings
    _show_scores(found)
    if found.last_words is not None:
        _show_last_words(found.last_words)
    for each in found.continuations or ():
        _show_continuation(each)
    for each in found.shift or ():
        _show_shift(each)
    console.data.print(f"[dim]{console.plain(_conditions(found.conditions))}[/]", soft_wrap=True)


def _show_scores(found: Effects) -> None:
    rows = table("weights", "perplexity", "loss, nats", "KL, nats", "same top", "bits/byte")
    rows.add_row(
        "as they are", with_error(found.base.perplexity), "", "", "", value(found.base.bits_per_byte)
    )
    for row in found.rows:
        rows.add_row(
            console.plain(row.name),
            with_error(row.perplexity),
            with_error(row.loss, sign="+"),
            with_error(row.kl),
            f"{row.agreement.value:.1%}",
            value(row.bits_per_byte),
        )
    print_table(rows)
    for line in _changes(found.rows):
        console.data.print(f"[dim]{console.plain(line)}[/]", soft_wrap=True)


def _changes(rows: Sequence[EffectRow]) -> list[str]:
    """Each weight once, numbered as the rows number them: what it was, and what it was scored as."""
    scored: dict[tuple[str, float], dict[float, None]] = {}
    for row in rows:
        for change in row.changes:
            scored.setdefault((change["address"], change["before"]), {})[change["after"]] = None
    return [
        f"{number}: {address}, {before:.6g}, scored as {', '.join(f'{after:.6g}' for after in afters)}"
        for number, ((address, before), afters) in enumerate(scored.items(), 1)
    ]


def _show_last_words(rows: Sequence[LastWordsRow]) -> None:
    shown = table("weights", "last words right", "perplexity of the word")
    for row in rows:
        name = "as they are" if row.name == "base" else console.plain(row.name)
        shown.add_row(name, percent(row.accuracy), with_error(row.perplexity))
    print_table(shown)


def _show_continuation(row: Continuation) -> None:
    lines = (f"{row.prompt} ...", f"  as it is:  {row.base!r}", f"  edited:    {row.other!r}")
    console.data.print(*lines, sep="\n", markup=False, soft_wrap=True)


def _show_shift(shift: TokenShift) -> None:
    console.data.print(
        f"\ntoken shift over {counted(shift.prompts, 'prompt')}, weights {console.plain(shift.name)}"
    )
    shown = table("token", "probability", "then", "times", "95 %")
    for title, group in (("most gained", shift.gained), ("most lost", shift.lost)):
        shown.add_row(f"[bold]{title}[/]")
        for token in group[:8]:
            interval = token.ratio_interval
            shown.add_row(
                console.plain(f"  {token.text!r}"),
                f"{token.base:.4f}",
                f"{token.other:.4f}",
                "" if token.ratio is None else f"{token.ratio:.3g}",
                "" if interval is None else f"{interval[0]:.2g} to {interval[1]:.2g}",
            )
    print_table(shown)
    console.data.print(
        f"entropy {with_error(shift.entropy_base)} then {with_error(shift.entropy_other)} nats; declared stop "
        f"words {with_error(shift.stop_words_base)} then {with_error(shift.stop_words_other)} of the probability",
        soft_wrap=True,
    )


def _conditions(held: dict[str, Any]) -> str:
    return (
        f"{cut_words(held['windows'], held['window'])}, stride {held['stride']}, {bos_words(held)}, "
        f"{counted(held['tokens_scored'], 'token')} scored, {held['dtype']} on {held['device']}; {held['text']}, "
        f"SHA-256 {held['text_sha256'][:12]}. Errors are standard errors over windows."
    )
