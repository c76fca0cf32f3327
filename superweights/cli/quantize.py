"""`superweights quantize`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superweights.cli import console, options
from superweights.cli.console import progress
from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from superweights.address import Address
    from superweights.checkpoint import Checkpoint
    from superweights.quantization import Scheme
    from superweights.quantization.plan import Plan
    from superweights.record import Record

RESTS = ("float32", "bfloat16", "float16")
FORMATS = ("packed", "dense", "compressed-tensors", "gguf")

To = Annotated[Path, typer.Option(help="A new folder (gguf: a new file).")]
Format = Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")]
Grid = Annotated[str, typer.Option(help="int2 to int8, nf4, nf3, fp8_e4m3, fp8_e5m2, mxfp4, nvfp4.")]
Group = Annotated[
    int | None,
    typer.Option(min=0, help="Inputs that share a scale, 0: all of an output channel; else 64 (gguf: 32)."),
]
ZeroPoint = Annotated[str | None, typer.Option(help="none (symmetric), integer or float.")]
Fit = Annotated[str | None, typer.Option(help="range, centred, half_quadratic, least_squares, mse.")]
ClipZ = Annotated[float | None, typer.Option(help="Clip at so many standard deviations first.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(help="Weights to keep exactly: known, none, or TENSOR[i, j]; repeatable."),
]
FromRecord = Annotated[
    Path | None,
    typer.Option("--from", help="Keep the super weights that superweights find --out wrote here."),
]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="A plan in JSON, instead of one scheme for all.")
]
Rest = Annotated[
    str | None,
    typer.Option(
        help="packed: the dtype of matrices that are not rounded, such as embeddings; else as stored."
    ),
]
SavePlan = Annotated[Path | None, typer.Option(help="Also write the plan to this file.")]


def quantize(
    model: options.Model,
    to: To,
    format_: Format = "packed",
    grid: Grid = "int4",
    group: Group = None,
    zero_point: ZeroPoint = None,
    fit: Fit = None,
    clip_z: ClipZ = None,
    keep: Keep = None,
    from_: FromRecord = None,
    plan: PlanFile = None,
    save_plan: SavePlan = None,
    rest: Rest = None,
    allow_pickle: options.AllowPickle = False,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
    out: options.Out = None,
) -> None:
    """Round a model's matrices to few bits, its super weights kept exactly, and write it for other programs.

    Stopped and started again it goes on where it was.

    Example: superweights quantize embedded --to smollm2-int4
    """
    from superweights.checkpoint import open_checkpoint

    if format_ not in FORMATS:
        raise SuperweightsError(f"There is no format {format_!r}.", hint=f"choose from {', '.join(FORMATS)}.")
    console.check_out(out)
    console.check_out(save_plan)
    with open_checkpoint(model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code) as checkpoint:
        kept = (keep or ["known"], from_)
        chosen = (
            _read_plan(plan)
            if plan
            else _plan(checkpoint, _scheme(checkpoint, format_, grid, group, zero_point, fit, clip_z), kept)
        )
        if save_plan is not None:
            console.write_out(save_plan, chosen.to_json() + "\n")
        record = _write(checkpoint, chosen, to, format_, **_rest(rest, format_))
    if out is not None:
        console.write_out(out, record.to_json() + "\n")
    if as_json:
        console.print_line(record.to_json())
    else:
        _show(record)


def _scheme(
    checkpoint: Checkpoint,
    format_: str,
    grid: str,
    group: int | None,
    zero_point: str | None,
    fit: str | None,
    clip_z: float | None,
) -> Scheme:
    """The scheme of these options; what is left open is what was best for the grid without data, in this format."""
    from torch import bfloat16, float16

    from superweights.quantization import Blocks, Clip, Scheme
    from superweights.quantization.scheme import INTEGERS, STANDARD_GROUPS

    integer = grid in INTEGERS
    plain = format_ == "compressed-tensors" or (format_ == "gguf" and grid == "int8")
    symmetric = not integer or plain
    zero: Any = zero_point or ("none" if symmetric else "float")
    anchor: Any = "signed" if integer and zero == "none" and grid != "int8" else "absolute"
    how: Any = fit or ("centred" if integer and zero == "float" else "range")
    usual = 32 if format_ == "gguf" else 64
    size = STANDARD_GROUPS.get(grid, usual if group is None else group)
    blocks = Blocks("group", (size,)) if size else Blocks("channel", ())
    clip = Clip("z", clip_z) if clip_z is not None else Clip()
    dtype = "float32" if grid.startswith("fp8") else "float16"
    stored = {info.torch_dtype for info in checkpoint.tensors.values()}
    if format_ == "compressed-tensors" and float16 not in stored and bfloat16 in stored:
        dtype = "bfloat16"
    return Scheme(grid, zero_point=zero, blocks=blocks, clip=clip, fit=how, anchor=anchor, scale_dtype=dtype)


def _rest(rest: str | None, format_: str) -> dict[str, Any]:
    """The writer's own option for `--rest`."""
    import torch

    if rest is None:
        return {}
    if rest not in RESTS or format_ != "packed":
        raise SuperweightsError(
            f"--rest {rest} is not possible with --format {format_}.",
            hint=f"{', '.join(RESTS)} with --format packed; the other formats keep what is not rounded as stored.",
        )
    return {"rest": getattr(torch, rest)}


def _read_plan(path: Path) -> Plan:
    from superweights.quantization.plan import Plan
    from superweights.subject.text import read_text

    return Plan.from_json(read_text(path).text)


def _plan(checkpoint: Checkpoint, scheme: Scheme, kept: tuple[list[str], Path | None]) -> Plan:
    """One scheme for all matrices, and the weights to keep."""
    from superweights.quantization.plan import Plan
    from superweights.stream.linears import linear_tensors

    addresses = kept_weights(checkpoint, *kept)
    return Plan.uniform(linear_tensors(checkpoint), scheme, addresses)


def kept_weights(checkpoint: Checkpoint, named: list[str], record: Path | None) -> list[Address]:
    """The weights to keep exactly: those named, those of a record, or the known ones."""
    from superweights.address import Address
    from superweights.cli.weights import weights_of

    addresses = [Address.parse(each) for each in named if each not in ("known", "none")]
    if record is not None:
        return addresses + weights_of(checkpoint, record)
    return addresses + _known(checkpoint) if "known" in named else addresses


def _known(checkpoint: Checkpoint) -> list[Any]:
    """The known super weights; where there are none, that is said and nothing is kept."""
    from superweights.cli.weights import weights_of

    try:
        return weights_of(checkpoint, None)
    except SuperweightsError as error:
        console.notes.print(
            f"[dim]note: {console.plain(error.message)} Nothing is kept exactly.[/]", soft_wrap=True
        )
        return []


def _write(checkpoint: Checkpoint, plan: Plan, to: Path, format_: str, **how: Any) -> Record:
    """The format's own writer, and what it has written as a Record."""
    from superweights.record import Record, Score, versions

    plan.check(checkpoint)
    protected = _protection(checkpoint, plan)
    with progress() as bar:
        written = _writer(format_)(
            checkpoint, plan, to, progress=lambda _, done, total: bar("tensors", done, total), **how
        )
    numbers = sum(info.size for info in checkpoint.tensors.values())
    scores = (
        Score("bits per weight, all tensors", 8 * written.nbytes / numbers, "bits", numbers),
        Score("size of the weight files", written.nbytes / 1e6, "MB", 1),
    )
    schemes = sorted({str(scheme) for scheme in plan.schemes.values()})
    findings = {
        "format": format_,
        "to": str(written.folder),
        "schemes": schemes,
        "tensors_rounded": len(plan.schemes),
        "protected": protected,
    }
    inputs = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "fingerprint": checkpoint.fingerprint(),
    }
    return Record("quantize", inputs, versions(), scores=scores, findings=findings)


def _protection(checkpoint: Checkpoint, plan: Plan) -> list[dict[str, Any]]:
    """What rounding does to each kept weight, and whether keeping it changed anything."""
    from superweights.quantization import protection_report

    said = []
    for tensor in dict.fromkeys(address.tensor for address in plan.keep):
        scheme, axis = plan.schemes[tensor], plan.out_axes.get(tensor, 0)
        for each in protection_report(checkpoint.read(tensor), scheme, plan.kept_of(tensor), axis):
            row = {"address": f"{tensor}{list(each.index)}", **asdict(each)}
            said.append({**row, "changed": each.changed, "said": str(each)})
        checkpoint.release([tensor])
    return said


def _writer(format_: str) -> Any:
    if format_ == "dense":
        from superweights.formats.dense import write_dense

        return write_dense
    if format_ == "compressed-tensors":
        from superweights.formats.compressed_tensors import write_compressed_tensors

        return write_compressed_tensors
    if format_ == "gguf":
        from superweights.formats.gguf import write_gguf

        return write_gguf
    from superweights.formats.packed.writing import write_packed

    return write_packed


def _show(record: Record) -> None:
    found = record.findings
    console.data.print(f"[bold]{console.plain(found['to'])}[/]: {found['format']}", soft_wrap=True)
    for scheme in found["schemes"]:
        console.data.print(f"  {console.plain(scheme)}", soft_wrap=True)
    for score in record.scores:
        console.data.print(f"  {score.name}: {score}", highlight=False)
    console.data.print(f"  matrices rounded: {found['tensors_rounded']}", highlight=False)
    for each in found["protected"]:
        name = each["address"].split("[")[0]
        console.data.print(f"  {console.plain(name + each['said'])}", soft_wrap=True, highlight=False)
    if not found["protected"]:
        console.data.print("  No weight was kept exactly.")
