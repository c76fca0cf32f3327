"""A plan made ready to be written: matrices that need inputs for their rounding are rounded, the others left to it."""

from __future__ import annotations

from pathlib import Path

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError
from superweights.progress import Progress, silent
from superweights.quantization.plan import Plan
from superweights.reconstruction.rounding import rounded_plan
from superweights.reconstruction.samples import Sampling, remembered_samples, tokens_of_text


def calibrated(
    checkpoint: Checkpoint,
    plan: Plan,
    text: Path | None = None,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[Plan, str | None]:
    """`plan` with its matrices of fit `second_order` rounded, and the text they are rounded for in words.

    That is the text in the file `text`, or what the model draws; None where no matrix has that fit. Raises
    `SuperweightsError` for a text that nothing would be rounded for, and as `rounded_plan`.
    """
    if not any(scheme.fit == "second_order" for scheme in plan.schemes.values()):
        if text is not None:
            raise SuperweightsError(
                f"Nothing is calibrated on {text}: every matrix is rounded by its weights alone.",
                hint="ask for --fit second_order, or leave the text out.",
            )
        return plan, None
    if text is None:
        tokens = remembered_samples(checkpoint, sampling, device=device, progress=progress)
        told = f"text that the model drew (seed {sampling.seed})"
    else:
        tokens, told = tokens_of_text(checkpoint, text, sampling), text.name
    told += f": {len(tokens)} sequences of {tokens.shape[1]} tokens"
    return rounded_plan(checkpoint, plan, tokens, device=device, progress=progress), told
