"""What the verbs about experts found: trained, mixed, compared, written, and what they do to super weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from superweights.tables.numbers import percent, plain
from superweights.tables.page import Parts, table
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.record import Record

_SHOWN = 8


def parts(record: Record) -> Parts:
    """As the record's command shows what it found."""
    shown = {
        "adapt answer": _answers, "adapt compare": _compared, "adapt effects": _effects, "adapt mix": _mixed,
        "adapt train": _trained, "adapt write": _written, "drift": _drifted,
    }  # fmt: skip
    return shown[record.command](record.findings)


def _answers(found: Any) -> Parts:
    for each in found.answers:
        chances = ", ".join(f"{name} {chance:z.2f}" for name, chance in each["choice"]["chances"].items())
        why = f"{each['choice']['strategy']}{': ' if chances else ''}{chances}"
        yield f"[bold]{plain(each['choice']['expert'])}[/] ({plain(why)})"
        yield f"{plain(each['prompt'])}[bold]{plain(each['text'])}[/]"
    if found.first_pass is not None:
        yield f"choosing took {found.first_pass:z.2f} of the time of answering."


def _compared(found: Any) -> Parts:
    rows = table("task", "arm", "numbers", "right", "rise over the base", "seeds")
    for each in found.rows:
        numbers = f"{each['parameters']:,}" if each["parameters"] else ""
        cells = percent(each["right"]), percent(each["gain"]), str(each["gain"].n)
        rows.add_row(each["task"], each["arm"], numbers, *cells)
    yield rows
    yield from map(plain, found.failed)
    yield "± is the standard error over seeds; for a 95 % interval of five, times 2.8."


def _effects(found: Any) -> Parts:
    rows = table("weight", "before", "after", "moved", "loss without it", "under the expert")
    for each in found.consequences["weights"]:
        before, after = each["loss_before"], each["loss_after"]
        rows.add_row(
            *(plain(each["address"]), f"{each['before']:z.4g}", f"{each['after']:z.4g}"),
            *(f"{each['moved']:z.2f}", _told(before), _told(after)),
        )
    controls = (found.consequences["control_before"], found.consequences["control_after"])
    rows.add_row("as many at random", "", "", "", *map(_told, controls))
    yield rows
    yield f"the expert itself costs {_told(found.consequences['loss'])} nats per token on this text."
    profile = table("profile", "base", "expert")
    for name, score in found.before.items():
        profile.add_row(plain(name), f"{score.value:z.4g}", f"{found.after[name].value:z.4g}")
    yield profile


def _told(score: dict[str, Any]) -> str:
    error = score["standard_error"]
    return f"{score['value']:z.4f}" + ("" if error is None else f" ±{error:z.4f}")


def _mixed(found: Any) -> Parts:
    for name, alpha in zip(found.experts, found.alpha, strict=True):
        yield f"{alpha:z.3f} of [bold]{plain(name)}[/]"
    yield (
        f"mean reward {found.reward_on_shots:z.2f} on {found.shots} shots; on the test split {found.test_before:z.2f} "
        f"before, {found.test_after:z.2f} after"
    )


def _trained(found: Any) -> Parts:
    error = "" if found.rise_error is None else f" ±{found.rise_error:z.2f}"
    yield f"[bold]{plain(found.expert)}[/]: {found.parameters:,} numbers, chosen at step {found.best_step}"
    if found.ended:
        yield found.ended
    yield f"validation: mean reward {found.valid_reward_before:z.2f} before, {found.valid_reward:z.2f} at that step"
    yield (
        f"test ({counted(found.test, 'prompt')}): mean reward {found.test_before:z.2f} before, "
        f"{found.test_after:z.2f} after ({found.rise:+z.2f}{error})"
    )
    yield from found.notes


def _written(found: Any) -> Parts:
    for folder in found.folders:
        yield f"[bold]{plain(folder)}[/] ({found.form})"
    missed = f"; {found.missed:z.3f} of the change is missed" if found.form == "lora" else ""
    yield f"{found.nbytes / 1e6:z,.1f} MB{missed}"


def _drifted(findings: Any) -> Parts:
    found = findings.drift
    moved = sorted((t for t in found["tensors"] if t["share"]), key=lambda t: -t["changed"])
    yield f"{len(moved)} of {len(found['tensors'])} tensors changed."
    rows = table("tensor", "changed", "share of numbers", "typical change")
    for each in moved[:_SHOWN]:
        cells = f"{each['changed']:.2e}", f"{each['share']:z.3f}", f"{each['typical']:.2e}"
        rows.add_row(plain(each["tensor"]), *cells)
    if moved:
        yield rows
    for title, key in (("super weights", "weights"), ("moved most for their tensor", "most")):
        rows = table(title, "base", "here", "larger ones", "here", "moved")
        for each in found[key]:
            numbers = f"{each['base']:z.4g}", f"{each['tuned']:z.4g}"
            places = str(each["place_base"]), str(each["place_tuned"]), f"{each['moved']:z.2f}"
            rows.add_row(plain(each["address"]), *numbers, *places)
        if found[key]:
            yield rows
    for name in ("only_base", "only_tuned"):
        if found[name]:
            yield f"{name.replace('_', ' in ')}: {plain(', '.join(found[name][:_SHOWN]))}"
