"""The token shift: whose probability rises and whose falls when a model is changed, over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from superweights.errors import SuperweightsError
from superweights.findings import TokenChange, TokenShift
from superweights.progress import Progress
from superweights.record import Score
from superweights.scoring.compare import kl_nats
from superweights.scoring.error import bootstrap, mean_error
from superweights.scoring.loss import as_variant
from superweights.scoring.predictions import Predictions, Variant
from superweights.scoring.words import pad_right
from superweights.subject import check_windows, vocabulary_of

# Declared, because "stop words" means whatever its author had in mind: function words and the punctuation
# that goes with them. A token counts when it is one of these after trimming spaces and case.
_WRITTEN = """
    a an the and or but nor so if then than as because while of to in on at by for with from into over under
    about after before between through up down out off is am are was were be been being has have had do does
    did will would can could should may might must not no i me my he him his she her it its we us our you your
    they them their this that these those there here who which what when where how all any some
    . , ; : ! ? ' " ( ) - ...
"""
STOP_WORDS = frozenset(_WRITTEN.split())

# A ratio of two means says something only where one of them is at least this large.
RATIO_FLOOR = 1e-4


def token_shift(
    base: nn.Module | Variant,
    other: nn.Module | Variant,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]] | Tensor,
    *,
    stop_words: Iterable[str] = STOP_WORDS,
    top: int = 20,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> TokenShift:
    """How the distribution of the token after each of `prompts` (token ids) moves from `base` to `other`.

    Distributions are averaged over prompts in float64, over the full vocabulary. Any broken model drifts
    towards frequent words: compare with another change that does equal damage before calling it a finding.

    Source: Figure 5 of arXiv 2411.07191. We differ: it lists the 100 tokens most likely in the original
    model, so that mass going elsewhere is not seen (Mistral-7B loses four fifths of the listed mass); it
    averages in float16; and it has no list of stop words.
    """
    reader = _Reader(as_variant(base), as_variant(other), tokenizer, stop_words)
    rows = [list(map(int, row)) for row in prompts]
    if not rows or not all(rows):
        raise SuperweightsError("A prompt is empty.", hint="give prompts of one token or more.")
    for start in range(0, len(rows), batch_size):
        reader.read(rows[start : start + batch_size])
        if progress is not None:
            progress("token shift", min(start + batch_size, len(rows)), len(rows))
    return reader.shift(top, seed)


class _Reader:
    """Sums over prompts, and the means to look at single tokens again."""

    def __init__(self, base: Variant, other: Variant, tokenizer: Any, stop_words: Iterable[str]):
        self._pair, self._tokenizer = (base, other), tokenizer
        size = vocabulary_of(base.model)
        self._stops = _matching(tokenizer, frozenset(stop_words), size)
        self._sums = torch.zeros(2, size, dtype=torch.float64)
        self._numbers: list[Tensor] = []
        self._seen: list[tuple[Predictions, Predictions]] = []

    def read(self, rows: list[list[int]]) -> None:
        """Add the distributions after `rows`."""
        ids = pad_right(rows)
        at = torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])
        for variant in self._pair:
            check_windows(variant.model, ids, shortest=1)
        one, two = (Predictions(variant, ids, at) for variant in self._pair)
        for piece in one.pieces():
            log_p, log_q = (functional.log_softmax(each.logits(piece).cpu(), -1) for each in (one, two))
            p, q = log_p.double().exp(), log_q.double().exp()
            self._sums += torch.stack([p.sum(0), q.sum(0)])
            entropies = [-torch.special.xlogy(each, each).sum(-1) for each in (p, q)]
            stops = [each[:, self._stops].sum(-1) for each in (p, q)]
            self._numbers.append(torch.stack([*entropies, kl_nats(log_p, log_q).double(), *stops]))
        self._seen.append((one, two))

    def shift(self, top: int, seed: int) -> TokenShift:
        """What has been found."""
        numbers = torch.cat(self._numbers, dim=1)
        n = numbers.shape[1]
        base, other = self._sums / n
        groups = _groups(base, other, top)
        named = self._describe(sorted({token for group in groups.values() for token in group}), n, seed)
        h_base, h_other, kl, stop_base, stop_other = numbers
        told: dict[str, Any] = {
            name: tuple(named[token] for token in group) for name, group in groups.items()
        }
        return TokenShift(
            prompts=n,
            **told,
            entropy_base=_mean("entropy", h_base, "nats"),
            entropy_other=_mean("entropy", h_other, "nats"),
            kl=_mean("KL(base || other)", kl, "nats/token"),
            stop_words_base=_mean("stop-word mass", stop_base, "probability"),
            stop_words_other=_mean("stop-word mass", stop_other, "probability"),
            stop_words_change=_mean("stop-word mass change", stop_other - stop_base, "probability"),
        )

    def _describe(self, tokens: list[int], n: int, seed: int) -> dict[int, TokenChange]:
        """Each token's change with its errors, from its probability after every single prompt."""
        chosen = torch.tensor(tokens)
        sides = [torch.cat([_after(pair[side], chosen) for pair in self._seen]) for side in (0, 1)]
        both = torch.stack(sides, dim=2)  # [prompts, tokens, 2]
        found = {}
        for k, token in enumerate(tokens):
            before, after = both[:, k].mean(0).tolist()
            interval = None
            if n > 1 and before > 0:
                ratios = bootstrap(both[:, k], lambda means: means[:, 1] / means[:, 0], seed)
                low, high = ratios.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
                interval = low, high
            change = _mean("probability change", both[:, k, 1] - both[:, k, 0], "probability")
            ratio = after / before if before > 0 else None
            text = self._tokenizer.decode([token])
            found[token] = TokenChange(token, text, before, after, change, ratio, interval)
        return found


def _groups(base: Tensor, other: Tensor, top: int) -> dict[str, list[int]]:
    """The tokens worth naming, most striking first."""
    rise = other - base
    ratio = torch.where((base > RATIO_FLOOR) | (other > RATIO_FLOOR), (other / base).log(), torch.nan)
    return {
        "leading": _largest(base, top),
        "gained": [token for token in _largest(rise, top) if rise[token] > 0],
        "lost": [token for token in _largest(-rise, top) if rise[token] < 0],
        "gained_ratio": [token for token in _largest(ratio.nan_to_num(-torch.inf), top) if ratio[token] > 0],
        "lost_ratio": [token for token in _largest((-ratio).nan_to_num(-torch.inf), top) if ratio[token] < 0],
    }


def _largest(values: Tensor, top: int) -> list[int]:
    return values.topk(min(top, len(values))).indices.tolist()


def _after(predictions: Predictions, tokens: Tensor) -> Tensor:
    """The probability of each of `tokens` after each prompt: `[prompts, tokens]`, float64."""
    return torch.cat(
        [
            functional.log_softmax(predictions.logits(piece).cpu(), -1)[:, tokens].double().exp()
            for piece in predictions.pieces()
        ]
    )


def _matching(tokenizer: Any, words: frozenset[str], size: int) -> Tensor:
    """The token ids whose text, trimmed and in lower case, is one of `words`."""
    texts = tokenizer.batch_decode([[token] for token in range(min(size, len(tokenizer)))])
    return torch.tensor(
        [i for i, text in enumerate(texts) if text.strip().lower() in words], dtype=torch.long
    )


def _mean(name: str, values: Tensor, unit: str) -> Score:
    return Score(name, values.mean().item(), unit, len(values), mean_error(values))
