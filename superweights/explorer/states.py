"""What the page shows, without the page: a weight, a factor and a prompt in, a stream of states out.

One model serves everybody. An edit lasts for one step (a forward pass) under a lock, so that readers with different
factors take turns and never see each other's weights.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch

from superweights.address import Address
from superweights.editing import Edit, edited, weight_value
from superweights.errors import SuperweightsError
from superweights.subject import context_of, device_of, layout_of
from superweights.subject.text import encode
from superweights.taps import Site, sites_of, tapping
from superweights.watch import Product, watching

LARGEST_FACTOR, MOST_TOKENS, LONGEST_PROMPT = 3.0, 200, 2000
_TOP = 10


@dataclass(frozen=True)
class PassSummary:
    """What one pass over the prompt shows: the likeliest next tokens, the residual channel of the weight after each
    block (largest |value| over tokens), and each layer's mean attention on the first token."""

    tokens: tuple[tuple[str, float], ...]
    """With their probabilities."""
    channel: tuple[float, ...]
    """One number for each block."""
    sinks: tuple[float, ...]
    """One share for each layer."""


@dataclass(frozen=True)
class Channel:
    """A channel of the residual stream, for one weight."""

    number: int
    """Its number."""
    own: bool
    """Whether the weight's own product has it as its output; if not, it is the largest one of the stream."""


@dataclass(frozen=True)
class State:
    """One moment: the weight as it stands, what the model reads and what it has written so far."""

    address: str
    """The weight that is pulled."""
    channel: Channel
    """The residual channel that is read."""
    factor: float
    """By how much it is multiplied."""
    value: float
    """What stands there now."""
    prompt: str
    """What the model reads."""
    reading: PassSummary
    """Its pass over the prompt."""
    base: PassSummary
    """The same with the weight as stored."""
    text: str = ""
    """What it has written so far."""
    done: bool = False
    """Whether it has ended."""


@dataclass(eq=False)
class Explorer:
    """A model in memory and the weights that may be pulled.

    `weights` are names shown to people and addresses. `run` may be called from many threads.
    """

    model: Any
    tokenizer: Any
    weights: dict[str, Address]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._base = lru_cache(maxsize=32)(self._base_reading)
        self._channel = lru_cache(maxsize=32)(self._channel_of)

    def run(
        self,
        name: str,
        factor: float,
        prompt: str,
        tokens: int = 40,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[State]:
        """States as they come: first what the prompt shows, then one for each greedy token.

        `wanted` is asked before each step; the stream ends when it says no. Raises `SuperweightsError` for a name,
        factor, prompt or number of tokens that is out of bounds.
        """
        address, ids = self._checked(name, factor, prompt, tokens)
        tokens = int(tokens)
        if not wanted():
            return
        channel = self._channel(address, tuple(ids))
        base = self._base(address, channel, tuple(ids))
        reading = base if factor == 1 else self._read(ids, address, channel, factor)
        value = factor * self.value_of(address) + 0.0  # a negative weight times 0 is 0, not -0
        state = State(str(address), channel, factor, value, prompt, reading, base)
        yield state
        cache, last, written = None, ids, list[int]()
        while len(written) < tokens and wanted():
            token, cache = self._step(last, cache, address, factor)
            if token == self.tokenizer.eos_token_id:
                break
            written.append(token)
            last = [token]
            state = replace(state, text=self.tokenizer.decode(written))
            yield state
        if wanted():
            yield replace(state, done=True)

    def value_of(self, address: Address) -> float:
        """The weight as the checkpoint has it."""
        with self._lock:
            return weight_value(self.model, address)

    def _checked(self, name: str, factor: float, prompt: str, tokens: int) -> tuple[Address, list[int]]:
        if not isinstance(name, str) or name not in self.weights:
            raise SuperweightsError(f"There is no weight {name!r} here.", hint="choose one of the list.")
        if not _is_number(factor) or not 0 <= factor <= LARGEST_FACTOR:
            raise SuperweightsError(
                f"The factor is {factor!r}.", hint=f"give a number from 0 to {LARGEST_FACTOR:g}."
            )
        if not _is_number(tokens) or not 1 <= tokens <= MOST_TOKENS:
            raise SuperweightsError(f"{tokens!r} tokens cannot be written.", hint=f"give 1 to {MOST_TOKENS}.")
        hint = f"give 1 to {LONGEST_PROMPT:,} characters."
        if not isinstance(prompt, str) or not prompt.strip():
            raise SuperweightsError("The prompt is empty.", hint=hint)
        if len(prompt) > LONGEST_PROMPT:
            raise SuperweightsError(f"The prompt has {len(prompt):,} characters.", hint=hint)
        context = context_of(self.model) or 2048
        ids = encode(self.tokenizer, prompt)[-max(context - MOST_TOKENS, 1) :]
        if not ids:
            raise SuperweightsError("The tokenizer makes no token of this prompt.", hint="write other words.")
        return self.weights[name], ids

    def _base_reading(self, address: Address, channel: Channel, ids: tuple[int, ...]) -> PassSummary:
        return self._read(list(ids), address, channel, 1.0)

    @torch.no_grad()
    def _read(self, ids: Sequence[int], address: Address, channel: Channel, factor: float) -> PassSummary:
        """One pass with eyes open."""
        residual: dict[int, float] = {}
        sinks: dict[int, float] = {}
        sites = sites_of(self.model)
        taps: dict[Site, Any] = {}
        for layer in sites.layers_with("block_out"):
            taps[Site("block_out", layer)] = lambda h, n=layer: residual.update(
                {n: float(h[..., channel.number].abs().max())}
            )
        for layer in sites.layers_with("weights"):
            taps[Site("weights", layer)] = lambda w, n=layer: sinks.update(
                {n: float(w[..., 1:, 0].float().mean())}
            )
        with self._lock, self._at(address, factor), tapping(self.model, taps):
            logits = self.model(self._batch(ids)).logits[0, -1].float()
        best = logits.softmax(-1).topk(min(_TOP, len(logits)))
        tokens = tuple(
            (self.tokenizer.decode([i]), p)
            for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
        return PassSummary(
            tokens, tuple(residual[n] for n in sorted(residual)), tuple(sinks[n] for n in sorted(sinks))
        )

    @torch.no_grad()
    def _step(self, ids: Sequence[int], cache: Any, address: Address, factor: float) -> tuple[int, Any]:
        with self._lock, self._at(address, factor):
            out = self.model(self._batch(ids), past_key_values=cache, use_cache=True)
        return int(out.logits[0, -1].argmax()), out.past_key_values

    def _at(self, address: Address, factor: float) -> Any:
        return edited(self.model, [] if factor == 1 else [Edit(address, factor=factor)], verify=False)

    def _batch(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], device=device_of(self.model))

    @torch.no_grad()
    def _channel_of(self, address: Address, ids: tuple[int, ...]) -> Channel:
        """The output channel of the weight, as the products of one pass have it, whichever way it is stored."""
        name, index = layout_of(self.model).parameter_of(address)
        own: list[tuple[int, int]] = []
        largest: dict[int, float] = {}

        def see(product: Product) -> None:
            if product.parameter == name and product.kind != "bias":
                own.extend(_output(product, index))

        def stream(h: torch.Tensor) -> None:
            peak, at = h.abs().flatten(0, -2).amax(0).max(-1)
            largest[int(at)] = max(float(peak), largest.get(int(at), 0.0))
            width.add(h.shape[-1])

        width: set[int] = set()
        taps = {Site("block_out", n): stream for n in sites_of(self.model).layers_with("block_out")}
        with self._lock, watching(self.model, see), tapping(self.model, taps):
            self.model(self._batch(ids))
        fits = [channel for size, channel in own if {size} == width]
        return Channel(fits[0], True) if fits else Channel(max(largest, key=largest.__getitem__), False)


def _output(product: Product, index: tuple[int, ...]) -> list[tuple[int, int]]:
    """How many outputs `product` has and which of them the parameter's element `index` feeds; nothing where none."""
    size = product.operand.shape[0]
    origin, second = (product.index(n, None if product.kind == "gain" else 0) for n in (0, min(1, size - 1)))
    axis = next((n for n, (a, b) in enumerate(zip(origin, second, strict=True)) if a != b), 0)
    channel = index[axis] - origin[axis]
    return [(size, channel)] if 0 <= channel < size else []


def _is_number(given: object) -> bool:
    """Whether it is a number, and not what else JSON can hold."""
    return isinstance(given, int | float) and not isinstance(given, bool)
