"""`superweights.quantize`: a model's matrices rounded to few bits, its super weights kept exactly, and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.artefacts.file import write_text
from superweights.checkpoint import Checkpoint, opened_checkpoint
from superweights.errors import SuperweightsError
from superweights.findings import Protected, Quantized
from superweights.formats.writers import check_form, write_as
from superweights.formats.writing import Written
from superweights.index.choice import choose_weights
from superweights.progress import Progress, labelled, silent
from superweights.quantization import protection_report
from superweights.quantization.defaults import Rounding
from superweights.quantization.plan import Plan
from superweights.quantization.second_order import data_free
from superweights.record import Record, Score
from superweights.stream.linears import linear_tensors
from superweights.subject import Source


def quantize(
    model: Any,
    to: Path | str,
    rounding: Rounding | Plan | Path = Rounding(),  # noqa: B008 - frozen
    *,
    format: str = "packed",
    keep: Sequence[str | Address] = ("known",),
    record: Record | Path | str | None = None,
    rest: str | None = None,
    save_plan: Path | str | None = None,
    calibrate_on: Path | str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Quantized`: what was written to the new folder (gguf: file) `to`.

    `rounding` is one scheme for all matrices, or a `Plan` (or its file) with one for each. `keep` names weights to keep
    exactly, `known` those that the index knows, `none` none; those of a `record` that `find` wrote are kept too. `rest`
    is the type of what is not rounded (packed only). The plan is also written to `save_plan`. Matrices of the fit
    `second_order` are rounded for what they read on the text in the file `calibrate_on`, or, without one, on text that
    the model draws by `seed`. Stopped and started again it goes on where it was.

    >>> record = quantize("embedded", "smollm2-int4")     # doctest: +SKIP
    """
    check_form(format, rest)
    with opened_checkpoint(model) as checkpoint:
        plan = Plan.read(rounding) if isinstance(rounding, Path) else rounding
        if isinstance(plan, Rounding):
            kept = kept_weights(checkpoint, keep, record)
            plan = Plan.uniform(linear_tensors(checkpoint), plan.scheme(checkpoint, format), kept)
        plan.check(checkpoint)
        if save_plan is not None:
            write_text(Path(save_plan), plan.to_json() + "\n")
        protected = _protection(checkpoint, plan)
        device = Source.of(model).device
        plan, told = _calibrated(checkpoint, plan, calibrate_on, seed, device, progress)
        written = write_as(format, checkpoint, plan, Path(to), rest, labelled(progress, "tensors"))
        return _record(checkpoint, plan, format, written, protected, told)


def _calibrated(
    checkpoint: Checkpoint, plan: Plan, text: Path | str | None, seed: int, device: str, progress: Progress
) -> tuple[Plan, str | None]:
    """`plan` with the matrices rounded that need inputs for it, and on which text, in words."""
    if not any(scheme.fit == "second_order" for scheme in plan.schemes.values()):
        if text is not None:
            raise SuperweightsError(
                f"Nothing is calibrated on {text}: every matrix is rounded by its weights alone.",
                hint="ask for --fit second_order, or leave the text out.",
            )
        return plan, None
    from superweights.reconstruction import Sampling, remembered_samples, rounded_plan, tokens_of_text

    sampling = Sampling(seed=seed)
    if text is None:
        tokens = remembered_samples(checkpoint, sampling, device=device, progress=progress)
        told = f"text that the model drew (seed {seed})"
    else:
        tokens, told = tokens_of_text(checkpoint, Path(text), sampling), Path(text).name
    told += f": {len(tokens)} sequences of {tokens.shape[1]} tokens"
    return rounded_plan(checkpoint, plan, tokens, device=device, progress=progress), told


def kept_weights(
    checkpoint: Checkpoint, keep: Sequence[str | Address], record: Record | Path | str | None
) -> tuple[Address, ...]:
    """The weights to keep exactly: those named, and those of a record, or else (with `known`) the known ones."""
    named = Address.several([each for each in keep if each not in ("known", "none")])
    if record is None and "known" not in keep:
        return tuple(named)
    chosen = choose_weights(checkpoint, record=record)
    return tuple(dict.fromkeys([*named, *chosen.addresses]))


def _protection(checkpoint: Checkpoint, plan: Plan) -> tuple[Protected, ...]:
    """What rounding does to each kept weight, and whether keeping it changed anything."""
    found = []
    for tensor in dict.fromkeys(address.tensor for address in plan.keep):
        scheme, axis = data_free(plan.schemes[tensor]), plan.out_axes.get(tensor, 0)
        for each in protection_report(checkpoint.read(tensor), scheme, plan.kept_of(tensor), axis):
            told = {"changed": each.changed, "said": str(each)}
            found.append(Protected(address=f"{tensor}{list(each.index)}", **asdict(each), **told))
        checkpoint.release([tensor])
    return tuple(found)


def _record(
    checkpoint: Checkpoint,
    plan: Plan,
    form: str,
    written: Written,
    protected: tuple[Protected, ...],
    calibrated_on: str | None,
) -> Record:
    numbers = sum(info.size for info in checkpoint.tensors.values())
    scores = (
        Score("bits per weight, all tensors", 8 * written.nbytes / numbers, "bits", numbers),
        Score("size of the weight files", written.nbytes / 1e6, "MB", 1),
    )
    schemes = tuple(sorted({str(scheme) for scheme in plan.schemes.values()}))
    found = Quantized(form, str(written.folder), schemes, len(plan.schemes), protected, calibrated_on)
    return Record.of("quantize", checkpoint, scores=scores, findings=found)
