"""Which expert answers a prompt: asked of the model itself in a first pass, over labels of which one says "none"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from superweights.adaptation.applying import composed_weight, standing_in, turned
from superweights.adaptation.expert import Expert
from superweights.adaptation.factors import Factors
from superweights.adaptation.matrices import is_packed
from superweights.adaptation.speaking import Reader, complete, continued, score
from superweights.adaptation.tasks import Example
from superweights.errors import SuperweightsError

OTHER = "other"


@dataclass(frozen=True)
class Choice:
    """Which expert was chosen (`other`: none, the base answers), by which strategy, and why.

    `chances` are the shares of probability that the model gave to each label, which is the reason in numbers;
    `seconds` is how long the choosing took.
    """

    expert: str
    strategy: str
    chances: Mapping[str, float]
    seconds: float

    def __str__(self) -> str:
        told = ", ".join(f"{name} {chance:.2f}" for name, chance in self.chances.items())
        return f"{self.expert} ({self.strategy}: {told})"


@dataclass(frozen=True)
class Answer:
    """What was answered, by whom, why, and what each pass took in seconds."""

    prompt: str
    """What was asked."""
    text: str
    """What was answered."""
    choice: Choice
    """By whom, and why."""
    seconds: float
    """What answering took, choosing not counted."""


def classifying_prompt(prompt: str, labels: Mapping[str, str]) -> str:
    """The prompt by which the model is asked which label another prompt belongs to.

    Source: Transformer², section 3.2 and appendix: the base is asked for one of code, math, reasoning and other. There
    it writes the label; here the labels' own probabilities are compared, one pass and no text to parse.
    """
    listed = "\n".join(f"{name}: {about}" for name, about in labels.items())
    return f"Kinds of question:\n{listed}\n\nQuestion:\n{prompt}\n\nThe kind of this question is"


class Experts:
    """A model with its experts at hand: each one's weights are composed at most once and then swapped in.

    `classifier`, an expert itself, makes the first pass where it is given (the published Cls-expert); else the base
    does (the published Prompt). Up to `resident` experts keep their composed weights in memory.
    """

    def __init__(
        self,
        model: nn.Module,
        reader: Reader,
        factors: Mapping[str, Factors],
        experts: Sequence[Expert],
        classifier: Expert | None = None,
        *,
        resident: int = 4,
    ):
        names = [expert.name for expert in experts]
        if not experts or OTHER in names or len(set(names)) < len(names):
            raise SuperweightsError(
                f"Experts {', '.join(names) or '(none)'} cannot be chosen among.",
                hint=f"give one or more, of different names, none called {OTHER!r}.",
            )
        self.model, self.reader, self.factors = model, reader, factors
        self.experts = {expert.name: expert for expert in experts}
        self.classifier, self.resident = classifier, resident
        self._composed: dict[str, dict[str, Tensor]] = {}
        self._labels = {e.name: e.about or e.name for e in experts} | {OTHER: "anything else"}

    def on(self, name: str) -> AbstractContextManager[Any]:
        """The model with this expert; `other` is the base, bit for bit, whoever answered before."""
        if name == OTHER:
            return nullcontext()
        expert = self.experts[name]
        if any(is_packed(self.model.get_submodule(path)) for path in expert.z):
            return turned(self.model, self.factors, expert.z)
        return standing_in(self.model, self._weights(expert))

    def choose(self, prompt: str) -> Choice:
        """The expert for a prompt: the label that the model finds likeliest after the question, per token."""
        began = perf_counter()
        first = turned(self.model, self.factors, self.classifier.z) if self.classifier else nullcontext()
        asked = self.reader.prompt(classifying_prompt(prompt, self._labels))
        labels = [self.reader.answer(f" {label}") for label in self._labels]
        with torch.no_grad(), first:
            means = _label_scores(self.model, asked, labels)
        chances = dict(zip(self._labels, means.softmax(0).tolist(), strict=True))
        strategy = "classifier expert" if self.classifier else "prompt"
        return Choice(max(chances, key=lambda name: chances[name]), strategy, chances, perf_counter() - began)

    def answer(
        self, prompt: str, *, new_tokens: int = 64, stop: str | None = None, expert: str | None = None
    ) -> Answer:
        """The answer in two passes: choose (unless `expert` says who answers), then answer."""
        if expert is not None and expert not in self._labels:
            raise SuperweightsError(
                f"There is no expert called {expert!r}.", hint=f"there are {', '.join(self._labels)}."
            )
        choice = Choice(expert, "asked for", {}, 0.0) if expert is not None else self.choose(prompt)
        began = perf_counter()
        with self.on(choice.expert):
            said = complete(self.model, self.reader, [prompt], new_tokens=new_tokens, stop=stop)[0]
        return Answer(prompt, said.text, choice, perf_counter() - began)

    def _weights(self, expert: Expert) -> dict[str, Tensor]:
        """The composed weights of an expert; the one not asked for longest makes room."""
        held = self._composed.pop(expert.name, None)
        if held is None:
            held = {}
            for path, z in expert.z.items():
                if bool((z != 1).any()):
                    module = self.model.get_submodule(path)
                    held[path] = composed_weight(module, path, self.factors[path], z)
            while len(self._composed) >= self.resident:
                self._composed.pop(next(iter(self._composed)))
        self._composed[expert.name] = held
        return held


def classification_examples(
    tasks: Mapping[str, Sequence[Example]], experts: Mapping[str, str]
) -> list[Example]:
    """Examples that teach a classifier expert: each task's prompts as they are put in the first pass, answer its name.

    `experts` are names and what they are for, `other` among them if it is to be learnt.
    """
    labels = experts if OTHER in experts else {**experts, OTHER: "anything else"}
    choices = tuple(f" {label}" for label in labels)
    return [
        Example(classifying_prompt(example.prompt, labels), f" {name}", choices)
        for name, examples in tasks.items()
        for example in examples
    ]


def _label_scores(model: nn.Module, asked: Sequence[int], labels: Sequence[Sequence[int]]) -> Tensor:
    """The mean log-probability per token of each label after the question, `[labels]`.

    One pass over the question. Labels of several tokens go on from its cache, all together; where the model has none
    that can be shared, each goes through with the question.
    """
    if all(len(label) == 1 for label in labels):
        log_p = score(model, [(asked, [0])]).log_p[0]
        return log_p[torch.tensor([label[0] for label in labels])].cpu()
    shared = continued(model, asked, labels)
    if shared is not None:
        return torch.stack([each.mean() for each in shared])
    scored = score(model, [(asked, label) for label in labels])
    each = scored.of_tokens().cpu()
    sizes = torch.tensor([len(label) for label in labels])
    return torch.zeros(len(labels)).index_add_(0, scored.row.cpu(), each) / sizes
