"""What a model predicts, with the logits of a few tokens in memory at a time.

A vocabulary is large (one window of 2,048 tokens has a gigabyte of logits at 128,000 words), so the model
runs once up to its hidden states, and its own forward then makes the logits from them piece by piece: the
part below the head is made to answer with the hidden states that it has just computed. Whatever the model
does after them (scaling, soft-capping, a bias) is therefore the model's own code. Models whose logits cannot
be made that way are noticed, and run one row at a time instead.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from superweights.axes import Float, Int
from superweights.subject import Batch, device_of, vocabulary_of

# Logits in memory at a time, in bytes of float32.
PIECE_BYTES = 1 << 25
# And where whole rows have to run for them.
_ROWS_BYTES = 1 << 27


@dataclass(frozen=True, eq=False)
class Variant:
    """A model, and the change under which it is read: entered for each use, left after it.

    `Variant(model, lambda: edited(model, edits, verify=False))` is the edited model; `Variant(model)` the
    model as it is. `change` is entered several times.
    """

    model: nn.Module
    change: Callable[[], AbstractContextManager[Any]] = nullcontext


class Predictions:
    """What `variant` predicts at some tokens of a batch: logits `[k, vocabulary]`, handed out in pieces.

    `batch` goes through the model once (token ids `[rows, length]` alone for a model that reads nothing else); `at` is
    `(row, position)` of each of the `k` tokens, None: those that the batch scores.
    """

    def __init__(self, variant: Variant, batch: Batch | Tensor, at: tuple[Tensor, Tensor] | None = None):
        self._variant = variant
        held = Batch({"input_ids": batch}) if isinstance(batch, Tensor) else batch
        self._batch = held.to(device_of(variant.model))
        self._count = len(held)
        self._rows, self._positions = (index.to(self._device) for index in at or held.at)
        self._latest: tuple[int, Tensor] | None = None
        self._output: Any = None
        self._hidden: Tensor | None = None
        with torch.no_grad(), variant.change():
            self._run()

    def pieces(self) -> Iterator[slice]:
        """Slices of the tokens, each small enough for its logits."""
        step = max(1, PIECE_BYTES // (4 * vocabulary_of(self._variant.model)))
        for start in range(0, len(self._rows), step):
            yield slice(start, min(start + step, len(self._rows)))

    @torch.no_grad()
    def logits(self, piece: slice) -> Tensor:
        """The logits of one piece `[tokens, vocabulary]`, float32."""
        rows, positions = self._rows[piece], self._positions[piece]
        with self._variant.change():
            if self._hidden is not None:
                return self._replay(self._hidden[piece], self._ids_of(rows, positions)).float()
            return torch.cat([self._whole_row(int(row))[positions[rows == row]] for row in rows.unique()])

    @property
    def _device(self) -> torch.device:
        return next(iter(self._batch.arguments.values())).device

    def _ids_of(self, rows: Tensor, positions: Tensor) -> Tensor:
        """The tokens at some places."""
        return self._batch.arguments["input_ids"][rows, positions]

    def _run(self) -> None:
        """Keep the hidden states at our tokens, when the model's logits can be made from them."""
        model, backbone = self._variant.model, _backbone(self._variant.model)
        if backbone is None or set(self._batch.arguments) != {"input_ids"}:
            return
        ids = self._batch.arguments["input_ids"]
        seen: list[Any] = []
        hook = backbone.register_forward_hook(lambda *called: seen.append(called[2]))
        try:
            last = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        finally:
            hook.remove()
        output = seen[0] if len(seen) == 1 else None
        hidden = getattr(output, "last_hidden_state", None)
        if output is None or hidden is None or hidden.shape[:2] != ids.shape:
            return
        self._output = copy.copy(output)
        again = self._replay(hidden[-1, -1:], ids[-1, -1:])
        if _agree(again, last[-1].float()):
            self._hidden = hidden[self._rows, self._positions]

    def _replay(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The model's own logits `[tokens, vocabulary]` for the hidden states `[tokens, width]`."""
        model = self._variant.model
        backbone = _backbone(model)
        assert backbone is not None
        self._output.last_hidden_state = hidden[None]
        with _answering(backbone, self._output):
            return model(input_ids=ids[None], use_cache=False).logits[0]

    def _whole_row(self, row: int) -> Tensor:
        """All logits of one row `[length, vocabulary]`, float32; the rows that ran with the latest one are kept."""
        first = row - row % self._abreast
        if self._latest is None or self._latest[0] != first:
            self._latest = None
            some = self._batch.take(slice(first, min(first + self._abreast, self._count)))
            cache = {"use_cache": False} if takes(self._variant.model, "use_cache") else {}
            self._latest = first, self._variant.model(**some.arguments, **cache).logits
        return self._latest[1][row - first].float()

    @property
    def _abreast(self) -> int:
        """How many whole rows run at once, so that their logits fit into a few pieces."""
        row = 4 * vocabulary_of(self._variant.model) * max(1, self._batch.length)
        return max(1, _ROWS_BYTES // row)


def first_choices(logits: Float[Tensor, "*rows vocabulary"]) -> Int[Tensor, "*rows"]:
    """The most likely token of each row `[...]`; of several alike the first.

    On a processor by numpy, on the same memory: over a vocabulary torch's argmax takes ten to twenty times as long.
    """
    if logits.device.type != "cpu" or logits.dtype not in (torch.float32, torch.float64):
        return logits.argmax(-1)
    return torch.from_numpy(logits.detach().numpy().argmax(-1))


def _backbone(model: nn.Module) -> nn.Module | None:
    """The part of `model` that makes the hidden states, where its forward can be asked for few logits."""
    found = getattr(model, getattr(model, "base_model_prefix", "") or "", None)
    return (
        found
        if takes(model, "logits_to_keep") and isinstance(found, nn.Module) and found is not model
        else None
    )


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward has an argument of this name."""
    return argument in inspect.signature(model.forward).parameters


def _agree(again: Tensor, last: Tensor) -> bool:
    """Whether two computations of the same logits differ by rounding alone."""
    scale = last.abs().nan_to_num(posinf=0, neginf=0).max().item()
    return again.shape == last.shape and torch.allclose(
        again.float(), last, rtol=0, atol=0.02 * scale, equal_nan=True
    )


@contextmanager
def _answering(module: nn.Module, output: Any) -> Iterator[None]:
    """`module` answers every call with `output`, without computing."""
    own = module.__dict__.get("forward")
    module.forward = lambda *_, **__: output  # type: ignore[method-assign]
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own  # type: ignore[method-assign]
