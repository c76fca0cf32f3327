"""`superweights.adapt_write`: an expert as a dense checkpoint, or as an adapter that plain PEFT loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from superweights.adaptation.bench import benched
from superweights.adaptation.expert import load_expert
from superweights.adaptation.merging import merge
from superweights.adaptation.peft_files import write_lora, write_psoft
from superweights.errors import SuperweightsError
from superweights.findings.adaptation import ExpertWritten
from superweights.progress import Progress, silent
from superweights.record import Record

FORMS = ("dense", "psoft", "lora")


def adapt_write(
    model: Any,
    expert: Path | str,
    to: Path | str,
    form: str = "dense",
    *,
    rank: int = 16,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.ExpertWritten`: the expert merged into the folder `to` (`dense`), or as a PEFT adapter.

    `psoft` is the same function; `lora` keeps the `rank` largest changes of each matrix and tells what it misses.
    """
    to, held = Path(to), load_expert(Path(expert))
    if form not in FORMS:
        raise SuperweightsError(f"There is no form {form!r}.", hint=f"choose one of {', '.join(FORMS)}.")
    with benched(model, progress=progress) as bench:
        factors, matrices = bench.factors_of(held), bench.matrices_by([held])
        missed, folders = 0.0, [to]
        if form == "dense":
            merge(bench.checkpoint, held, factors, matrices, to, progress=progress)
        elif form == "psoft":
            folders = write_psoft(held, factors, matrices, to)
        else:
            missed = write_lora(held, factors, matrices, rank, to)
        nbytes = sum(file.stat().st_size for file in to.rglob("*") if file.is_file())
        found = ExpertWritten(form, [str(folder) for folder in folders], nbytes, missed)
        return Record.of("adapt write", bench.checkpoint, findings=found)
