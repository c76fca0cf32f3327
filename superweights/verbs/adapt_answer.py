"""`superweights.adapt_answer`: prompts answered by whichever expert the model chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from superweights.adaptation.bench import benched
from superweights.adaptation.dispatch import Experts
from superweights.adaptation.expert import load_expert, load_experts
from superweights.findings.adaptation import Answers
from superweights.progress import Progress, silent
from superweights.record import Record


def adapt_answer(
    model: Any,
    experts: Path | str,
    prompts: Sequence[str],
    *,
    classifier: Path | str | None = None,
    expert: str | None = None,
    new_tokens: int = 64,
    stop: str | None = None,
    chat: bool = False,
    progress: Progress = silent,
) -> Record:
    """A record of `findings.Answers`: each prompt's answer, which expert gave it, why, and what each pass took.

    `experts` is a folder of experts, `classifier` one trained to choose among them (None: the base chooses), `expert`
    the name of the one that is to answer (`other`: the base).
    """
    held = [e for e in load_experts(Path(experts)) if classifier is None or e.name != Path(classifier).name]
    chooser = None if classifier is None else load_expert(Path(classifier))
    with benched(model, chat=chat, progress=progress) as bench:
        factors = bench.factors_of(*held, *([chooser] if chooser else []))
        here = Experts(bench.model, bench.reader, factors, held, chooser)
        answers = []
        for done, prompt in enumerate(prompts):
            progress("answering", done, len(prompts))
            answers.append(here.answer(prompt, new_tokens=new_tokens, stop=stop, expert=expert))
        shares = [a.choice.seconds / a.seconds for a in answers if a.seconds and a.choice.seconds]
        first = sum(shares) / len(shares) if shares else None
        found = Answers([asdict(answer) for answer in answers], first)
        return Record.of("adapt answer", bench.checkpoint, findings=found)
