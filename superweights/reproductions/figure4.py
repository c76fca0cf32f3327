"""Figure 4: the largest output of each layer without the super weights, without other outliers, without both."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from superweights.branch import Branch, Visit, branching
from superweights.editing import Edit, edited, zero
from superweights.findings.reproduction import Column, Plot, Reproduction
from superweights.reproductions.subject import Subject

_VERSIONS = ("original", "without", "others", "all")


def run(subject: Subject) -> Reproduction:
    """The experiment. Source: arXiv 2411.07191, Figure 4.

    We differ: the other outliers are the largest of all block matrices together, as the text says of Table 1,
    where the authors' code takes the largest 5e-7 of every tensor, embeddings, head and norms included (in a
    small model that is often none).
    """
    others, weights = subject.others(), zero(subject.chosen.addresses)
    rest = zero(others.addresses)
    peaks = block_peaks(subject.model, subject.prompt_ids(), [(), weights, rest, (*weights, *rest)])
    rows = [
        {"layer": layer, **{name: peak[layer] for name, peak in zip(_VERSIONS, peaks, strict=True)}}
        for layer in range(len(peaks[0]))
    ]
    published = subject.published("figure4")
    return Reproduction(
        experiment="figure4",
        title="Figure 4: largest |value| of each layer's output",
        columns=(
            Column("layer", "layer", "label"),
            Column("original", "original"),
            Column("without", "no super weights"),
            Column("others", "no other outliers"),
            Column("all", "neither"),
        ),
        rows=tuple(rows),
        published=published,
        weights=tuple(weight.to_json() for weight in subject.weights()),
        chosen=subject.chosen.how,
        sentences=_sentences(peaks, published),
        notes=(f"Other outliers: {others.rule}, down to a magnitude of {others.smallest or 0:.4g}.",),
        conditions=subject.conditions() | {"prompt": subject.setting.prompt, "others": len(rest)},
        plot=Plot("layer", _VERSIONS, "largest |layer output|", logarithmic=True),
    )


def block_peaks(model: nn.Module, ids: Tensor, versions: Sequence[Sequence[Edit]]) -> list[list[float]]:
    """The largest magnitude of each block's output under each version's edits, the first of which has none.

    One pass for all, where the blocks form a chain; else one for each.
    """
    branches = [Branch(tuple(edits), watched=True) for edits in versions[1:]]
    found: dict[Branch | None, dict[int, float]] = {branch: {} for branch in (None, *branches)}

    def note(visit: Visit) -> tuple[Branch, ...]:
        found[visit.branch][visit.number] = float(visit.after.abs().max())
        return ()

    with branching(model, branches) as run:
        run.pass_over(ids, note)
        apart = [branch for branch in branches if branch.apart]
    for branch in apart:
        found[branch] = _pass_of_its_own(model, ids, branch)
    base = found[None]
    return [[found[branch].get(layer, base[layer]) for layer in base] for branch in (None, *branches)]


def _pass_of_its_own(model: nn.Module, ids: Tensor, branch: Branch) -> dict[int, float]:
    found: dict[int, float] = {}

    def note(visit: Visit) -> tuple[Branch, ...]:
        found[visit.number] = float(visit.after.abs().max())
        return ()

    with edited(model, branch.edits, verify=False), branching(model) as run:
        run.pass_over(ids, note)
    return found


def _sentences(peaks: list[list[float]], published) -> tuple[str, ...]:
    """How far the largest layer output falls, beside the paper's."""
    layer = max(range(len(peaks[0])), key=peaks[0].__getitem__)
    original = peaks[0][layer]
    plateau = published.figures["plateau"]
    said = [f"The largest output, {original:,.0f}, is that of layer {layer}; there it is"]
    names = ("the super weights", "the other outliers", "either")
    for name, key, peak in zip(names, _VERSIONS[1:], peaks[1:], strict=True):
        low, high, top = *plateau[key], plateau["original"][1]
        said.append(
            f"  without {name}: {peak[layer]:,.0f}, {peak[layer] / original - 1:+.0%} "
            f"({published.model}, published: {low:g} to {high:g} of {top:,}, {high / top - 1:+.0%})."
        )
    return tuple(said)
