"""The lab's attentions on models that exist already, for the length of a `with`.

Our functions stand in transformers' attention interface under the names `sdpa` and `eager`, so that the mask is the one
that the mask interface makes for the implementation the model uses. (Under a new name without a mask, attention sees
the future; under one with a mask, some families still leave out what they add for these two names only.) Under `sdpa`
no matrix of weights is made where it can be avoided; under `eager` there is one, and taps see it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from superweights.errors import SuperweightsError
from superweights.lab.parts.blockwise import attend_in_blocks
from superweights.lab.parts.null_kernel import additive, attend_with_null
from superweights.lab.parts.null_slot import softmax_with_null
from superweights.lab.parts.weighing import WEIGH
from superweights.taps.attention import own_eager
from superweights.taps.weighing import weighed

# What needs no parameter that would have to be learned.
KINDS = (
    *("softmax", "softmax1", "null_logit", "sigmoid", "sigmoid_normalized", "sigmoid_log", "elu"),
    *("elu_normalized", "linear_kernel", "relu", "softpick", "rectified"),
)

# What families' attention functions take by name: arguments of all, and those that are dealt with below. A window is
# in the mask already.
_KNOWN = {
    *("module", "query", "q", "key", "value", "attention_mask", "scaling", "dropout", "kwargs"),
    *("softcap", "position_bias", "s_aux", "sinks", "sliding_window", "cache", "is_causal"),
}


@dataclass(eq=False)
class Replaced:
    """What `attention_of` gives: the kind, its null logit (None: no slot), and how many attentions have gone through
    it so far."""

    kind: str
    null_logit: Tensor | None
    calls: int = 0
    modules: frozenset[int] = field(default=frozenset(), repr=False)


@contextmanager
def attention_of(model: nn.Module, kind: str, null_logit: float | Tensor | None = None) -> Iterator[Replaced]:
    """`model` with the softmax of its attention replaced by `kind`, one of `KINDS`; everything put back at the end.

    `null_logit` belongs to the kind of that name: one number, or one for each head. A model that has a sink of its own
    (gpt-oss) keeps it beside ours. Masks, windows, grouped heads, capped scores and caches are the model's own.

    Raises `SuperweightsError` for an unknown kind; after a forward pass in which no attention came by (a model whose
    attention does not use the interface, or uses another implementation than sdpa and eager); and for what a kind
    cannot do: dropout, a position bias that learns.

    >>> with attention_of(model, "softmax1"):  # doctest: +SKIP
    ...     model(input_ids=tokens)
    """
    replaced = _checked(model, kind, null_logit)
    before = replaced.calls

    def begin(*_: Any) -> None:
        nonlocal before
        before = replaced.calls

    def end(*_: Any) -> None:
        if replaced.calls == before:
            raise SuperweightsError(
                f"No attention of {type(model).__name__} came by in a forward pass: {kind} was not used.",
                hint="it works on models that use transformers' attention interface, with sdpa or eager attention.",
            )

    handles = model.register_forward_pre_hook(begin), model.register_forward_hook(end)
    try:
        with _standing_in(replaced):
            yield replaced
    finally:
        for handle in handles:
            handle.remove()


def _checked(model: nn.Module, kind: str, null_logit: float | Tensor | None) -> Replaced:
    if kind not in KINDS:
        raise SuperweightsError(
            f"There is no attention {kind!r} for a model as it is.", hint=f"known: {', '.join(KINDS)}."
        )
    if (kind == "null_logit") != (null_logit is not None):
        raise SuperweightsError(
            "null_logit is given with the kind of that name, and only with it.",
            hint="attention_of(model, 'null_logit', null_logit=0.0) is softmax1.",
        )
    logit = {"softmax1": 0.0}.get(kind, null_logit)
    slot = None if logit is None else torch.as_tensor(logit, dtype=torch.float32).reshape(1, -1, 1)
    return Replaced(kind, slot, modules=frozenset(id(module) for module in model.modules()))


_OPEN: list[Replaced] = []
_BEFORE: dict[str, Callable | None] = {}


@contextmanager
def _standing_in(replaced: Replaced) -> Iterator[None]:
    """Our functions under both names while any model is open."""
    if not _OPEN:
        for name, function in _STAND_INS.items():
            _BEFORE[name] = ALL_ATTENTION_FUNCTIONS.get(name)
            ALL_ATTENTION_FUNCTIONS[name] = function
    _OPEN.append(replaced)
    try:
        yield
    finally:
        _OPEN.remove(replaced)
        if not _OPEN:
            for name, function in _BEFORE.items():
                if function is None:
                    del ALL_ATTENTION_FUNCTIONS[name]
                else:
                    ALL_ATTENTION_FUNCTIONS[name] = function


def _stand_in(name: str, attend: Callable) -> Callable:
    """The function for all models under `name`: `attend` for those that are open, what was there for the others."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        found = next((each for each in reversed(_OPEN) if id(module) in each.modules), None)
        if found is None:
            before = _BEFORE[name] or own_eager(module)
            return before(module, query, key, value, attention_mask, *args, **kwargs)
        found.calls += 1
        given = _Given(found, module, query, key, value, attention_mask, kwargs, name)
        out, weights = attend(given)
        return out.transpose(1, 2).contiguous(), weights

    return attention


class _Given:
    """One call of attention: heads repeated for grouped ones, the mask to be added, and how weights are made."""

    def __init__(
        self,
        found: Replaced,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        kwargs: Mapping[str, Any],
        name: str,
    ):
        _refuse(module, mask, kwargs)
        groups = query.shape[1] // key.shape[1]
        self.query = query
        self.key, self.value = (x if groups == 1 else x.repeat_interleave(groups, 1) for x in (key, value))
        causal = kwargs.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
        # a missing mask is a causal one under sdpa and none under eager
        self.causal = name == "sdpa" and mask is None and query.shape[2] > 1 and causal
        self.mask = None if mask is None else additive(mask, query.dtype)[..., : key.shape[2]]  # type: ignore[index]
        if self.causal and key.shape[2] > query.shape[2]:  # a static cache, empty beyond what is asked
            self.key, self.value = (x[:, :, : query.shape[2]] for x in (self.key, self.value))
        if (bias := kwargs.get("position_bias")) is not None:
            self.draw_mask()
            self.mask = bias[..., : self.key.shape[2]] + (0 if self.mask is None else self.mask)
        scaling = kwargs.get("scaling")
        self.scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        self.wants_weights = bool(kwargs.get("output_attentions"))
        self.cap = kwargs.get("softcap")
        own = kwargs.get("s_aux") if kwargs.get("s_aux") is not None else kwargs.get("sinks")
        self.null = _null_logit(found, own)
        self.weigh = WEIGH.get(found.kind)

    def draw_mask(self) -> None:
        """A causal mask as a matrix, where it was only meant."""
        if self.causal:
            tokens = self.query.shape[2]
            self.mask = self.query.new_full((tokens, tokens), -torch.inf).triu(1)[None, None]
            self.causal = False

    def of_scores(self, scores: Tensor) -> Tensor:
        """Weights of masked scores in float32."""
        if self.cap is not None:
            capped = self.cap * torch.tanh(scores / self.cap)
            scores = torch.where(scores > -torch.inf, capped, scores)
        if self.weigh is not None:
            return self.weigh(scores)
        return softmax_with_null(scores, self.null)


def _refuse(module: nn.Module, mask: Any, kwargs: Mapping[str, Any]) -> None:
    bias, strange = kwargs.get("position_bias"), _strange(module, kwargs)
    for refused, what in (
        (kwargs.get("dropout"), "attention dropout"),
        (bias is not None and bias.requires_grad and torch.is_grad_enabled(), "a position bias that learns"),
        (mask is not None and not isinstance(mask, Tensor), "block masks"),
        (kwargs.get("cache") is not None, "paged caches"),
        (strange, f"an attention of its own kind ({strange})"),
    ):
        if refused:
            raise SuperweightsError(
                f"{type(module).__name__} uses {what}, which a replaced attention cannot do.",
                hint="model.eval() turns dropout off; torch.no_grad() turns learning off.",
            )


def _strange(module: nn.Module, kwargs: Mapping[str, Any]) -> str:
    """What the family's own attention function takes by name, is given here, and we know nothing of."""
    try:
        taken = inspect.signature(own_eager(module)).parameters
    except NotImplementedError:
        return ""
    return ", ".join(name for name in taken if name not in _KNOWN and kwargs.get(name) is not None)


def _null_logit(found: Replaced, own: Tensor | None) -> Tensor | None:
    """The null slot's logit; a sink that the model has of its own is a slot beside ours."""
    ours = found.null_logit
    if own is None or found.kind in WEIGH:
        if own is not None:
            raise SuperweightsError(
                f"This model has a learned sink, and {found.kind} has no slot for it.",
                hint="take softmax, softmax1 or null_logit.",
            )
        return ours
    # one number per head, or (inkling2) one per query
    theirs = own.float().reshape(1, -1, 1) if own.ndim == 1 else own.float().squeeze(-1)
    return theirs if ours is None else torch.logaddexp(theirs, ours.to(theirs.device))


def _without_a_matrix(given: _Given) -> tuple[Tensor, Tensor | None]:
    """Output [B, H, T, d_v]; weights only where they are asked for."""
    # blocks know nothing of heads, so a slot beside capped scores has a matrix (transformers has one for every cap)
    if given.wants_weights or (given.cap is not None and given.weigh is None):
        given.draw_mask()
        return _with_a_matrix(given)
    held = given.query, given.key, given.value
    how: dict[str, Any] = {"mask": given.mask, "causal": given.causal, "scaling": given.scaling}
    if given.weigh is None:
        if given.null is not None:
            return attend_with_null(*held, given.null.to(given.query.device), **how), None
        out = functional.scaled_dot_product_attention(
            *held, attn_mask=given.mask, is_causal=given.causal, scale=given.scaling
        )
        return out, None
    how["mask"] = None if given.mask is None else given.mask.float()
    return attend_in_blocks(*held, given.of_scores, **how), None


def _with_a_matrix(given: _Given) -> tuple[Tensor, Tensor]:
    """Output and weights [B, H, T, S]; scores and weights are shown to taps."""
    scores = (given.query @ given.key.transpose(2, 3)).float() * given.scaling
    if given.mask is not None:
        scores = scores + given.mask
    weights = weighed(scores, given.of_scores).to(given.value.dtype)
    return weights @ given.value, weights


_STAND_INS = {"sdpa": _stand_in("sdpa", _without_a_matrix), "eager": _stand_in("eager", _with_a_matrix)}
