"""Which numbers of a result stand in the lab's tables, under which title, and how they are read there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from superweights.lab.result import Result


@dataclass(frozen=True)
class Column:
    """A column: its title, what it says in words, how to read it from a result, and how to write it."""

    title: str
    says: str
    read: Callable[[Result], float | None]
    style: str = "{:.3g}"
    """How the number is written."""

    def text(self, value: float | None) -> str:
        """The number as it stands in a table; nothing where it is unknown."""
        return "" if value is None else self.style.format(value)


def _end(name: str) -> Callable[[Result], float | None]:
    return lambda result: getattr(result.end, name) if result.end is not None else None


def _in(name: str, key: str) -> Callable[[Result], float | None]:
    return lambda result: getattr(result.end, name).get(key) if result.end is not None else None


def _null(result: Result) -> float | None:
    """What the null slot gets, of an attention that has one; nothing elsewhere."""
    if result.end is None or result.end.row_sum is None or result.recipe.architecture.kind.null == "none":
        return None
    return 1 - result.end.row_sum


_SHARE, _NUMBER, _PENALTY = "{:.1%}", "{:.1f}", "{:+.3f}"

COLUMNS: tuple[Column, ...] = (
    Column("loss", "held-out loss, nats per token", _end("loss"), "{:.4f}"),
    Column("loss, copy", "of the tokens that are to be copied", _in("loss_by_role", "copy"), "{:.4f}"),
    Column("loss, bigram", "of the tokens that are drawn", _in("loss_by_role", "bigram"), "{:.4f}"),
    Column("chance", "argmax share and mass of attention that makes no difference", _end("uniform_mass"), _SHARE),
    Column("argmax", "queries (and heads) whose largest weight is on token 0; rows of zeros left out",
           _end("argmax_share"), _SHARE),
    Column("mass", "mean weight on token 0", _end("mass"), _SHARE),
    Column("mass, proxy", "the same of |A| over its rows' sums", _end("mass_proxy"), _SHARE),
    Column("mass, copying", "mass, proxy of the queries that have to copy", _in("mass_by_role", "copy"), _SHARE),
    Column("mass, idle", "mass, proxy of the queries that have nothing to copy", _in("mass_by_role", "bigram"), _SHARE),
    Column("Sink^0.3", "heads whose mean weight on token 0 is above 0.3", _end("sink_rate"), _SHARE),
    Column("Sink^0.3, proxy", "the same of |A| over its rows' sums", _end("sink_rate_proxy"), _SHARE),
    Column("null", "weight that goes to the null slot", _null, _SHARE),
    Column("zeros", "exact zeros among causal entries", _end("causal_zeros"), _SHARE),
    Column("dead", "heads that give nothing", _end("dead_heads"), _SHARE),
    Column("drain", "norm of token 0's value over the others'", _end("value_drain"), "{:.2f}"),
    Column("|x| t=0", "largest activation of token 0", _end("peak_first"), _NUMBER),
    Column("|x| t>0", "largest activation of the other tokens", _end("peak_others"), _NUMBER),
    Column("norm ratio", "norm of token 0 over the mean of all", _end("norm_ratio"), "{:.2f}"),
    Column("kurt_channel t=0", "over the channels of token 0; Gaussian 3", _end("kurtosis_channel_first"), _NUMBER),
    Column("kurt_channel t>0", "over the channels of other tokens; Gaussian 3", _end("kurtosis_channel_others"),
           _NUMBER),
    Column("rotated t=0", "kurt_channel t=0 after a random rotation", _in("rotated_first", "random"), _NUMBER),
    Column("own basis t=0", "kurt_channel t=0 in the optimizer's own basis", _in("rotated_first", "own"), _NUMBER),
    Column("kurt_neuron", "of the channels' sizes; 1: all alike", _end("kurtosis_neuron"), "{:.2f}"),
    Column("kurt_flat", "of everything pooled; Gaussian 3", _end("kurtosis_flat"), _NUMBER),
    Column("super weights", "that a search has proven", _end("super_weights"), "{:.3g}"),
    Column("W8A8", "perplexity added: weights and activations at 8 bits, one scale for each tensor",
           _in("penalties", "W8A8 coarse"), _PENALTY),
    Column("W6A6", "at 6 bits, weights by output channel", _in("penalties", "W6A6 moderate"), _PENALTY),
    Column("W4", "weights at 4 bits with a zero point", _in("penalties", "W4 zero point"), _PENALTY),
    Column("W3", "weights at 3 bits with a zero point", _in("penalties", "W3 zero point"), _PENALTY),
    Column("tokens/s", "tokens per CPU second of training, on the machine as loaded as it was",
           lambda result: result.tokens_per_cpu_second, "{:,.0f}"),
    Column("optimizer kB", "bytes that the optimizer remembers, in thousands",
           lambda result: result.optimizer_bytes / 1000, "{:,.0f}"),
    Column("parameters", "numbers that are learned",
           lambda result: result.start.parameters if result.start is not None else None, "{:,.0f}"),
)  # fmt: skip
