"""The prompts of relations put to a model: which it completes, in two halves, to find units and to judge them."""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.interpretability.relations.prompts import Relation
from superweights.interpretability.relations.units import by_length
from superweights.interpretability.study import Study
from superweights.record import Score
from superweights.scoring import token_losses
from superweights.scoring.error import mean_error
from superweights.subject import device_of
from superweights.subject.text import encode

# The answer: so many greedy tokens must begin the object.
_TOKENS = 2
_FEWEST = 2


class Examination:
    """Prompts of all relations, half of each (by seed) for finding units, the other for judging them.

    A prompt is completed when the model's two greedy tokens begin the object. `evaluation[name]` are the numbers of
    the pairs that judge.
    """

    def __init__(self, study: Study, relations: Sequence[Relation]):
        if study.tokenizer is None:
            raise SuperweightsError(
                "Prompts need a tokenizer.", hint="put its tokenizer.json beside the weights."
            )
        self.study = study
        self.relations = {relation.name: relation for relation in relations}
        self.names = tuple(self.relations)
        self.evaluation: dict[str, list[int]] = {}
        self._detection: dict[str, list[int]] = {}
        self._completed: dict[str, Tensor] = {}
        for name, relation in self.relations.items():
            order = list(range(len(relation.pairs)))
            random.Random(f"{study.seed} {name}").shuffle(order)
            half = len(order) // 2
            self._completed[name] = self._asked(relation, relation.template, order)
            right = dict(zip(order, self._completed[name].tolist(), strict=True))
            self._detection[name] = [n for n in order[:half] if right[n]]
            self.evaluation[name] = order[half:]
            if len(self._detection[name]) < _FEWEST:
                found = len(self._detection[name])
                raise SuperweightsError(
                    f"The model completes {found} of the {half} prompts that should find the units of {name!r}.",
                    hint="give prompts that it can complete, in its language and format.",
                )

    def completed(self, name: str) -> Score:
        """The share of a relation's prompts that the model completes."""
        return self.score(name, self._completed[name])

    def completed_in_detection(self, name: str) -> list[int]:
        """The numbers of the pairs that find units: those of the first half that the model completes."""
        return self._detection[name]

    def prompt_ids(self, name: str, pair: int) -> list[int]:
        """The tokens of one prompt."""
        relation = self.relations[name]
        return self._ids(relation.template.format(relation.pairs[pair][0]))

    def right(self) -> dict[str, Tensor]:
        """Which evaluation prompts of each relation the model completes as it now is: `[prompts]`."""
        return {
            name: self._asked(relation, relation.template, self.evaluation[name])
            for name, relation in self.relations.items()
        }

    def accuracies(self) -> tuple[Score, ...]:
        """The accuracy on each relation's evaluation prompts."""
        return tuple(self.score(name, held) for name, held in self.right().items())

    def score(self, name: str, right: Tensor) -> Score:
        """The share of prompts that are `right`."""
        values = right.double()
        return Score(f"accuracy, {name}", values.mean().item(), "of prompts", len(values), mean_error(values))

    def reworded(self, relation: Relation) -> Score | None:
        """The accuracy on the evaluation pairs asked for in other words; None where there are no others."""
        if relation.other_template is None:
            return None
        pairs = self.evaluation[relation.name]
        return self.score(f"{relation.name}, reworded", self._asked(relation, relation.other_template, pairs))

    def neutral(self, relation: Relation) -> Tensor | None:
        """The mean loss `[sentences]` of sentences that only mention the objects; None where there are none."""
        if relation.neutral is None:
            return None
        objects = dict.fromkeys(relation.pairs[n][1] for n in self.evaluation[relation.name])
        sentences = [self._ids(relation.neutral.format(each)) for each in objects]
        losses = torch.empty(len(sentences), dtype=torch.float64)
        for rows, ids in by_length(sentences):
            losses[rows] = token_losses(self.study.model, ids).double().mean(1)
        return losses

    def _asked(self, relation: Relation, template: str, pairs: Sequence[int]) -> Tensor:
        """Whether the model completes each of `pairs`, asked for by `template`.

        Two greedy tokens begin the object just when each is the most likely one after the prompt and the object's
        tokens before it; so one pass over the prompt with the object behind it tells.
        """
        prompts, answers = [], []
        for number in pairs:
            subject, answer = relation.pairs[number]
            prompts.append(self._ids(template.format(subject)))
            answers.append(encode(self.study.tokenizer, f" {answer}")[:_TOKENS])
        right = torch.zeros(len(prompts), dtype=torch.bool)
        whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        model: Any = self.study.model
        few = (
            {"logits_to_keep": _TOKENS + 1}
            if "logits_to_keep" in inspect.signature(model.forward).parameters
            else {}
        )
        for rows, ids in by_length(whole):
            with torch.no_grad():
                said = model(input_ids=ids.to(device_of(model)), use_cache=False, **few).logits[
                    :, -_TOKENS - 1 : -1
                ]
            greedy = said.argmax(-1).cpu()
            for at, row in enumerate(rows):
                length = len(answers[row])
                right[row] = greedy[at, -length:].tolist() == answers[row]
        return right

    def _ids(self, text: str) -> list[int]:
        tokenizer: Any = self.study.tokenizer
        return [*([tokenizer.bos_token_id] if self.study.bos else []), *encode(tokenizer, text)]
