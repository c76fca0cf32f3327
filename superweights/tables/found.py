"""How what a search has found is told to a person: the answer, the super weights, and what else there is."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from superweights.tables.numbers import cut_words, plain, with_error
from superweights.tables.page import Fitting, Parts, Table, dim, ruled
from superweights.tables.story import costs, told
from superweights.wording import counted

if TYPE_CHECKING:
    from superweights.address import Address
    from superweights.discovery import Expert, Findings, Group
    from superweights.record import Record, SuperWeight

_COLOURS = {"critical": "bold red", "joint": "bold magenta", "partial": "yellow", "benign": "green"}
_BAR = 12
# The columns that a narrow terminal does without, the first to go in front.
_LEAST_FIRST = ("role", "windows", "share of it", "beside the strongest", "others like it", "at its mean",
                "input spike", "value", "output spike", "")  # fmt: skip


def parts(
    record: Record,
    everything: bool = False,
    explain: Address | None = None,
    kept_in: Path | None = None,
) -> Parts:
    """The answer first, then the super weights; every spike with `everything`; or the story of the weight `explain`.

    `kept_in` is the file that the record was written to, for the command to go on with.
        Raises `SuperweightsError` where that weight is none that spiked in this search.
    """
    findings: Findings = record.findings
    if explain is not None:
        yield from map(plain, told(findings, explain))
        return
    yield _answer(findings)
    weights = list(findings.candidates) if everything else list(findings.super_weights)
    if weights:
        yield _fitting(findings, weights, everything)
    yield from map(_expert, findings.experts)
    yield from (dim(plain(line)) for line in (*_folded(findings, everything), *_context(findings)))
    yield from _next(findings, kept_in)


def _answer(findings: Findings) -> str:
    """One sentence: how many there are, and what happens without the gravest."""
    held = [weight for weight in findings.super_weights if weight.effect is not None]
    if not held and not any(expert.matters for expert in findings.experts):
        undecided = sum(c.verdict == "undecided" for c in findings.candidates)
        if undecided:
            spikes = counted(len(findings.candidates), "spike")
            return f"[bold]No super weight is proven;[/] of {spikes} {undecided} are undecided."
        why = "what spikes can be removed without loss" if findings.candidates else "nothing spikes"
        return f"[bold]No super weight:[/] {why}."
    kinds = Counter(weight.verdict for weight in held)
    each = ", ".join(f"{count} {verdict}" for verdict, count in kinds.most_common())
    said = f"[bold]{counted(len(held), 'super weight')}[/] ({each})" if held else ""
    groups = [group for group in findings.groups if group.kind != "backup"]
    worst = max(held, key=lambda weight: weight.effect.value if weight.effect else 0.0, default=None)
    name = "" if worst is None else plain(str(worst.address))
    rise = None if worst is None else worst.effect
    if worst is not None and rise is not None and worst.verdict == "critical":
        said += f": without {name} alone {costs(rise)}."
    elif groups:
        group = max(groups, key=lambda each: each.effect.value)
        said += (
            f": without {plain(group.name)}, {counted(len(group.members), 'weight')} together, {costs(group.effect)}, "
            "though no single one is critical."
        )
    elif rise is not None:
        said += f": without the most costly, {name}, {costs(rise)}."
    experts = [expert for expert in findings.experts if expert.matters]
    if experts:
        named = ", ".join(f"{expert.layer}/{expert.expert}" for expert in experts)
        said += (
            f"{' ' if said else ''}[bold]{counted(len(experts), 'super expert')}[/] (layer/expert {named})."
        )
    return said


def _fitting(findings: Findings, weights: Sequence[SuperWeight], everything: bool) -> Fitting:
    """The table with as many columns as a terminal has room for."""
    forms = []
    for dropped in range(len(_LEAST_FIRST) + 1):
        table = _table(findings, weights, everything)
        table.columns = [c for c in table.columns if c.header not in _LEAST_FIRST[:dropped]]
        forms.append(table)
    return Fitting(forms)


def _table(findings: Findings, weights: Sequence[SuperWeight], everything: bool) -> Table:
    titles = ["super weight" if not everything else "weight", "value", "input spike", "output spike"]
    titles += ["share of it"] if everything else []
    titles += ["loss without it", "", "at its mean"]
    titles += ["others like it", "beside the strongest", "windows", "role"] if everything else []
    words = ("super weight", "weight", "", "role", "verdict")
    table = ruled(*titles, "verdict", header="bold", words=words)
    most = max((w.effect.value for w in weights if w.effect and math.isfinite(w.effect.value)), default=1.0)
    for group, members in _grouped(findings, weights):
        if group is not None:
            kind = "one neuron" if group.kind == "column" else "several neurons"
            name = f"[bold]{counted(len(group.members), 'weight')} together[/], writers of {kind}"
            bar = _bar(group.effect.value, max(most, group.effect.value))
            cells = [name, *[""] * (len(titles) - 1)]
            cells[titles.index("loss without it")] = with_error(group.effect, "+")
            cells[titles.index("")] = bar
            table.add_row(*cells, "")
        for weight in members:
            table.add_row(*_cells(weight, most, everything, group is not None))
    return table


def _grouped(
    findings: Findings, weights: Sequence[SuperWeight]
) -> Iterator[tuple[Group | None, list[SuperWeight]]]:
    """The weights of each group, then those in none."""
    left = list(weights)
    for group in findings.groups:
        members = [weight for weight in left if weight.group == group.name]
        if group.kind != "backup" and members:
            left = [weight for weight in left if weight not in members]
            yield group, members
    yield None, left


def _cells(w: SuperWeight, most: float, everything: bool, in_group: bool) -> list[str]:
    cells = [
        ("  " if in_group else "") + plain(str(w.address)),
        f"{w.value:z.3f}",
        _activation(w.spike_in),
        _activation(w.spike_out),
    ]
    if everything:
        cells.append("" if w.dominance is None else f"{w.dominance:z.2f}")
    cells += [with_error(w.effect, "+"), _bar(w.effect.value if w.effect else 0.0, most)]
    cells.append(with_error(w.effect_at_mean, "+"))
    if everything:
        cells += [
            _strongest(w),
            with_error(w.effect_with_others, "+"),
            str(w.effect.n if w.effect else 0),
            w.role or "",
        ]
    colour = _COLOURS.get(w.verdict or "", "dim")
    backs = " (backs up)" if w.verdict == "joint" and " backed up by " in (w.group or "") else ""
    return [*cells, f"[{colour}]{w.verdict or ''}[/]{backs}"]


def _bar(value: float, most: float) -> str:
    """The loss as a bar; full for the largest of the table, and for what leaves no number."""
    share = 1.0 if not math.isfinite(value) else max(0.0, value) / max(most, 1e-9)
    return "█" * min(_BAR, round(_BAR * share)) or "▏"


def _expert(e: Expert) -> str:
    colour = _COLOURS.get(e.verdict, "dim")
    parts = [
        f"expert {e.layer}/{e.expert}: output up to {e.routed:z,.4g} routed ({e.tokens} tokens), {e.forced:z,.4g} "
        f"forced, {e.ratio:z,.0f} times the median expert's"
    ]
    if e.effect is not None:
        parts.append(
            f"loss without it {with_error(e.effect, '+')}, gates renormalised {with_error(e.renormalised, '+')}"
        )
    if e.control is not None:
        parts.append(f"without another expert (mean of a few) {with_error(e.control, '+')}")
    if e.inside:
        parts.append(f"inside: {plain(e.inside)} = {e.value:z.3g} (share {e.share:z.2f})")
    return f"{'; '.join(parts)}: [{colour}]{e.verdict}[/]"


def _activation(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:z,.0f}" if abs(value) >= 100 else f"{value:z.1f}"


def _strongest(w: SuperWeight) -> str:
    """The control that cost most, of those that could acquit the weight."""
    judged = [control.score.value for control in w.controls if control.judges]
    return f"{max(judged):+z.4f}" if judged else ""


def _folded(findings: Findings, everything: bool) -> Iterator[str]:
    """What is not in the table."""
    benign = sum(c.verdict == "benign" for c in findings.candidates)
    if not everything and benign:
        yield f"{counted(benign, 'more spike')}, removable without loss: --all"
    for c in findings.candidates:
        if c.verdict == "undecided" and not everything and c.effect is not None:
            over = counted(c.effect.n, "window")
            yield f"undecided: {c.address}, loss without it {with_error(c.effect, '+')} ({over})"


def _context(findings: Findings) -> Iterator[str]:
    """On what this rests."""
    said = findings.conditions
    bos = {True: ", each begun with BOS", False: ", without BOS", None: ""}[said.get("bos")]
    yield (
        f"loss: {findings.base_loss.unit}, up to {cut_words(said.get('windows', 0), said.get('window_tokens', 0))} of "
        f"{said.get('confirmed_on')}{bos}; the model's own: {findings.base_loss}. Verdicts by 95 % intervals: "
        f"{_bars(findings)}."
    )
    yield (
        f"tested: {counted(said.get('tested', 0), 'weight')} and {counted(said.get('columns_tested', 0), 'column')} as "
        f"a whole, against {said.get('null_weights', 0):,} random weights of the same tensors, columns and rows."
    )
    if findings.joint is not None and len(findings.removed) > 1:
        yield f"without the {len(findings.removed)} strongest together: {costs(findings.joint)}."
    yield from _repetition(findings)
    yield _phases(findings)
    yield from (f"note: {note}" for note in findings.notes)


def _bars(findings: Findings) -> str:
    """Where the verdicts begin."""
    bars = findings.conditions.get("bars")
    if findings.base_loss.unit != "1 - cosine" or not bars:
        return "critical above ln 2 (perplexity doubles), partial above 0.05"
    critical, partial = f"{bars['critical']:z.3g}", f"{bars['partial']:z.3g}"
    return f"critical above {critical} (half the way to another text), partial above {partial}"


def _repetition(findings: Findings) -> Iterator[str]:
    """Whether greedy text repeats itself without what matters, where it was asked for."""
    if findings.repetition is None:
        return
    yield f"greedy text that repeats itself (runs of four tokens): {findings.repetition.value:z.0%} as the model is;"
    without = [(str(w.address), w.repetition) for w in findings.super_weights]
    without += [(group.name, group.repetition) for group in findings.groups]
    for name, rate in without:
        if rate is not None:
            yield f"  {rate} without {name}"


def _phases(findings: Findings) -> str:
    """Where the residual spike steps up, and where it steps down."""
    up = [str(layer.layer) for layer in findings.layers if layer.phase == "step_up"]
    down = [str(layer.layer) for layer in findings.layers if layer.phase == "step_down"]
    if not up and not down:
        return "residual stream: no massive activation."
    top = max(findings.layers, key=lambda layer: layer.peak)
    return (
        f"residual stream: steps up in layer {', '.join(up) or '-'}, down in {', '.join(down) or '-'}; largest "
        f"{top.peak:z,.0f} ({top.ratio:z,.0f} times the median), channel {top.channel}, after layer {top.layer}."
    )


def _next(findings: Findings, kept_in: Path | None) -> Parts:
    """The very commands to go on with; `kept_in` is the file that the record was written to."""
    held = [weight for weight in findings.super_weights if weight.effect is not None]
    if not held:
        return
    worst = max(held, key=lambda weight: weight.effect.value if weight.effect else 0.0)
    model = str(findings.conditions.get("name") or "embedded")
    name, file = shlex.quote(model), shlex.quote(str(kept_in or "found.json"))
    stem = PurePath(model.partition("@")[0]).name.removesuffix(".gguf").removesuffix(".safetensors")
    to = shlex.quote(f"{stem or 'model'}-int4")
    first = "" if kept_in else f"[bold]superweights find {plain(name)} --out {plain(file)}[/], then "
    yield (
        f"Next: {first}[bold]superweights quantize {plain(name)} --to {plain(to)} --from {plain(file)}[/] keeps them "
        "exact in a small model."
    )
    yield f"[bold]superweights find {plain(name)} --explain '{plain(str(worst.address))}'[/] tells one's story."


def published(found: Sequence[SuperWeight]) -> Parts:
    """What the published procedure gives, for comparison."""
    table = ruled("weight", "value", "spike in", "spike out", "share", header="bold")
    for c in found:
        numbers = f"{c.value:z.3f}", f"{c.spike_in:z,.1f}", f"{c.spike_out:z,.1f}", f"{c.dominance:z.2f}"
        table.add_row(plain(str(c.address)), *numbers)
    yield table
    yield (
        f"The published procedure: {counted(len(found), 'layer')} with a spike in both. A share far from 1 is a false "
        "pair, and nothing here is proven: run superweights find without --mode reference."
    )
