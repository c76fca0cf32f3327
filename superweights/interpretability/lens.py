"""What the model would say after each block: the logit lens, as it is and as LLM-Microscope published it.

Source: LLM-Microscope (arXiv 2502.15007, equations 5 and 6): the loss of the true next token when the head
reads the residual stream after each block. The head expects the final norm, so the standard lens applies it;
the published code does not (its last entry, taken after the norm, is then the only comparable one), and scores
its own most likely token instead of the true one. Both are given here for the true token, labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.interpretability.answer import Sheet
from superweights.interpretability.body import Body
from superweights.interpretability.words_of import number
from superweights.picture import Panel, Series, line_chart
from superweights.record import Score
from superweights.scoring.error import mean_error
from superweights.scoring.predictions import first_choices
from superweights.taps import Site, Tap, tapping

# Tokens that the lens is held over, at most: each costs the head twice for each layer. Bytes of logits at a time.
TOKENS, _BYTES = 256, 1 << 23


@dataclass(frozen=True)
class LayerLens:
    """The stream before block 0 (`embed`) or after a block: the loss of the next token with the final norm, and
    without it as published, in nats; how often the next token, and the model's own choice, comes first.
    """

    layer: int | None
    """The block, counted from 0; None before the first."""
    loss: Score
    """With the final norm."""
    loss_without_norm: Score
    """As published, without it."""
    right: float
    """How often the next token comes first, a share."""
    as_the_model: float
    """How often the model's own choice does."""


@dataclass(frozen=True)
class Lens:
    """The lens over `tokens` tokens; `final` is the model's own loss on them."""

    layers: tuple[LayerLens, ...]
    """Before the first block, then after each."""
    final: Score
    tokens: int

    def scores(self) -> tuple[Score, ...]:
        return (self.final,)

    def sheets(self) -> tuple[Sheet, ...]:
        titles = (
            "after",
            "loss, nats",
            "without norm, as published",
            "next token first",
            "model's choice first",
        )
        rows = [
            (
                "embed" if each.layer is None else each.layer,
                number(each.loss),
                number(each.loss_without_norm),
                each.right,
                each.as_the_model,
            )
            for each in self.layers
        ]
        note = f"{self.tokens} tokens; the model's own loss on them is {self.final}."
        return (Sheet("logit lens", titles, rows, note),)

    def panels(self) -> tuple[Panel, ...]:
        inside = [each for each in self.layers if each.layer is not None]
        series = [
            Series("with the final norm", [(e.layer or 0, e.loss.value) for e in inside]),
            Series(
                "without, as published",
                [(e.layer or 0, e.loss_without_norm.value) for e in inside],
                dashed=True,
            ),
        ]
        return (line_chart("loss of the next token after each block", "layer", "nats", series, log=True),)


class Lenses:
    """The question as a reduction over the given layers (all by default), on a seeded sample of tokens."""

    def __init__(self, of: int, layers: Sequence[int] | None = None, tokens: int = TOKENS, seed: int = 0):
        """`of` is how many tokens with a successor the whole text has."""
        if of < 1:
            raise SuperweightsError("Windows of one token have no next token.", hint="use longer windows.")
        order = torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:tokens]
        self._wanted = torch.zeros(of, dtype=torch.bool).index_fill_(0, order, True)
        self._layers, self._done, self._step = layers, 0, 1
        self._losses: dict[tuple[Any, bool], list[Tensor]] = {}
        self._tops: dict[Any, list[Tensor]] = {}
        self._at = torch.empty(0, dtype=torch.long)
        self._targets: list[Tensor] = []
        self._final: list[tuple[Tensor, Tensor]] = []
        self._head: Callable[[Tensor, bool], Tensor] | None = None

    def taps(self, body: Body) -> Mapping[Site, Tap]:
        self._head = own_head(body)
        vocabulary = body.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        self._step = max(1, _BYTES // (4 * vocabulary))
        layers = range(body.layers) if self._layers is None else self._layers
        body.sites.place(Site("block_in", 0))
        taps: dict[Site, Tap] = {Site("block_in", 0): lambda h: self._look(None, h)}
        for layer in layers:
            taps[Site("block_out", layer)] = lambda h, layer=layer: self._look(layer, h)
        return taps | {Site("final_norm_in"): self._finish}

    def begin(self, ids: Tensor) -> None:
        rows, tokens = ids.shape
        wanted = self._wanted[self._done : self._done + rows * (tokens - 1)].reshape(rows, tokens - 1)
        self._done += rows * (tokens - 1)
        self._at = functional.pad(wanted, (0, 1)).flatten().nonzero()[:, 0].to(ids.device)
        self._targets.append(ids.flatten()[self._at + 1])

    def _look(self, layer: Any, hidden: Tensor) -> None:
        chosen = hidden.flatten(0, 1)[self._at]
        tops = []
        assert self._head is not None
        for norm in (True, False):
            losses, best = self._through(chosen, norm)
            self._losses.setdefault((layer, norm), []).append(losses)
            tops.append(best)
        self._tops.setdefault(layer, []).append(tops[0])

    def _through(self, chosen: Tensor, norm: bool) -> tuple[Tensor, Tensor]:
        """Losses and first choices of `chosen [n, d]`, a few tokens' logits at a time."""
        losses, best = [torch.empty(0)], [torch.empty(0, dtype=torch.long)]
        assert self._head is not None
        for start in range(0, len(chosen), self._step):
            logits = self._head(chosen[start : start + self._step], norm).float()
            target = self._targets[-1][start : start + self._step]
            losses.append(functional.cross_entropy(logits, target, reduction="none").cpu())
            best.append(first_choices(logits).cpu())
        return torch.cat(losses), torch.cat(best)

    def _finish(self, hidden: Tensor) -> None:
        self._final.append(self._through(hidden.flatten(0, 1)[self._at], True))

    def answer(self) -> Lens:
        final, own = (torch.cat(part) for part in zip(*self._final, strict=True))
        targets = torch.cat(self._targets).cpu()
        layers = []
        for layer, tops in self._tops.items():
            best = torch.cat(tops)
            layers.append(
                LayerLens(
                    layer,
                    _mean("loss", torch.cat(self._losses[layer, True])),
                    _mean("loss without norm", torch.cat(self._losses[layer, False])),
                    (best == targets).double().mean().item(),
                    (best == own).double().mean().item(),
                )
            )
        return Lens(tuple(layers), _mean("the model's own loss", final), len(final))


def own_head(body: Body) -> Callable[[Tensor, bool], Tensor]:
    """What turns residual streams `[n, d]` into logits `[n, V]`, with the final norm or without it.

    The model's own forward, in which the part that ends with the last norm answers with the given states, so
    that whatever stands behind it (a bias, soft-capping, a scale) is in it. Raises `SuperweightsError` where it
    cannot be asked.
    """
    model: Any = body.model
    norm = body.module(Site("final_norm_in"))
    below = body.sites.place(Site("final_norm_in")).path.rpartition(".")[0]
    if not below:
        raise SuperweightsError(
            f"The head of {type(model).__name__} cannot be asked alone.", hint="ask another question of it."
        )
    backbone = model.get_submodule(below)

    def head(states: Tensor, with_norm: bool) -> Tensor:
        states = norm.forward(states[None]) if with_norm else states[None]
        with _answering(backbone, states):
            ids = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
            return model.forward(input_ids=ids, use_cache=False).logits[0]

    return head


@contextmanager
def _answering(backbone: nn.Module, states: Tensor) -> Iterator[None]:
    """`backbone` answers every call with `states`, without computing."""
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    own = backbone.__dict__.get("forward")
    backbone.forward = lambda *_, **__: BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)  # type: ignore[method-assign]
    try:
        yield
    finally:
        if own is None:
            del backbone.forward
        else:
            backbone.forward = own  # type: ignore[method-assign]


def check_head(body: Body, ids: Int[Tensor, "n T"]) -> None:
    """Raise `SuperweightsError` unless `own_head` makes the model's own logits of what its last norm reads."""
    head, seen = own_head(body), {}
    with torch.no_grad(), tapping(body.model, {Site("final_norm_in"): lambda h: seen.update(last=h.clone())}):
        true = body.model(input_ids=ids, use_cache=False).logits[0].float()
        again = head(seen["last"][0], True).float()
    apart, largest = (true - again).abs().max().item(), true.abs().max().item()
    if not apart <= 0.02 * largest:
        raise SuperweightsError(
            f"The head of {type(body.model).__name__} cannot be asked alone: its logits come out {apart:.3g} of "
            f"{largest:.3g} apart.",
            hint="ask another question of it.",
        )


def investigate(study: Any) -> Lens:
    """The question for `study`, over 256 of its tokens."""
    n, tokens = study.ids.shape
    body = Body.of(study.model)
    check_head(body, study.ids[:1, :8].to(body.device))
    return study.ask(Lenses(n * (tokens - 1), seed=study.seed))[0]


def _mean(name: str, values: Tensor) -> Score:
    return Score(name, values.double().mean().item(), "nats", len(values), mean_error(values))
