"""What a lab model is made of: every dial in one frozen dataclass, checked when it is made. No torch here."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from superweights.errors import SuperweightsError
from superweights.lab.parts.kinds import (
    ACTIVATIONS,
    ATTENTION,
    GATES,
    INITS,
    NORMS,
    PLACEMENTS,
    POSITIONS,
    AttentionKind,
)

_NAMED: Mapping[str, Mapping[str, Any]] = {
    "attention": ATTENTION,
    "gate": GATES,
    "norm": NORMS,
    "placement": PLACEMENTS,
    "activation": ACTIVATIONS,
    "position": POSITIONS,
    "init": INITS,
}
_COUNTS = ("vocabulary", "width", "layers", "heads", "context")


@dataclass(frozen=True)
class Architecture:
    """The design of a decoder. The defaults are the control of testbed A: a small Llama.

    Raises `SuperweightsError` for a part that does not exist (the known ones are listed), for sizes that do not fit
    and for parts that exclude each other.

    >>> Architecture(attention="softmax1").kind.null
    'zero'
    """

    vocabulary: int = 64  # tokens
    width: int = 64  # of the residual stream
    layers: int = 2  # blocks
    heads: int = (
        1  # of the output; differential attention has two query heads for each pair (V1) or head (V2)
    )
    key_value_heads: int | None = None  # None: as many as heads
    head_width: int | None = None  # None: width / heads
    inner: int | None = None  # neurons of the MLP; None: 4 width, and 8/3 of it in eights where gated
    context: int = 48  # the longest sequence it is meant for
    attention: str = "softmax"  # see parts.kinds.ATTENTION
    null_value: bool = False  # the null slot has a learned value (needs an attention with a null slot)
    lime: bool = False  # keys and values are mixed from all layers before (LIMe, 2502.09245)
    gate: str = "none"  # on the heads' outputs, see GATES
    qk_norm: bool = False  # RMSNorm per head on queries and keys, before they are rotated
    norm: str = "rms"  # see NORMS
    norm_epsilon: float = 1e-5  # what every norm adds to the variance
    placement: str = "pre"  # of the norms, see PLACEMENTS
    branch_scale: float | None = None  # beta of the outlier-protected block; None: 1 / sqrt(layers)
    norm_scaling: bool = (
        False  # a norm's output over sqrt(block number), from 1 (LayerNorm Scaling, 2502.05795)
    )
    activation: str = "silu"  # of the MLP, see ACTIVATIONS
    gated: bool = True  # MLP: down(activation(gate x) * up x), else down(activation(up x))
    position: str = "rope"  # see POSITIONS
    rope_theta: float = 10_000.0  # base of the rotation's wavelengths
    init: str = "normal"  # see INITS
    init_std: float = 0.02  # standard deviation of the first weights
    embedding_scale: float | None = (
        None  # factor on embeddings; None: 1, and 1 / init_std in the op placement
    )
    tied: bool = False  # one matrix for embedding and head

    def __post_init__(self) -> None:
        for dial, known in _NAMED.items():
            _check_name(dial, getattr(self, dial), known)
        _check_sizes(self)
        _check_together(self)

    @property
    def kind(self) -> AttentionKind:
        """What is known about this architecture's attention."""
        return ATTENTION[self.attention]

    @property
    def d_head(self) -> int:
        """Width of a query head."""
        return self.head_width or self.width // self.heads

    @property
    def query_heads(self) -> int:
        """Query heads, those that are subtracted included."""
        return 2 * self.heads if self.attention == "differential_v2" else self.heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.key_value_heads or self.heads

    @property
    def neurons(self) -> int:
        """Neurons of the MLP: `inner`, or 4 width; where gated 8/3 width, rounded up to a multiple of 8, so that
        three matrices hold about as much as two."""
        return self.inner or (math.ceil(self.width / 3) * 8 if self.gated else 4 * self.width)

    @property
    def beta(self) -> float:
        """The factor of each sub-layer's write (1 but in the outlier-protected block)."""
        if self.placement != "op":
            return 1.0
        return self.branch_scale if self.branch_scale is not None else 1 / math.sqrt(self.layers)

    @property
    def scale_of_embedding(self) -> float:
        """The factor of the embedding."""
        if self.embedding_scale is not None:
            return self.embedding_scale
        return 1 / self.init_std if self.placement == "op" else 1.0

    def with_(self, **dials: Any) -> Architecture:
        """This architecture with other dials; raises for a dial that does not exist."""
        _check_fields(dials)
        return replace(self, **dials)

    def to_dict(self) -> dict[str, Any]:
        """Every dial that is not None, by name: what JSON and TOML hold."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, dials: Mapping[str, Any]) -> Architecture:
        """The architecture with these dials, the others at their defaults."""
        _check_fields(dials)
        return cls(**dials)

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """The inverse of `to_json`."""
        return cls.from_dict(_parsed(text, json.loads, "JSON"))

    def to_toml(self) -> str:
        """One line to a dial."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.to_dict().items())

    @classmethod
    def from_toml(cls, text: str) -> Architecture:
        """The inverse of `to_toml`."""
        return cls.from_dict(_parsed(text, tomllib.loads, "TOML"))


def _parsed(text: str, parse: Any, language: str) -> dict[str, Any]:
    try:
        parsed = parse(text)
    except ValueError as error:  # both parsers' own errors are kinds of it
        raise SuperweightsError(
            f"This architecture is not {language}: {error}.",
            hint="one dial to a line, as `to_toml` writes it.",
        ) from error
    if not isinstance(parsed, dict):
        raise SuperweightsError("An architecture is a table of dials.", hint='write {"width": 64}.')
    return parsed


def _check_fields(dials: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(Architecture)]
    for name in dials:
        if name not in known:
            raise SuperweightsError(
                f"An architecture has no dial {name!r}.", hint=_did_you_mean(name, known, "dials")
            )


def _check_name(dial: str, name: Any, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise SuperweightsError(
            f"There is no {dial} named {name!r}.", hint=_did_you_mean(str(name), list(known), f"{dial} names")
        )


def _did_you_mean(name: str, known: list[str], what: str) -> str:
    close = get_close_matches(name, known, n=1)
    return f"{f'did you mean {close[0]}? ' if close else ''}known {what}: {', '.join(known)}."


def _check_sizes(a: Architecture) -> None:
    for name in (*_COUNTS, "key_value_heads", "head_width", "inner"):
        value = getattr(a, name)
        if value is None and name not in _COUNTS:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SuperweightsError(f"{name} is {value!r}.", hint="write a whole number, at least 1.")
    if a.head_width is None and a.width % a.heads:
        raise SuperweightsError(
            f"A width of {a.width} does not divide into {a.heads} heads.",
            hint="choose heads that divide it, or give head_width.",
        )
    if a.heads % a.kv_heads:
        raise SuperweightsError(
            f"{a.heads} heads cannot share {a.kv_heads} key and value heads.",
            hint="key_value_heads must divide heads.",
        )
    if a.position == "rope" and a.d_head % 2:
        raise SuperweightsError(
            f"Rotary positions turn pairs of numbers, and a head is {a.d_head} wide.",
            hint='choose an even head_width, or position = "none".',
        )
    for name in ("norm_epsilon", "rope_theta", "init_std", "branch_scale", "embedding_scale"):
        value = getattr(a, name)
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise SuperweightsError(f"{name} is {value!r}.", hint="write a positive number.")


def _check_together(a: Architecture) -> None:
    with_null = ", ".join(name for name, kind in ATTENTION.items() if kind.null != "none")
    for excluded, message, hint in (
        (
            a.null_value and a.kind.null == "none",
            f"null_value gives the null slot a value, and {a.attention} attention has no null slot.",
            f"attentions with one: {with_null}; a vector added to the output is attention = 'v_bias'.",
        ),
        (
            a.attention == "differential" and a.heads % 2 == 1,
            f"Differential attention takes heads in pairs, and there are {a.heads}.",
            "give an even number of heads, or attention = 'differential_v2'.",
        ),
        (
            a.attention == "differential" and a.kv_heads != a.heads,
            "Differential attention (V1) has as many key heads as query heads.",
            "leave key_value_heads out, or take attention = 'differential_v2'.",
        ),
        (
            a.lime and a.attention == "differential",
            "LIMe mixes key and value heads of one width, and differential attention (V1) has wider values.",
            "take one of them.",
        ),
        (
            a.norm_scaling and a.placement not in ("pre", "sandwich"),
            f"norm_scaling divides what a norm gives a sub-layer, and placement {a.placement!r} has no norm there.",
            "placement = 'pre' or 'sandwich'.",
        ),
        (
            a.branch_scale is not None and a.placement != "op",
            f"branch_scale is the beta of the outlier-protected block, and placement is {a.placement!r}.",
            "placement = 'op', or leave branch_scale out.",
        ),
        (
            a.gate != "none" and a.attention == "differential",
            "Differential attention (V1) norms each head after the difference; a gate there is another design.",
            "take attention = 'differential_v2', or no gate.",
        ),
    ):
        if excluded:
            raise SuperweightsError(message, hint=hint)
