"""What `score`, `ablate` and `scale` found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from superweights.tables.numbers import bos_words, cut_words, percent, plain, value, with_error
from superweights.tables.page import Parts, Table, dim, table
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.findings import Continuation, EffectRow, Effects, LastWordsRow, TokenShift
    from superweights.record import Record


def parts(record: Record) -> Parts:
    """The scores, and whatever else was asked for, as tables; the conditions below."""
    found: Effects = record.findings
    yield _scores(found)
    yield from (dim(plain(line)) for line in _changes(found.rows))
    if found.last_words is not None:
        yield _last_words(found.last_words)
    for each in found.continuations or ():
        yield _continuation(each)
    for each in found.shift or ():
        yield from _shift(each)
    yield dim(plain(_conditions(found.conditions)))


def _scores(found: Effects) -> Table:
    if found.conditions.get("objective") == "embedding":
        return _moved(found)
    rows = table("weights", "perplexity", "loss, nats", "KL, nats", "same top", "bits/byte")
    rows.add_row(
        "as they are", with_error(found.base.perplexity), "", "", "", value(found.base.bits_per_byte)
    )
    for row in found.rows:
        rows.add_row(
            plain(row.name),
            with_error(row.perplexity),
            with_error(row.loss, sign="+"),
            with_error(row.kl),
            f"{row.agreement.value:z.1%}",
            value(row.bits_per_byte),
        )
    return rows


def _moved(found: Effects) -> Table:
    """How far the embeddings of a model without a head move."""
    rows = table("weights", "embedding change, 1 - cosine", "same nearest neighbour")
    rows.add_row("as they are", "0", "")
    for row in found.rows:
        rows.add_row(plain(row.name), with_error(row.loss), f"{row.agreement.value:z.1%}")
    return rows


def _changes(rows: Sequence[EffectRow]) -> list[str]:
    """Each weight once, numbered as the rows number them: what it was, and what it was scored as."""
    scored: dict[tuple[str, float], dict[float, None]] = {}
    for row in rows:
        for change in row.changes:
            scored.setdefault((change["address"], change["before"]), {})[change["after"]] = None
    return [
        f"{number}: {address}, {before:z.6g}, scored as {', '.join(f'{after:z.6g}' for after in afters)}"
        for number, ((address, before), afters) in enumerate(scored.items(), 1)
    ]


def _last_words(rows: Sequence[LastWordsRow]) -> Table:
    shown = table("weights", "last words right", "perplexity of the word")
    for row in rows:
        name = "as they are" if row.name == "base" else plain(row.name)
        shown.add_row(name, percent(row.accuracy), with_error(row.perplexity))
    return shown


def _continuation(row: Continuation) -> Text:
    return Text(f"{row.prompt} ...\n  as it is:  {row.base!r}\n  edited:    {row.other!r}")


def _shift(shift: TokenShift) -> Iterator[str | Table]:
    yield f"\ntoken shift over {counted(shift.prompts, 'prompt')}, weights {plain(shift.name)}"
    shown = table("token", "probability", "then", "times", "95 %")
    for title, group in (("most gained", shift.gained), ("most lost", shift.lost)):
        shown.add_row(f"[bold]{title}[/]")
        for token in group[:8]:
            interval = token.ratio_interval
            shown.add_row(
                plain(f"  {token.text!r}"),
                f"{token.base:z.4f}",
                f"{token.other:z.4f}",
                "" if token.ratio is None else f"{token.ratio:z.3g}",
                "" if interval is None else f"{interval[0]:z.2g} to {interval[1]:z.2g}",
            )
    yield shown
    yield (
        f"entropy {with_error(shift.entropy_base)} then {with_error(shift.entropy_other)} nats; declared stop "
        f"words {with_error(shift.stop_words_base)} then {with_error(shift.stop_words_other)} of the probability"
    )


def _conditions(held: dict[str, Any]) -> str:
    return (
        f"{cut_words(held['windows'], held['window'])}, stride {held['stride']}, {bos_words(held)}, "
        f"{counted(held['tokens_scored'], 'token')} scored, {held['dtype']} on {held['device']}; {held['text']}, "
        f"SHA-256 {held['text_sha256'][:12]}. Errors are standard errors over windows."
    )
