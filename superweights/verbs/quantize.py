"""`superweights.quantize`: a model's matrices rounded to few bits, its super weights kept exactly, and written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from superweights.address import Address
from superweights.artefacts.file import write_text
from superweights.artefacts.place import check_new
from superweights.checkpoint import Checkpoint, opened_checkpoint
from superweights.findings import Protected, Quantized
from superweights.formats.embeddings import check_embeddings, with_embeddings
from superweights.formats.writers import check_form, check_source, held_whole, write_as
from superweights.formats.writing import Written
from superweights.index.choice import Choice, choose_weights
from superweights.progress import Progress, labelled, silent
from superweights.quantization import protection_report
from superweights.quantization.defaults import Rounding
from superweights.quantization.plan import Plan
from superweights.quantization.second_order import data_free
from superweights.quantization.standing_for import rounded_checkpoint
from superweights.reconstruction import Rounded, Sampling, calibrated
from superweights.record import Record, Score
from superweights.scoring import compare_all
from superweights.stream import streaming
from superweights.stream.linears import linear_tensors
from superweights.subject import Reading, Source, context_of

# What is read to tell how far the written model is from the original.
CHECKED = Reading(window=128, windows=4)


def quantize(
    model: Any,
    to: Path | str,
    rounding: Rounding | Plan | Path = Rounding(),  # noqa: B008 - frozen
    *,
    format: str = "packed",
    embeddings: str | None = None,
    keep: Sequence[str | Address] = ("known",),
    record: Record | Path | str | None = None,
    check: Reading | None = CHECKED,
    save_plan: Path | str | None = None,
    calibrate_on: Path | str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Quantized`: what was written to the new folder (gguf: file) `to`, and what that costs.

    `rounding` is one scheme for all matrices, or a `Plan` (or its file) with one for each. `keep` names weights to keep
    exactly, `known` those that the index knows, `none` none; those of a `record` that `find` wrote are kept too.
    `embeddings` and head are stored in bfloat16 where they are wider (`bf16`, the default but for gguf), rounded to
    `int8` row by row, or as they are (`keep`). On the text `check` the divergence from the original is measured, with
    the weights kept and without, a block of the model at a time; None measures nothing. The plan is also written to
    `save_plan`. Matrices of the fit `second_order` are rounded for what they read on the text in the file
    `calibrate_on`, or on text that the model draws by `seed`. Stopped and started again it goes on where it was.

    >>> record = quantize("embedded", "smollm2-int4")     # doctest: +SKIP
    """
    check_form(format)
    check_embeddings(format, embeddings)
    source = Source.of(model)
    with opened_checkpoint(source) as checkpoint:
        check_source(format, checkpoint)
        plan, chosen = Plan.read(rounding) if isinstance(rounding, Path) else rounding, Choice((), None)
        if isinstance(plan, Rounding):
            chosen = kept_weights(checkpoint, keep, record)
            scheme = plan.scheme(checkpoint, format)
            plan = Plan.uniform(linear_tensors(checkpoint), scheme, chosen.addresses)
        plan = with_embeddings(checkpoint, plan, format, embeddings)
        plan.check(checkpoint)
        if save_plan is not None:
            write_text(Path(save_plan), plan.to_json() + "\n")
        protected = _protection(checkpoint, plan)
        check_new(Path(to), "file" if format == "gguf" else "folder")
        text = None if calibrate_on is None else Path(calibrate_on)
        sampling, device = Sampling(seed=seed), source.device
        plan, told = calibrated(checkpoint, plan, text, sampling=sampling, device=device, progress=progress)
        kls = () if check is None else _divergences(checkpoint, plan, format, check, device, progress)
        written = write_as(format, checkpoint, plan, Path(to), labelled(progress, "tensors"))
        made = _Made(plan, format, written, protected, kls, chosen.notes(), told)
        return made.record(checkpoint)


def kept_weights(
    checkpoint: Checkpoint, keep: Sequence[str | Address], record: Record | Path | str | None
) -> Choice:
    """The weights to keep exactly: those named, and those of a record, or else (with `known`) the known ones."""
    named = Address.several([each for each in keep if each not in ("known", "none")])
    if record is None and "known" not in keep:
        return Choice(tuple(named), "given")
    chosen = choose_weights(checkpoint, record=record)
    return replace(chosen, addresses=tuple(dict.fromkeys([*named, *chosen.addresses])))


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


def _divergences(
    checkpoint: Checkpoint, plan: Plan, form: str, check: Reading, device: str, progress: Progress
) -> tuple[Score, ...]:
    """KL(original || written), and (where weights are kept) the same with nothing kept, on the same windows.

    Not with nothing kept where the matrices are rounded for what they read: those were rounded around the kept weights.
    """
    freely = [replace(plan, keep=())] if plan.keep and not isinstance(plan, Rounded) else []
    plans = [held_whole(form, plan), *freely]
    with ExitStack() as stack:

        def entered(source: Checkpoint) -> Any:
            return stack.enter_context(streaming(source, dtype="float32", device=device, resident=False))

        original, *others = map(
            entered, [checkpoint, *(rounded_checkpoint(checkpoint, each) for each in plans)]
        )
        fitting = min(check.window, context_of(original) or check.window)
        tokens = replace(check, window=fitting).tokens_of(checkpoint)
        told = labelled(progress, "comparing with the original")
        found = compare_all(original, others, tokens, batch_size=len(tokens), progress=told)
    first = "KL(original || written)" if found[0].kl is not None else "embedding change"
    names = (first, "the same with nothing kept")
    return tuple(replace(each.kl or each.loss, name=name) for name, each in zip(names, found, strict=False))


@dataclass(frozen=True)
class _Made:
    """All that a record of `quantize` tells of."""

    plan: Plan
    form: str
    written: Written
    protected: tuple[Protected, ...]
    kls: tuple[Score, ...]
    notes: tuple[str, ...]
    calibrated_on: str | None

    def record(self, checkpoint: Checkpoint) -> Record:
        """The record of what was written of `checkpoint`."""
        numbers = sum(info.size for info in checkpoint.tensors.values())
        after, before = self.written.nbytes, self.written.original_nbytes
        scores = (
            Score("bits per weight, all tensors", 8 * after / numbers, "bits", numbers),
            Score("size of the weight files", after / 1e6, "MB", 1),
            Score("bits per weight before", 8 * before / numbers, "bits", numbers),
            Score("size before", before / 1e6, "MB", 1),
            *self.kls,
        )
        kl, plain = (*self.kls, None, None)[:2]
        rounded = held_whole(self.form, self.plan).schemes
        found = Quantized(
            self.form,
            str(self.written.folder),
            tuple(sorted({str(scheme) for scheme in rounded.values()})),
            len(rounded),
            self.protected,
            before,
            after,
            tuple(name for name in self.plan.schemes if name not in rounded),
            _embeddings_said(self.plan, checkpoint),
            kl,
            plain,
            self.notes,
            self.calibrated_on,
        )
        return Record.of("quantize", checkpoint, scores=scores, findings=found)


def _embeddings_said(plan: Plan, checkpoint: Checkpoint) -> str:
    """How embeddings and head are stored: `model.embed_tokens.weight in bfloat16`."""
    dtypes = {dtype: [n for n, d in plan.narrowed.items() if d == dtype] for dtype in plan.narrowed.values()}
    said = [f"{', '.join(names)} in {dtype}" for dtype, names in dtypes.items()]
    return "; ".join(said) or "as stored, or rounded by a scheme"
