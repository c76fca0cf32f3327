"""What a judging has decided, as findings: each candidate with its verdict, groups, experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from superweights.discovery.candidates import Candidate
from superweights.discovery.comparisons import Comparison
from superweights.discovery.experts import ExpertSeen
from superweights.discovery.findings import Expert, Findings, Group
from superweights.discovery.hunt import column_name
from superweights.discovery.judging import Backup, Judging
from superweights.discovery.proof import judge
from superweights.discovery.together import Together
from superweights.discovery.trials import Trial
from superweights.record import LARGEST, Control, Score, SuperWeight
from superweights.subject import layout_of

GRAVITY = ("critical", "joint", "partial", "undecided", "benign")


def findings_of(
    judging: Judging,
    conditions: dict[str, Any],
    notes: tuple[str, ...],
    name_token: Callable[[int | None], str | None],
) -> Findings:
    """The findings of a judging that has ended, or was ended."""
    hunt = judging.hunt
    groups = {group: _group(judging, group) for group in judging.groups() if _is_beyond(judging, group)}
    backups = [
        b for b in judging.backups if judging.fits and takes_over(judging, b) and not _is_within(b, groups)
    ]
    ordered = sorted(hunt.candidates.values(), key=lambda c: (c.number, -abs(c.spike.spike_out)))
    weights = tuple(_weight(judging, c, groups, backups, name_token) for c in ordered)
    experts = tuple(_expert(judging, expert) for expert in judging.experts)
    held = {each.verdict for each in (*weights, *experts)}
    joint = judging.all if judging.all is not None and judging.all.seen else None
    base = hunt.base.score("loss") if hunt.base.seen else hunt.prompt_loss
    return Findings(
        verdict=next((verdict for verdict in GRAVITY if verdict in held), "none"),
        candidates=weights,
        layers=tuple(hunt.layers),
        base_loss=base,
        joint=joint.score("loss rise, all removed") if joint else None,
        removed=tuple(map(str, judging.removed)) if joint else (),
        conditions={
            **conditions,
            "tested": len(hunt.candidates),
            "columns_tested": len(hunt.columns),
            "windows": len(hunt.base.rises),
            "null_weights": judging.comparisons.drawn,
            "interrupted": judging.interrupted,
        },
        notes=(*notes, *hunt.notes, *hunt.cap.notes(), *_of_experts(judging), *_of_groups(judging, groups)),
        groups=(*groups.values(), *(_backup_group(b) for b in backups)),
        experts=experts,
    )


def takes_over(judging: Judging, backup: Backup) -> bool:
    """Whether the other weight costs a critical loss once the strongest is gone, and more than it does alone.

    A weight that is critical by itself backs nobody up.
    """
    beside = backup.trial.beyond(backup.strongest.trial, "")
    if beside is None or beside.n < 2 or judging.is_critical(backup.other.address):
        return False
    shared = [
        w for w in backup.trial.rises if w in backup.strongest.trial.rises and w in backup.other.trial.rises
    ]
    if len(shared) < 2:
        return False
    gone, alone = backup.strongest.trial.rises, backup.other.trial.rises
    more = Trial(backup.trial.branch, {w: backup.trial.rises[w] - gone[w] - alone[w] for w in shared})
    return beside.interval()[0] >= judging.bars.critical and more.interval()[0] > 0


def _is_within(backup: Backup, groups: Mapping[Together, Group]) -> bool:
    """Whether the two are members of one group anyway."""
    pair = {backup.strongest.address, backup.other.address}
    return any(pair <= set(group.members) for group in groups)


def _weight(
    judging: Judging,
    c: Candidate,
    groups: Mapping[Together, Group],
    backups: list[Backup],
    name_token: Callable[[int | None], str | None],
) -> SuperWeight:
    suspect = c.trial.interval()[0] >= judging.bars.partial
    comparisons = judging.controls_of(c) if suspect else []
    excesses = _excesses(comparisons, c.trial)
    verdict = judge(c.trial.interval(), excesses, judging.bars) if c.trial.seen else "undecided"
    verdict = verdict if judging.fits else "undecided"
    group = next((group for group in groups if c.address in group.members), None)
    backup = next((backup for backup in backups if backup.other is c), None)
    name, adds = None, None
    if verdict != "critical" and group is not None:
        verdict, name = "joint", groups[group].name
        rest = group.adds(c.address, judging.alone)
        adds = group.trial.beyond(rest, "what it adds to the rest of its group") if rest else None
    elif verdict != "critical" and backup is not None:
        verdict, name = "joint", _backup_group(backup).name
    mean = judging.means.get(c.address)
    return SuperWeight(
        address=c.address,
        value=_value(judging, c),
        spike_in=c.spike.spike_in,
        spike_out=c.spike.spike_out,
        dominance=c.spike.dominance,
        effect=c.trial.score("loss rise") if c.trial.seen else c.effect,
        kl=c.kl,
        effect_with_others=_beside(judging, c),
        controls=_controls(comparisons, c.trial),
        verdict=verdict,
        role=c.role,
        kind=c.spike.kind,
        parameter=c.spike.parameter,
        out_channel=c.spike.out_channel,
        in_neuron=c.spike.in_neuron,
        layer=c.layer,
        tower=c.tower,
        token=name_token(c.token_id),
        position=c.position,
        round=c.round,
        group=name,
        adds=adds,
        effect_at_mean=mean.score("loss rise at its mean") if mean is not None and mean.seen else None,
    )


def _value(judging: Judging, c: Candidate) -> float:
    """The weight as stored; a gain's product may hold it shifted."""
    return (
        c.spike.value
        if c.spike.kind != "gain"
        else judging.hunt.checkpoint.element(c.address.tensor, c.address.index)
    )


def _beside(judging: Judging, c: Candidate) -> Any:
    """What the weight adds where the strongest other is gone: for that one, where the first it was tried with is."""
    for backup in judging.backups:
        if backup.other is c or backup.strongest is c:
            gone = backup.strongest if backup.other is c else backup.other
            found = backup.trial.beyond(gone.trial, f"loss rise beside {gone.address}")
            if found is not None:
                return found
    return None


def _group(judging: Judging, group: Together) -> Group:
    controls = _controls(judging.controls_of_group(group), group.trial)
    effect = group.trial.score("loss rise without all of them")
    name = column_name(group.members)
    return Group(name, group.kind, tuple(map(str, group.members)), effect, group.smallest, controls)


def _is_beyond(judging: Judging, group: Together) -> bool:
    """Whether a group costs more than as many weights that should not matter."""
    return all(low > 0 for low, _ in _excesses(judging.controls_of_group(group), group.trial))


def _backup_group(backup: Backup) -> Group:
    members = backup.strongest.address, backup.other.address
    effect = backup.trial.beyond(backup.strongest.trial, f"loss rise beside {members[0]}")
    assert effect is not None, "it has shown that it takes over"
    return Group(f"{members[0]} backed up by {members[1]}", "backup", tuple(map(str, members)), effect)


def _controls(comparisons: list[Comparison], trial: Trial) -> tuple[Control, ...]:
    found = (comparison.control(trial) for comparison in comparisons)
    return tuple(control for control in found if control is not None)


def _excesses(comparisons: list[Comparison], trial: Trial) -> list[tuple[float, float]]:
    """How far a trial lies above each control that may acquit it."""
    found = (trial.excess(each.trial) for each in comparisons if each.kind != LARGEST)
    return [excess for excess in found if excess is not None]


def _expert(judging: Judging, seen: ExpertSeen) -> Expert:
    reader, hunt = judging.hunt.experts, judging.hunt
    assert reader is not None, "it was seen"
    forming = {layer.path for layer in hunt.layers if layer.phase == "step_up"}
    layer = sorted(each.largest for each in reader.seen.values() if each.module == seen.module)
    inside = None if seen.inside is None else layout_of(hunt.model).address_of(seen.parameter, seen.inside)
    return Expert(
        module=seen.module,
        layer=seen.layer,
        expert=seen.expert,
        routed=seen.routed,
        forced=seen.forced,
        tokens=seen.tokens,
        ratio=seen.largest / max(layer[len(layer) // 2], 1e-30),
        by_paper=reader.by_paper(seen, forming),
        verdict=_expert_verdict(judging, seen),
        effect=_scored(seen.as_was, "loss rise, other gates as they were"),
        renormalised=_scored(seen.renormalised, "loss rise, other gates renormalised"),
        control=_scored(seen.control, f"mean loss rise without one of {len(seen.others)} other experts"),
        inside=str(inside) if inside else None,
        value=seen.value,
        share=seen.share,
    )


def _scored(trial: Trial | None, name: str) -> Score | None:
    return trial.score(name) if trial is not None and trial.seen else None


def _expert_verdict(judging: Judging, seen: ExpertSeen) -> str:
    if seen.as_was is None or not seen.as_was.seen or not judging.fits:
        return "undecided"
    if not any(seen.as_was.rises.values()):
        return "unreached"
    control = seen.control
    excess = seen.as_was.excess(control) if control is not None else None
    return judge(seen.as_was.interval(), [excess] if excess else [], judging.bars)


def _of_experts(judging: Judging) -> list[str]:
    return judging.hunt.experts.notes if judging.hunt.experts is not None else []


def _of_groups(judging: Judging, groups: Mapping[Together, Group]) -> list[str]:
    """What is not settled about what matters together."""
    notes = []
    bars = judging.bars
    for column in judging.hunt.columns.values():
        low, high = column.trial.interval()
        known = any(map(judging.is_critical, column.writers))
        if column.trial.seen and low < bars.critical <= high and not known:
            notes.append(
                f"whether {column.name} is critical as a whole, {len(column.writers)} weights, was not decided."
            )
    listed = {frozenset(group.members) for group in groups}
    for group in judging.together.values():
        unlisted = group.kind == "layers" and frozenset(group.members) not in listed
        whole = not group.smallest and not any(map(judging.is_critical, group.members))
        if unlisted and whole and group.is_critical(bars):
            notes.append(
                f"{len(group.members)} weights of several columns cost {group.trial.score('')} together; the passes "
                "ended before the smallest critical part was found, so they are not called joint."
            )
    notes += [
        f"{said.name}: the passes ended before the smallest critical part of it was found."
        for said in groups.values()
        if not said.smallest
    ]
    if judging.interrupted:
        notes.append("interrupted: what was not decided until then is undecided.")
    return notes
