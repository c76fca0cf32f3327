"""Claims of papers beside what came out here: one row each."""

from __future__ import annotations

from dataclasses import dataclass

from superweights.lab.judging import SEEDS, Judged, Verdict
from superweights.lab.suites import Arm, Phenomenon, Sign, Suite

_WORDS = {"sink": "argmax share of token 0", "outliers": "kurt_channel of token 0"}


@dataclass(frozen=True)
class Row:
    """What is claimed, the paper's number, ours in words, and whether it held: `holds`, `does not hold`, or `open`."""

    claim: str
    """In words."""
    paper: str
    ours: str
    verdict: str
    """Whether it held."""


def claims(suite: Suite, judged: Judged) -> list[Row]:
    """A row for each phenomenon that an arm is said to prevent, for each negative control, and for each sign."""
    rows = []
    for arm in suite.arms:
        kinds: tuple[Phenomenon, ...] = ("sink", "outliers") if arm.negative else arm.prevents
        for kind in kinds:
            rows.append(_row(arm, judged.verdict(arm.name, kind)))
        rows += [_signed(arm, sign, judged) for sign in arm.signs]
    return rows


def _signed(arm: Arm, sign: Sign, judged: Judged) -> Row:
    """A claim about where a number goes: it holds where it goes there with every one of three seeds."""
    pairs = []
    for seed, result in judged.runs[arm.name].items():
        other = judged.runs[sign.against].get(seed)
        if result.end is not None and other is not None and other.end is not None:
            ours, theirs = getattr(result.end, sign.measure), getattr(other.end, sign.measure)
            if ours is not None and theirs is not None:
                pairs.append((theirs, ours))
    right = sum(ours < theirs if sign.goes == "down" else ours > theirs for theirs, ours in pairs)
    shown = (" ".join(f"{value:.3g}" for value in values) for values in zip(*pairs, strict=True))
    said = f"{' -> '.join(shown)}, {sign.goes} in {right} of {len(pairs)}" if pairs else "not measured"
    if len(pairs) < SEEDS:
        verdict = f"open: {len(pairs)} of {SEEDS} seeds"
    else:
        verdict = "holds" if right == len(pairs) else f"does not hold: {sign.goes} in {right} of {len(pairs)}"
    what = f"{arm.name}: {sign.measure} goes {sign.goes} against {sign.against} ({arm.source})"
    return Row(what, sign.claim, said, verdict)


def _row(arm: Arm, verdict: Verdict) -> Row:
    does = "does not prevent" if arm.negative else "prevents"
    what = "sinks" if verdict.phenomenon == "sink" else "outliers"
    return Row(
        f"{arm.name} {does} {what} ({arm.source})",
        arm.claim or "no number",
        _ours(verdict),
        _held(arm, verdict),
    )


def _held(arm: Arm, verdict: Verdict) -> str:
    """Whether the claim held. A measure that fell in every seed, and not below the bar, is told apart."""
    if verdict.word == "inconclusive":
        return f"open: {verdict.why}"
    if arm.negative:
        return "holds" if verdict.word == "not prevented" else "does not hold: it is gone here"
    if verdict.word == "prevented":
        return "holds"
    seeds = len(verdict.measure)
    fell = seeds > 0 and verdict.lower == seeds
    return (
        "holds in direction: lower in every seed, and still there"
        if fell
        else f"does not hold: {verdict.why}"
    )


def _ours(verdict: Verdict) -> str:
    if not verdict.measure:
        return "not measured"
    percent = verdict.phenomenon == "sink"
    loss = (
        ""
        if verdict.loss is None
        else f"; loss {verdict.loss.mean:+.3f} ({verdict.loss.low:+.3f}..{verdict.loss.high:+.3f})"
    )
    control, arm = _spread(verdict.control, percent), _spread(verdict.measure, percent)
    fell = f"lower in {verdict.lower} of {len(verdict.measure)}"
    return f"{_WORDS[verdict.phenomenon]} {control} -> {arm}, {fell}{loss}"


def _spread(values: tuple[float | None, ...], percent: bool) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "hidden"
    style = "{:.0%}" if percent else "{:.1f}"
    return " ".join(style.format(value) for value in known)
