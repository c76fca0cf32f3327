"""`superweights.adapt_train`: an expert trained on a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from superweights.adaptation.bench import ExpertBench, benched
from superweights.adaptation.expert import Expert, save_expert
from superweights.adaptation.factors import Factors
from superweights.adaptation.kept_state import begin_expert, unfinished
from superweights.adaptation.learners import Singular
from superweights.adaptation.made_tasks import task_named
from superweights.adaptation.manner import Manner
from superweights.adaptation.speaking import rewarded
from superweights.adaptation.tasks import Reward, Task, reward_named
from superweights.adaptation.trained import Trained
from superweights.adaptation.training import Training
from superweights.findings.adaptation import ExpertTrained
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.scoring.error import mean_error
from superweights.subject.layers import layers_of

# With what its arguments are made of.
__all__ = ["Manner", "adapt_train", "task_named"]


def adapt_train(
    model: Any,
    task: Task,
    to: Path | str,
    *,
    reward: str = "exact",
    manner: Manner = Manner(),  # noqa: B008 - frozen
    part: str = "mlp",
    layers: Sequence[int] | str | None = None,
    rank: int | None = None,
    about: str = "",
    chat: bool = False,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.ExpertTrained`; the expert stands in the folder `to`.

    A run that was stopped goes on exactly where its last look at the validation split left it, when it is started
    again with the same arguments. `reward` is a name or FILE.py:FUNCTION, see `adaptation.tasks.reward_named`;
    `layers` are numbers, or written as `0,3` or `20-29`.

    >>> from superweights.adaptation import read_task
    >>> record = adapt_train("embedded", read_task("sums.jsonl"), "experts/sums")     # doctest: +SKIP
    """
    to, judge, layers = Path(to), reward_named(reward), layers_of(layers)
    begin_expert(to)
    with benched(model, chat=chat, progress=progress) as bench:
        learner = Singular(bench.model, bench.factors(bench.matrices(part, layers), rank))
        fingerprint = bench.checkpoint.fingerprint()
        identity = f"{fingerprint} {part} {layers} {rank} {reward} {chat}"
        with unfinished(to, identity, task.digest(), str(manner)) as state:
            training = Training(
                *(bench.model, bench.reader, task, learner, judge, manner),
                state=state,
                identity=identity,
                progress=progress,
            )
            trained = training.run()
            made = {
                "task": task.digest(),
                "reward": reward,
                "manner": vars(manner),
                "valid_reward": trained.best,
            }
            expert = Singular(bench.model, learner.factors, trained.numbers)
            found = _found(bench, task, judge, to.name, expert, trained)
            save_expert(
                Expert(to.name, trained.numbers, bench.checkpoint.name, fingerprint, about, rank, made), to
            )
        return Record.of(
            "adapt train", bench.checkpoint, seed=manner.seed, findings=found, task=task.digest()
        )


def _found(
    bench: ExpertBench, task: Task, judge: Reward, name: str, learner: Singular, trained: Trained
) -> ExpertTrained:
    """What the expert is worth on the test split."""
    before = rewarded(bench.model, bench.reader, task, task.test, judge)
    with learner.on():
        after = rewarded(bench.model, bench.reader, task, task.test, judge)
    rise, told = after - before, trained.to_json()
    return ExpertTrained(
        expert=name,
        task=task.name,
        parameters=sum(len(z) for z in trained.numbers.values()),
        test=len(task.test),
        test_before=before.mean().item(),
        test_after=after.mean().item(),
        rise=rise.mean().item(),
        rise_error=mean_error(rise),
        **{**told, "notes": [*told["notes"], *_of_factors(learner.factors)]},
    )


def _of_factors(factors: Mapping[str, Factors]) -> list[str]:
    """What randomized decompositions miss; nothing where all are whole."""
    drawn = [each for each in factors.values() if each.method != "full"]
    if not drawn:
        return []
    error, energy = max(each.error for each in drawn), min(each.energy for each in drawn)
    return [
        f"{len(drawn)} of {len(factors)} matrices were decomposed by random projections: singular ones to "
        f"{error:.1e} of the largest, {100 * energy:.1f} % or more of each matrix's squares."
    ]
