"""`superweights plan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.console import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superweights.address import Address
    from superweights.budget import Allotment, Sensitivity
    from superweights.checkpoint import Checkpoint
    from superweights.quantization.plan import Plan
    from superweights.quantization.scheme import Scheme
    from superweights.record import Record

_FRONTIER = 12


def plan(
    model: options.Model,
    bits: Annotated[
        float, typer.Option(help="Stored bits per weight of the rounded matrices, scales included.")
    ] = 4.25,
    format_: Annotated[
        str, typer.Option("--format", help="packed, compressed-tensors, gguf: whose schemes to choose among.")
    ] = "packed",
    save: Annotated[
        Path | None, typer.Option(help="Write the plan here, for superweights quantize --plan.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Weights to keep exactly: known, none, or TENSOR[i, j]; repeatable."),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="Keep the super weights that superweights find --out wrote here."),
    ] = None,
    text: options.TextFile = None,
    window: options.Window = 128,
    windows: Annotated[
        int, typer.Option(min=2, help="Windows of text: the first half measures, the second checks.")
    ] = 4,
    plot: Annotated[Path | None, typer.Option(help="Draw the frontier into this .svg file.")] = None,
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Spend a bit budget over a model's matrices by measured sensitivity, super weights kept exactly.

    Example: superweights plan embedded --bits 4.25 --save plan.json
    """
    from superweights.budget import candidates_for
    from superweights.checkpoint import open_checkpoint
    from superweights.cli.quantize import kept_weights
    from superweights.subject import Reading

    for path in (save, plot, out):
        console.check_out(path)
    candidates_for(format_)
    with open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint:
        kept = kept_weights(checkpoint, keep or ["known"], from_)
        tokens = Reading(text, window, windows).tokens_of(checkpoint, seed)
        allotment, made, record = _planned(checkpoint, bits, format_, kept, tokens, device, seed)
    if save is not None:
        console.write_out(save, made.to_json() + "\n")
    if plot is not None:
        console.write_out(plot, _drawn(allotment))
    if out is not None:
        console.write_out(out, record.to_json() + "\n")
    if as_json:
        console.print_line(record.to_json())
    else:
        _show(record)


def _planned(
    checkpoint: Checkpoint,
    bits: float,
    format_: str,
    kept: list[Address],
    tokens: Any,
    device: str,
    seed: int,
) -> tuple[Allotment, Plan, Record]:
    """The plan, by the first half of the windows, and what it does to the second."""
    from superweights.budget import allot, sensitivities
    from superweights.quantization.plan import Plan
    from superweights.stream.linears import linear_tensors

    matrices = linear_tensors(checkpoint)
    half = len(tokens) // 2
    with progress() as bar:
        found = sensitivities(checkpoint, matrices, tokens[:half], format_, kept, device=device, progress=bar)
    allotment = allot(
        {each.tensor: each.choices for each in found}, {each.tensor: each.size for each in found}, bits
    )
    axes = {name: axis for name, axis in matrices.items() if axis}
    made = Plan({name: choice.scheme for name, choice in allotment.choices.items()}, tuple(kept), axes)
    return allotment, made, _checked(checkpoint, made, allotment, found, kept, tokens[half:], device, seed)


def _checked(
    checkpoint: Checkpoint,
    made: Plan,
    allotment: Allotment,
    found: Sequence[Sensitivity],
    kept: Sequence[Address],
    tokens: Any,
    device: str,
    seed: int,
) -> Record:
    """The plan and the single schemes next to its bits, all measured on windows that chose none of them."""
    from superweights.budget import check_plan
    from superweights.quantization.plan import Plan
    from superweights.record import Record, versions

    planned = check_plan(checkpoint, made, tokens, device=device, seed=seed)
    findings: dict[str, Any] = {
        "bits_per_weight": allotment.bits_per_weight,
        "expected_kl": allotment.loss,
        "frontier": [[step.bits_per_weight, step.loss] for step in allotment.frontier],
        "uniform": [],
        "matrices": [
            {
                "tensor": each.tensor,
                "measured_kl": each.measured,
                "scheme": str(allotment.choices[each.tensor].scheme),
                "grid": allotment.choices[each.tensor].scheme.grid,
                "bits_per_weight": allotment.choices[each.tensor].bits / each.size,
                "super_weights": [str(a) for a in kept if a.tensor == each.tensor],
            }
            for each in found
        ],
    }
    scores = (planned.kl, planned.base, planned.other)
    for least, scheme in _around(found, allotment.bits_per_weight):
        same = Plan(dict.fromkeys(made.schemes, scheme), made.keep, made.out_axes)
        alone = check_plan(checkpoint, same, tokens, device=device, seed=seed).kl
        findings["uniform"].append({"scheme": str(scheme), "bits_per_weight": least, **asdict(alone)})
    inputs = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "fingerprint": checkpoint.fingerprint(),
    }
    return Record("plan", inputs, versions(), seed=seed, scores=scores, findings=findings)


def _around(found: Sequence[Sensitivity], bits: float) -> list[tuple[float, Scheme]]:
    """The largest single scheme within `bits`, and the smallest above, as far as there are any."""
    total = sum(each.size for each in found)
    choices = [[each.choices[n] for each in found] for n in range(len(found[0].choices))]
    uniform = sorted(
        ((sum(choice.bits for choice in same) / total, same[0].scheme) for same in choices),
        key=lambda pair: pair[0],
    )
    within = [pair for pair in uniform if pair[0] <= bits + 0.005]
    return within[-1:] + uniform[len(within) :][:1]


def _drawn(allotment: Allotment) -> str:
    from superweights.picture.lines import Series, line_chart
    from superweights.picture.page import svg

    points = [(step.bits_per_weight, step.loss) for step in allotment.frontier]
    here = {allotment.bits_per_weight: "the plan"}
    chart = line_chart(
        "Expected divergence", "bits per weight", "KL, nats", [Series("plans", points)], log=True, marks=here
    )
    return svg([chart])


def _show(record: Record) -> None:
    from rich import box
    from rich.table import Table

    found, show = record.findings, console.data.print
    counts: dict[str, int] = {}
    for each in found["matrices"]:
        counts[each["grid"]] = counts.get(each["grid"], 0) + 1
    show("matrices: " + ", ".join(f"{n} in {grid}" for grid, n in sorted(counts.items())))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("most sensitive, and those with super weights", overflow="fold")
    for name in ("KL alone, nats", "grid", "bits"):
        table.add_column(name, justify="right", no_wrap=True)
    ranked = sorted(found["matrices"], key=lambda each: (not each["super_weights"], -each["measured_kl"]))
    for each in ranked[:10]:
        mark = " *" if each["super_weights"] else ""
        table.add_row(
            console.plain(each["tensor"] + mark),
            f"{each['measured_kl']:.2g}",
            each["grid"],
            f"{each['bits_per_weight']:.2f}",
        )
    console.data.print(table)
    show("frontier, bits per weight and expected KL:")
    steps = found["frontier"]
    for bits, loss in steps[:: max(1, len(steps) // _FRONTIER)]:
        show(f"  {bits:5.2f}  {loss:.3g}", highlight=False)
    kl, base, other = record.scores[:3]
    show(
        f"plan: {found['bits_per_weight']:.3f} bits per weight; KL {kl} (expected {found['expected_kl']:.3g}); "
        f"perplexity {base.value:.4g} before, {other.value:.4g} after",
        soft_wrap=True,
    )
    for alone in found["uniform"]:
        show(
            f"one scheme for all, {console.plain(alone['scheme'])}: {alone['bits_per_weight']:.3f} bits per weight; "
            f"KL {alone['value']:.4g} ± {alone['standard_error'] or 0:.2g} nats per token",
            soft_wrap=True,
        )
