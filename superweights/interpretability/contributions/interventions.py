"""Which measure finds the tokens that matter? Comprehensiveness and sufficiency (DeYoung et al., arXiv 1911.03429).

At the last token of a text the model predicts a next one. Each measure ranks the tokens before it; the best
ranked are taken out of the text (comprehensiveness: how far the prediction falls) or left alone
(sufficiency: how far it falls with nothing else). A measure that knows what matters has a large first number
and a small second. Random tokens are the control. Source of the comparison: arXiv 2606.07604.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.asking import ask
from superweights.interpretability.contributions.answer import MEASURES, Contributions
from superweights.interpretability.contributions.question import ContributionReduction
from superweights.interpretability.interventions import DRAWS
from superweights.interpretability.rows import score_of
from superweights.interpretability.study import Study
from superweights.picture import Panel
from superweights.record import Score
from superweights.taps import Site, tapping

SHARE = 0.2
CONTROL = "random"


@dataclass(frozen=True)
class Faithfulness:
    """What a measure's best tokens are worth: falls of the log-probability of the model's own prediction, nats."""

    measure: str
    comprehensiveness: Score
    """The fall when its best tokens are taken out."""
    sufficiency: Score
    """The fall when only they are left."""


@dataclass(frozen=True)
class ContributionsTested:
    """The contributions, and how well each measure finds the tokens that matter; `removed` of each text's."""

    contributions: Contributions
    faithfulness: tuple[Faithfulness, ...]
    """One for each measure."""
    removed: int

    def scores(self) -> tuple[Score, ...]:
        return self.contributions.scores()

    def sheets(self) -> tuple[Sheet, ...]:
        rows = [
            (f"{'control: ' if each.measure == CONTROL else ''}{each.measure}", each.comprehensiveness.value,
             each.comprehensiveness.standard_error, each.sufficiency.value, each.sufficiency.standard_error)
            for each in self.faithfulness
        ]  # fmt: skip
        note = (
            f"log-probability of the predicted token falls by, nats: without the {self.removed} best tokens (more "
            "is better), with nothing but them (less is better)"
        )
        columns = ("ranked by", "comprehensiveness", "±", "sufficiency", "±")
        return (*self.contributions.sheets(), Sheet("Which measure finds what matters", columns, rows, note))

    def panels(self) -> tuple[Panel, ...]:
        return self.contributions.panels()


def investigate(study: Study, share: float = SHARE) -> ContributionsTested:
    """The contributions, and the comparison of measures on the study's texts: `share` of the tokens are taken.

    The last token is never taken out: it makes the prediction.
    """
    reduction = ContributionReduction()
    contributions = study.ask(reduction)[0]
    tokens = study.ids.shape[1] - 1
    count = round(share * tokens)
    if not 0 < count < tokens:
        raise SuperweightsError(
            f"A share of {share:g} takes {count} of {tokens} tokens.",
            hint="take some and leave some, for example 0.2.",
        )
    generator = torch.Generator().manual_seed(study.seed)
    ranks: dict[str, list[Tensor]] = {name: [reduction.last_query(name)[:, :-1]] for name in MEASURES}
    ranks[CONTROL] = [torch.rand(len(study.ids), tokens, generator=generator) for _ in range(DRAWS)]
    falls = compared(study.model, study.ids, ranks, count)
    found = [
        Faithfulness(
            name,
            score_of(f"comprehensiveness, {name}", without, "nats"),
            score_of(f"sufficiency, {name}", alone, "nats"),
        )
        for name, (without, alone) in falls.items()
    ]
    return ContributionsTested(contributions, tuple(found), count)


def compared(
    model: nn.Module, ids: Tensor, ranks: Mapping[str, list[Tensor]], count: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """For each measure the falls `[n]` without its `count` best tokens, and with them alone.

    `ids [n, T]`; a rank `[n, T - 1]` is over all tokens but the last; several ranks of one name are averaged.
    """
    whole = _last_log_probabilities(model, ids)
    predicted = whole.argmax(-1, keepdim=True)
    before = whole.gather(1, predicted)[:, 0]

    def fall(kept: Tensor) -> Tensor:
        """`kept [n, T - 1]` says which tokens stay before the last."""
        left = torch.cat([ids[:, :-1][kept].view(len(ids), -1), ids[:, -1:]], 1)
        return before - _last_log_probabilities(model, left).gather(1, predicted)[:, 0]

    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, each in ranks.items():
        pairs = []
        for rank in each:
            best = torch.zeros_like(ids[:, :-1], dtype=torch.bool).scatter_(
                1, rank.topk(count, 1).indices, True
            )
            pairs.append((fall(~best), fall(best)))
        without, alone = zip(*pairs, strict=True)
        found[name] = torch.stack(without).mean(0), torch.stack(alone).mean(0)
    return found


def _last_log_probabilities(model: nn.Module, ids: Tensor) -> Tensor:
    """What the model predicts after each row: log-probabilities `[n, V]`."""
    seen: list[Tensor] = []
    with tapping(model, {Site("head_logits"): lambda logits: seen.append(logits[:, -1].float().cpu())}):
        ask(model, ids)
    return torch.cat(seen).log_softmax(-1)
