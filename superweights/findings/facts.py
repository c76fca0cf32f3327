"""Facts of a model that other tools ask for, as one JSON document. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

SCHEMA = "superweights.facts/1"


@dataclass(frozen=True)
class MassiveLayer:
    """The residual stream after one block, over all rows and tokens of the text."""

    layer: int
    """Counted from 0."""
    largest: float
    """The largest |value|."""
    median: float
    """The median |value|, the mean over rows."""
    channels: tuple[int, ...]
    """The residual channels whose largest |value| is massive: above 100 and 1,000 medians (arXiv 2402.17762)."""
    positions: tuple[int, ...]
    """The token positions where a row has its largest value, the commonest first."""
    tokens: tuple[str, ...]
    """The tokens there, the commonest first."""


@dataclass(frozen=True)
class SinkLayer:
    """How much attention goes to the first token in one layer."""

    layer: int
    """Counted from 0."""
    mass: float
    """The mean attention weight on the first token, over heads and later queries."""
    rate: float
    """The share of heads whose mean weight there is above 0.3 (arXiv 2410.10781)."""


@dataclass(frozen=True)
class SiteRoom:
    """The largest number at one place of the forward pass, and how often it fits into float16."""

    site: str
    """Which place: block_out, attn_write, mlp_write, mlp_act (the input of the down-projection)."""
    layer: int
    """Counted from 0."""
    largest: float
    """The largest |value| in the text."""
    fp16_headroom: float
    """65,504 over it: below 1 it overflows."""


@dataclass(frozen=True)
class Underflow:
    """What a tensor's largest weight does to its smallest, in two formats with few exponents."""

    tensor: str
    """Name in the checkpoint."""
    nvfp4_blocks_zero: float
    """Share of blocks of 16 whose E4M3 scale rounds to 0, so that their weights are lost (one fp32 scale a tensor)."""
    nvfp4_blocks_subnormal: float
    """Share of blocks whose scale is an E4M3 subnormal: fewer bits than the format has."""
    fp8_weights_zero: float
    """Share of weights other than 0 that round to 0 in E4M3 with one scale a tensor."""


@dataclass(frozen=True)
class Facts:
    """Where a model's extreme numbers are, for tools that edit, probe, cache or quantize it."""

    schema: str
    """`superweights.facts/1`: the layout of this document."""
    conditions: dict[str, Any]
    """On which text, cut how, whether windows begin with BOS, in which type."""
    massive: tuple[MassiveLayer, ...]
    """Every block, in order."""
    born: tuple[int, ...]
    """The layers where the massive activation steps up."""
    erased: tuple[int, ...]
    """The layers where it steps down."""
    sinks: tuple[SinkLayer, ...]
    """Every layer whose attention can be seen; empty where none can."""
    sink_positions: tuple[int, ...]
    """Positions that draw attention: 0 where a layer's heads sink there, and the next most drawing one."""
    sites: tuple[SiteRoom, ...]
    """Every site and layer."""
    tensors: tuple[Underflow, ...]
    """Every matrix of a block."""


def json_schema(form: type = Facts) -> dict[str, Any]:
    """The JSON schema of a document that `superweights facts` writes."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA, **_object(form)}


def _object(form: type) -> dict[str, Any]:
    hints = get_type_hints(form)
    named = {each.name: _kind(hints[each.name]) for each in fields(form)}
    return {"type": "object", "required": list(named), "properties": named, "additionalProperties": False}


def _kind(hint: Any) -> dict[str, Any]:
    if is_dataclass(hint):
        return _object(hint)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _kind(get_args(hint)[0])}
    if get_origin(hint) in (UnionType, Union):
        return {"anyOf": [_kind(each) for each in get_args(hint)]}
    plain = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    return {"type": plain.get(hint, "object")}
