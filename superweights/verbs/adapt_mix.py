"""`superweights.adapt_mix`: a new expert, mixed of others by a few examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from superweights.adaptation.applying import turned
from superweights.adaptation.bench import benched
from superweights.adaptation.evolving import Search, mix_by_shots
from superweights.adaptation.expert import Expert, combined, load_experts, save_expert
from superweights.adaptation.made_tasks import task_named
from superweights.adaptation.speaking import rewarded
from superweights.adaptation.tasks import Task, reward_named
from superweights.artefacts.place import check_new
from superweights.findings.adaptation import ExpertsMixed
from superweights.progress import Progress, silent
from superweights.record import Record

# With what its arguments are made of.
__all__ = ["Search", "adapt_mix", "task_named"]


def adapt_mix(
    model: Any,
    experts: Path | str,
    task: Task,
    to: Path | str,
    *,
    shots: int = 10,
    reward: str = "exact",
    search: Search = Search(),  # noqa: B008 - frozen
    about: str = "",
    chat: bool = False,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.ExpertsMixed`; the mixed expert stands in the folder `to`.

    The shots are the first of the task's training split, so that no test prompt is among them.
    """
    to, judge = Path(to), reward_named(reward)
    check_new(to, "folder")
    held = load_experts(Path(experts))
    with benched(model, chat=chat, progress=progress) as bench:
        factors = bench.factors_of(*held)
        chosen = task.train[:shots]
        best = mix_by_shots(bench.model, bench.reader, factors, held, task, chosen, judge, search)
        z = combined(held, best.alpha)
        before = rewarded(bench.model, bench.reader, task, task.test, judge).mean().item()
        with turned(bench.model, factors, z):
            after = rewarded(bench.model, bench.reader, task, task.test, judge).mean().item()
        names = [expert.name for expert in held]
        made = {"mixed_of": names, "alpha": list(best.alpha), "task": task.digest()}
        first = held[0]
        save_expert(Expert(to.name, z, first.base, first.fingerprint, about, first.rank, made), to)
        found = ExpertsMixed(
            names,
            list(best.alpha),
            len(chosen),
            *best.fitness,
            before,
            after,
            [list(each) for each in best.history],
        )
        return Record.of("adapt mix", bench.checkpoint, seed=search.seed, findings=found, task=task.digest())
