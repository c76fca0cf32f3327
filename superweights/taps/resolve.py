"""Where the sites of a model are: found and checked on one random batch, once for each model."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from superweights.errors import SuperweightsError
from superweights.subject import Batch, device_of, objective_of
from superweights.subject.blocks import blocks_in, find_blocks, towers_of
from superweights.subject.facts import forward, predicted, vocabulary_of
from superweights.taps.attention import opened_attention
from superweights.taps.identities import places_in
from superweights.taps.site import INSIDE_ATTENTION, Site, SiteMap, SitePlace
from superweights.taps.trace import CANNOT_RUN, BlockTrace, Recorder

# A prime number of tokens, which no other dimension of a model is likely to have.
_ROWS, _TOKENS = 2, 13
# How far eager attention may be from the model's own choice, as a share of the largest logit.
_AGREE, _AGREE_HALF = 1e-3, 5e-2

_known: weakref.WeakKeyDictionary[nn.Module, tuple[int, dict[str | None, SiteMap]]] = (
    weakref.WeakKeyDictionary()
)


def sites_of(model: nn.Module, tower: str | None = None) -> SiteMap:
    """Where `model` has which site, and why it lacks the others.

    `tower` names one of several stacks of blocks (an encoder, a vision tower); None is the last one, which predicts. A
    block that runs several times in a pass is as many layers.

    Two passes over a random batch of 2 x 13 tokens the first time, in eval mode; afterwards remembered until
    the model's modules change. The first pass is the model as it is, the second has eager attention and is
    observed: where the two disagree, the inside of attention is refused, because the model's attention
    then ignores the interface or its mask.

    Raises `SuperweightsError` for a model without blocks, a tower that it does not have, and one that a text does not
    reach.
    """
    signature = hash(tuple((path, type(module)) for path, module in model.named_modules()))
    known = _known.get(model)
    if known is None or known[0] != signature:
        known = _known[model] = signature, {}
    if tower not in known[1]:
        with _evaluating(model), torch.no_grad():
            known[1][tower] = _resolve(model, tower)
    return known[1][tower]


def _resolve(model: nn.Module, tower: str | None) -> SiteMap:
    blocks = find_blocks(model)
    if not blocks:
        raise SuperweightsError(
            f"{type(model).__name__} has no list of blocks.", hint="taps work on models made of blocks."
        )
    chosen = blocks if tower is None else blocks_in(model, tower)
    batch = objective_of(model).batch(_random_ids(model), whole=True)
    try:
        with _last_of(blocks) as ran:
            plain = predicted(forward(model, batch))
        if tower is None and ran:
            towers = towers_of(blocks)
            chosen = {path: block for path, block in blocks.items() if towers[path] == towers[ran[-1]]}
        search = _Search(model, chosen)
        recorded = search.run(batch)
    except CANNOT_RUN as error:
        raise SuperweightsError(
            f"{type(model).__name__} could not run a batch of {_ROWS} x {_TOKENS} tokens: {_first_line(error)}",
            hint="taps work on models that can be called as model(input_ids=ids).",
        ) from error
    if not search.order:
        raise SuperweightsError(
            f"The tower {tower} of {type(model).__name__} does not run on text alone.",
            hint="read the model with --objective image, which needs its processor.",
        )
    return search.site_map(_disagreement(plain, recorded))


@contextmanager
def _last_of(blocks: dict[str, nn.Module]) -> Iterator[list[str]]:
    """A list of one path: the block that has run last inside the `with`."""
    last: list[str] = []
    hooks = [
        block.register_forward_pre_hook(lambda *_, path=path: last.__setitem__(slice(None), [path]))
        for path, block in blocks.items()
    ]
    try:
        yield last
    finally:
        for hook in hooks:
            hook.remove()


class _Search:
    """The observed pass, and the places found in it block by block (a streamed block is gone afterwards)."""

    def __init__(self, model: nn.Module, blocks: dict[str, nn.Module]):
        self.model = model
        self.order: list[str] = []
        self.tokens: int | None = None
        self.places: dict[Site, SitePlace] = {}
        self.refused: dict[Site, str] = {}
        self.recorder = Recorder(model, blocks, self._note)

    def run(self, batch: Batch) -> Tensor:
        """What is predicted in the observed pass."""
        with self.recorder.hooked(), opened_attention(self.model, _Listening(self.recorder)):
            embedded = _Embedded(self.model)
            with embedded.hooked():
                output = forward(self.model, batch)
        self._settle("embed", embedded.place, "its input embedding gives no row of numbers for each token")
        self._settle("final_norm_in", self._final_norm(), "no norm reads the last block's output")
        has_logits = isinstance(getattr(output, "logits", None), Tensor)
        self._settle("head_logits", SitePlace("", "logits") if has_logits else None, "the model has no head")
        return predicted(output)

    def site_map(self, disagreement: str | None) -> SiteMap:
        if disagreement is not None:
            for site in [s for s in self.places if s.kind in INSIDE_ATTENTION]:
                del self.places[site]
                self.refused[site] = disagreement
        return SiteMap(tuple(self.order), self.places, self.refused, self.tokens)

    def _note(self, trace: BlockTrace) -> None:
        layer = len(self.order)
        self.order.append(trace.path)
        self.tokens = trace.before.shape[1] if trace.before.dim() == 3 else None
        places, refused = places_in(trace)
        self.places |= {Site(kind, layer): place for kind, place in places.items()}
        self.refused |= {Site(kind, layer): reason for kind, reason in refused.items()}

    def _settle(self, kind: str, place: SitePlace | None, reason: str) -> None:
        if place is not None:
            self.places[Site(kind)] = place
        else:
            self.refused[Site(kind)] = reason

    def _final_norm(self) -> SitePlace | None:
        last = self.recorder.last
        for call in self.recorder.outside:
            given, out = call.inputs[:1], call.output
            if last is None or out is None or not given or out.shape != last.shape:
                continue
            if torch.equal(given[0], last) and not torch.equal(out, last):
                return SitePlace(call.path, "input")
        return None


class _Embedded:
    """Whether the model's input embedding gives one row for each token."""

    def __init__(self, model: nn.Module):
        try:
            found = model.get_input_embeddings()  # type: ignore[operator]
        except CANNOT_RUN:
            found = None
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._module: nn.Module | None = found if id(found) in self._paths else None
        self.place: SitePlace | None = None

    @contextmanager
    def hooked(self) -> Iterator[None]:
        if self._module is None:
            yield
            return
        with self._module.register_forward_hook(self._note):
            yield

    def _note(self, module: nn.Module, args: tuple, out: Any) -> None:
        if isinstance(out, Tensor) and out.shape[:-1] == (_ROWS, _TOKENS):
            self.place = SitePlace(self._paths[id(module)], "output")


class _Listening:
    """Tells the recorder about attention, and changes nothing. Implements `attention.Listener`."""

    def __init__(self, recorder: Recorder):
        self._recorder = recorder

    def enter(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._recorder.note_attention(q, v)
        return q, k, v

    def leave(self, module: nn.Module) -> None:
        pass

    def wants_softmax(self, module: nn.Module) -> bool:
        return True

    def before_softmax(self, tensor: Tensor) -> Tensor:
        self._recorder.note_softmax(tensor)
        return tensor

    def after_softmax(self, tensor: Tensor) -> Tensor:
        return tensor


def _random_ids(model: nn.Module) -> Tensor:
    """Random tokens `[2, 13]` where the model takes its input."""
    device = device_of(model)
    try:
        size = vocabulary_of(model)
    except CANNOT_RUN:
        size = 8
    generator = torch.Generator().manual_seed(0)
    return torch.randint(size, (_ROWS, _TOKENS), generator=generator).to(device)


def _disagreement(plain: Tensor, recorded: Tensor) -> str | None:
    """What to say where the two passes predict differently, or None."""
    allowed = _AGREE if plain.dtype in (torch.float32, torch.float64) else _AGREE_HALF
    largest = plain.float().abs().max().item()
    apart = (plain.float() - recorded.float()).abs().max().item()
    if apart <= allowed * largest:
        return None
    return f"with eager attention the model's logits change by {apart:.3g} of {largest:.3g}"


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, each module's own mode put back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
