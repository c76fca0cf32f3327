"""The questions: a word for the command line, what it asks, and the file that answers. Imports nothing heavy.

To add one: a file in this room (a wing, where it has interventions or an answer of its own), a line here, a test (see
CONTRIBUTING.md). The file has

- `reduction(study) -> Reduction` when one pass answers it: it is then part of `all`;
- `investigate(study) -> Answer` otherwise. A question that can also intervene names the file that does (`causal`),
  which has an `investigate(study)` too; so no two files need each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from superweights.errors import SuperweightsError

if TYPE_CHECKING:
    from superweights.interpretability.study import Study


@dataclass(frozen=True)
class Question:
    """A word, what it asks in one line, and what its file offers.

    `file` is the module in this room; `one_pass` says that it has `reduction(study)`. `causal` names the module whose
    `investigate(study)` intervenes when `study.causal` is set (None: the question only looks). `everywhere`: it has a
    meaning beyond decoders of text, and for each tower of a model.
    """

    word: str
    asks: str
    file: str
    one_pass: bool = True
    causal: str | None = None
    everywhere: bool = False

    def check_meaning(self, study: Study) -> None:
        """Raise `SuperweightsError` where the question has no meaning for the model's objective or tower."""
        from superweights.subject import objective_of

        name = objective_of(study.model).name
        if (name == "next-token" and study.tower is None) or (self.everywhere and not study.causal):
            return
        asked = f"{self.word} --causal" if study.causal else self.word
        where = f"a model of the objective {name}" if study.tower is None else f"the tower {study.tower}"
        raise SuperweightsError(
            f"The question {asked} has no meaning for {where}: it is about decoders of text.",
            hint=f"ask {', '.join(question.word for question in QUESTIONS if question.everywhere)}.",
        )

    def form(self, causal: bool) -> type:
        """The dataclass of its answer: what its file says that it gives back."""
        intervenes = causal and self.causal is not None
        home = import_module(f"superweights.interpretability.{self.causal if intervenes else self.file}")
        if intervenes or not self.one_pass:
            return getattr(home, home.investigate.__annotations__["return"])
        reduction = getattr(home, home.reduction.__annotations__["return"])
        return getattr(home, reduction.answer.__annotations__["return"])

    def answer(self, study: Study) -> Any:
        """The answer for `study`. Raises `SuperweightsError` where interventions are asked of a question
        that has none, and where the question has no meaning for the model's objective or tower."""
        self.check_meaning(study)
        if study.causal and self.causal is None:
            raise SuperweightsError(
                f"The question {self.word} has no intervention.", hint="leave out --causal."
            )
        file = self.causal if study.causal and self.causal is not None else self.file
        home = import_module(f"superweights.interpretability.{file}")
        if study.causal or not self.one_pass:
            return home.investigate(study)
        return study.ask(home.reduction(study))[0]


QUESTIONS: tuple[Question, ...] = (
    Question(
        "massive",
        "where massive activations are born, carried, erased; by which weight",
        "massive.question",
        causal="massive.interventions",
        everywhere=True,
    ),
    Question(
        "sinks",
        "where attention goes when there is nothing to say: token 0",
        "sinks.question",
        causal="sinks.interventions",
        everywhere=True,
    ),
    Question(
        "contributions",
        "which tokens make a layer's output",
        "contributions.question",
        causal="contributions.interventions",
    ),
    Question(
        "kurtosis",
        "how heavy the tails of the activations are, and in which features",
        "kurtosis",
        everywhere=True,
    ),
    Question("dimension", "how many directions the residual stream uses", "dimension", everywhere=True),
    Question(
        "sparsity",
        "how sparse the neurons are, how far they spike, whether weights drifted",
        "sparsity",
        everywhere=True,
    ),
    Question(
        "depth",
        "how far each block turns the stream; what is lost without it",
        "depth.question",
        causal="depth.question",
        everywhere=True,
    ),
    Question(
        "redundancy",
        "which attentions, MLPs and blocks could be dropped",
        "redundancy",
        causal="redundancy",
        everywhere=True,
    ),
    Question(
        "linearity", "how close each block is to a linear map, token by token", "linearity", one_pass=False
    ),
    Question("jacobian", "how close each block is to doing nothing", "jacobian", one_pass=False),
    Question(
        "information",
        "what each sub-layer adds: new directions or a new mixture",
        "information",
        one_pass=False,
        everywhere=True,
    ),
    Question("lens", "what the model would say after each block", "lens", one_pass=False),
    Question(
        "replacement",
        "what attention is worth: other weights in its place",
        "attention_ablation.question",
        one_pass=False,
        everywhere=True,
    ),
    Question(
        "memory",
        "how much of the text before it a token remembers",
        "hidden_state_inversion.question",
        one_pass=False,
    ),
    Question(
        "relations", "which units know a relation, such as capitals", "relations.question", one_pass=False
    ),
    Question(
        "words",
        "what stop words, punctuation and articles are worth",
        "stopword_ablation.question",
        one_pass=False,
    ),
)


def question_named(word: str) -> Question:
    """The question called `word`. Raises `SuperweightsError` with the list for any other word."""
    found = next((question for question in QUESTIONS if question.word == word), None)
    if found is None:
        raise SuperweightsError(
            f"There is no question {word!r}.",
            hint=f"ask one of {', '.join(question.word for question in QUESTIONS)}, all.",
        )
    return found


def answer_all(study: Study) -> dict[str, Any]:
    """The answers of every one-pass question, by word, in a single pass; a refusal stands in its place, in words."""
    from superweights.interpretability.body import Body

    Body.of(study.model, study.tower)  # a model or a tower that cannot be read at all is refused here
    answers: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    for question in QUESTIONS:
        if not question.one_pass:
            continue
        home = import_module(f"superweights.interpretability.{question.file}")
        refusal = _refusal(study, question, home)
        answers[question.word] = refusal
        if refusal is None:
            asked[question.word] = home.reduction(study)
    if asked:
        answers |= dict(zip(asked, study.ask(*asked.values()), strict=True))
    return answers


def _refusal(study: Study, question: Question, home: Any) -> str | None:
    """Why this model or these tokens cannot be asked the question whose file is `home`, or None."""
    from superweights.interpretability.body import Body

    try:
        question.check_meaning(study)
        reduction = home.reduction(study)
        reduction.taps(Body.of(study.model, study.tower))
        reduction.begin(study.ids[:1])
    except SuperweightsError as error:
        return error.message
    return None
