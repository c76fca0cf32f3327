"""How much of the text before it a token remembers: the prefix, read back from that token's hidden states.

Source: LLM-Microscope (arXiv 2502.15007, section 3.2, equation 4): the contextualization score of a token, the loss
of its prefix given its states; low means that much is remembered. Where we differ: every prefix has the same
length (a longer one is harder, which would be mistaken for position), and the score stands beside two controls:
a reader of the same make and training that is given nothing (the unconditional loss), and the trained reader
given another text's states. What it says of a token is the difference.

The paper trains a copy of each model on six corpora and reports models of 1.3 to 13 billion parameters. Here a
few hundred tokens and some dozens of steps, with the copy frozen, run on two cores in minutes: differences between
kinds of tokens are to be trusted before the level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.interpretability.hidden_state_inversion.reader import Trained, Training, train_reader
from superweights.interpretability.study import Study
from superweights.interpretability.words_of import number
from superweights.picture import Panel, Series, line_chart
from superweights.progress import labelled
from superweights.record import Score
from superweights.scoring import STOP_WORDS
from superweights.scoring.error import bootstrap_error
from superweights.taps import Site, Tap

# Tokens of the prefix, tokens read back from in all, and the share of windows that are held out.
PREFIX, TOKENS, _HELD_OUT = 8, 384, 4


@dataclass(frozen=True)
class KindOfToken:
    """The held-out tokens of one kind: what their prefixes cost given their states, over the unconditional loss
    (below zero: remembered).
    """

    kind: str
    tokens: int
    nats: Score
    """Nats per prefix token, given the states."""
    beyond_unconditional: Score
    """The same less the unconditional loss, paired."""


@dataclass(frozen=True)
class Memory:
    """Contextualization of held-out tokens, nats per prefix token: given their states, nothing, and the states of
    another text. `by_distance` is the gain for the nearest, second nearest ... token of the prefix; `mix` the
    pooling's weight of each layer.
    """

    given_states: Score
    """Loss of a prefix given its own states."""
    unconditional: Score
    """Loss given nothing."""
    given_others: Score
    """Loss given another text's states."""
    gain: Score
    """What a token's own states save, paired."""
    kinds: tuple[KindOfToken, ...]
    """By kind of token."""
    by_distance: tuple[float, ...]
    mix: tuple[float, ...]
    position_correlation: float
    """Of the gain with the token's position."""
    training: Training
    """How the reader was trained."""
    trained_on: int
    """How many tokens it was trained on."""

    def scores(self) -> tuple[Score, ...]:
        return (self.given_states, self.unconditional, self.given_others, self.gain)

    def sheets(self) -> tuple[Sheet, ...]:
        rows = [
            ("its own states", number(self.given_states)),
            ("nothing (trained alike)", number(self.unconditional)),
            ("another text's states", number(self.given_others)),
        ]
        how = "trained with the reader" if self.training.copy else "frozen"
        note = (
            f"{len(self.by_distance)} tokens of prefix; trained on {self.trained_on} tokens for {self.training.steps} "
            f"steps of {self.training.batch}, the reading model {how}. The paper trains a copy on six corpora for "
            f"models of 1.3 to 13 billion parameters. Correlation of the gain with position: "
            f"{self.position_correlation:.2f}."
        )
        kinds = [(k.kind, k.tokens, number(k.nats), number(k.beyond_unconditional)) for k in self.kinds]
        return (
            Sheet("the prefix read back from one token", ("given", "nats per prefix token"), rows, note),
            Sheet(
                "by kind of token",
                ("token is a", "tokens", "nats per prefix token", "beyond unconditional"),
                kinds,
            ),
        )

    def panels(self) -> tuple[Panel, ...]:
        near = [Series("gain", [(n + 1, gain) for n, gain in enumerate(self.by_distance)])]
        mix = [Series.over_layers("weight of the layer", self.mix)]
        return (
            line_chart(
                "how far back a token remembers", "tokens before it", "unconditional minus given, nats", near
            ),
            line_chart("layers that the pooling reads", "layer", "weight", mix),
        )


class States:
    """The states of chosen tokens after every block, as a reduction: answers with `[n, L, d]`."""

    def __init__(self, at: Tensor):
        """`at [n, 2]` are the window and the position of each, by window."""
        self._at = at
        self._row = self._rows = 0
        self._kept: dict[int, list[Tensor]] = {}

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        return {site: lambda h, layer=site.layer: self._keep(layer, h) for site in body.every("block_out")}

    def begin(self, ids: Tensor) -> None:
        self._row, self._rows = self._rows, self._rows + len(ids)

    def _keep(self, layer: Any, hidden: Tensor) -> None:
        here = self._at[(self._at[:, 0] >= self._row) & (self._at[:, 0] < self._rows)].to(hidden.device)
        self._kept.setdefault(layer, []).append(hidden[here[:, 0] - self._row, here[:, 1]].float().clone())

    def answer(self) -> Tensor:
        return torch.stack([torch.cat(self._kept[layer]) for layer in sorted(self._kept)], 1)


def investigate(study: Study, training: Training | None = None) -> Memory:
    """The question for `study`. Raises `SuperweightsError` for fewer than eight windows and for windows shorter
    than a prefix and two tokens.
    """
    training = training or Training(seed=study.seed)
    at = _chosen(study.ids, study.seed)
    (states,) = study.ask(States(at))
    prefixes = torch.stack([study.ids[row, i - PREFIX : i] for row, i in at.tolist()]).to(states.device)
    held = at[:, 0] % _HELD_OUT == _HELD_OUT - 1
    reader = train_reader(
        study.model, states[~held], prefixes[~held], training, labelled(study.progress, "reader")
    )
    nothing = torch.zeros_like(states)
    without = train_reader(
        study.model, nothing[~held], prefixes[~held], training, labelled(study.progress, "unconditional")
    )
    given = reader.nats(states[held], prefixes[held])
    unconditional = without.nats(nothing[held], prefixes[held])
    others = reader.nats(_of_others(states[held], at[held, 0]), prefixes[held])
    return _memory(study, at[held], given, unconditional, others, reader, training, int((~held).sum()))


def _chosen(ids: Tensor, seed: int) -> Tensor:
    """Which tokens are read back from: `[n, 2]`, window and position, at most 384, the same for all windows."""
    n, tokens = ids.shape
    if n < 2 * _HELD_OUT or tokens < PREFIX + 2:  # two windows held out: each is the other's foreign text
        raise SuperweightsError(
            f"Reading back needs {2 * _HELD_OUT} windows of {PREFIX + 2} tokens, got {n} of {tokens}.",
            hint="use longer windows, or more of them.",
        )
    each = max(1, min(tokens - PREFIX, TOKENS // n))
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.stack(
            [torch.full((each,), row), PREFIX + torch.randperm(tokens - PREFIX, generator=generator)[:each]],
            1,
        )
        for row in range(min(n, TOKENS))
    ]
    return torch.cat(rows)


def _of_others(states: Tensor, windows: Tensor) -> Tensor:
    """For each token the states of a token of another window."""
    order = torch.arange(len(states))
    shift = next(s for s in range(1, len(states)) if bool((windows != windows.roll(s)).all()))
    return states[order.roll(shift)]


def _memory(
    study: Study,
    at: Tensor,
    given: Tensor,
    unconditional: Tensor,
    others: Tensor,
    reader: Trained,
    training: Training,
    trained_on: int,
) -> Memory:
    change = (given - unconditional).mean(1).cpu()
    words = [_kind(study.tokenizer, int(study.ids[row, i])) for row, i in at.tolist()]
    kinds = []
    for kind in sorted(set(words)):
        mine = torch.tensor([word == kind for word in words])
        kinds.append(
            KindOfToken(
                kind,
                int(mine.sum()),
                _score("nats", given.mean(1).cpu()[mine], at[mine, 0]),
                _score("beyond unconditional", change[mine], at[mine, 0]),
            )
        )
    both = torch.stack([at[:, 1].double(), change])
    return Memory(
        _score("prefix given the token's states", given.mean(1), at[:, 0]),
        _score("prefix given nothing", unconditional.mean(1), at[:, 0]),
        _score("prefix given another text's states", others.mean(1), at[:, 0]),
        _score("gain over nothing", -change, at[:, 0]),
        tuple(kinds),
        tuple((unconditional - given).mean(0).flip(0).tolist()),
        tuple(reader.reader.mix.softmax(0).tolist()),
        float(torch.corrcoef(both)[0, 1]) if len(change) > 2 else float("nan"),
        training,
        trained_on,
    )


def _kind(tokenizer: Any, token: int) -> str:
    """What kind of token it is, by its text alone."""
    if tokenizer is None:
        return "token"
    word = tokenizer.decode([token]).strip().lower()
    if not any(ch.isalnum() for ch in word):
        return "punctuation mark"
    return "stop word" if word in STOP_WORDS else "content word or part"


def _score(name: str, values: Tensor, windows: Tensor) -> Score:
    """The mean of `values [n]`, one for each token, with its bootstrap error over the `windows [n]` they stand in:
    tokens of one window read much of the same text, and are no independent samples."""
    rows = [values.double().cpu()[windows == window] for window in windows.unique()]
    sums = torch.tensor([[row.sum(), len(row)] for row in rows], dtype=torch.float64)
    error = bootstrap_error(sums, lambda means: means[:, 0] / means[:, 1])
    return Score(name, values.mean().item(), "nats per prefix token", len(rows), error)
