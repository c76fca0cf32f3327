"""Which modules of a block make its attention and which its MLP, norms included: told from a pass, not from names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from superweights.axes import Int
from superweights.errors import SuperweightsError
from superweights.pruning.absent import Gaps
from superweights.pruning.dropped import Dropped
from superweights.taps import Site, SiteMap, sites_of


@dataclass(frozen=True)
class Sublayer:
    """Modules that go with a sub-layer, by path: how each answers (see `Absent`)."""

    modules: dict[str, tuple[bool, int]]
    """By the module's path."""


@dataclass(frozen=True)
class Sublayers:
    """Of each layer of a model, its attention and its MLP (None where the block has none or it cannot be told)."""

    attention: tuple[Sublayer | None, ...]
    mlp: tuple[Sublayer | None, ...]
    """By layer."""
    reasons: dict[tuple[str, int], str]
    """Why a sub-layer cannot be told, by kind and layer."""

    def of(self, kind: str, layer: int) -> Sublayer:
        """The `attention` or `mlp` of a layer. Raises `SuperweightsError` where there is none that could go."""
        found = (self.attention if kind == "attention" else self.mlp)[layer]
        if found is None:
            raise SuperweightsError(
                f"The {kind} of layer {layer} cannot be dropped: {self.reasons[kind, layer]}.",
                hint="drop other layers, or whole blocks.",
            )
        return found

    def holding(self, path: str) -> tuple[str, int] | None:
        """The sub-layer, as (kind, layer), that the module or parameter at `path` belongs to."""
        for kind, each in (("attention", self.attention), ("mlp", self.mlp)):
            for layer, sublayer in enumerate(each):
                if sublayer is not None and any(_within(path, module) for module in sublayer.modules):
                    return kind, layer
        return None


@torch.no_grad()
def sublayers_of(model: nn.Module, ids: Int[Tensor, "n T"]) -> Sublayers:
    """The sub-layers of `model`, from one pass over `ids [n, T]`.

    Where attention and MLP follow each other, what a block calls up to attention's write is attention's, the rest is
    the MLP's. Where they stand side by side, a norm that both read stays. Modules without parameters stay in any case.
    """
    sites = sites_of(model)
    calls: dict[str, list[_Called]] = {path: [] for path in sites.blocks}
    with _noting(model, calls):
        model(input_ids=ids, use_cache=False)
    found: dict[str, list[Sublayer | None]] = {"attention": [], "mlp": []}
    reasons = {}
    for layer, path in enumerate(sites.blocks):
        for kind, of_kind in found.items():
            sublayer = _sublayer(sites, layer, kind, calls[path])
            of_kind.append(sublayer)
            if sublayer is None:
                reasons[kind, layer] = sites.refused.get(
                    _write(kind, layer), "its modules cannot be told apart"
                )
    return Sublayers(tuple(found["attention"]), tuple(found["mlp"]), reasons)


def gaps_of(model: nn.Module, sublayers: Sublayers, dropped: Dropped) -> Gaps:
    """What to leave out of `model` for `dropped.attention` and `dropped.mlp`."""
    modules: dict[str, tuple[bool, int]] = {}
    for kind, layers in (("attention", dropped.attention), ("mlp", dropped.mlp)):
        for layer in layers:
            modules |= sublayers.of(kind, layer).modules
    cache = _cache_places(model, sublayers, set(dropped.attention)) if dropped.attention else {}
    return Gaps(modules, cache)


@dataclass(frozen=True)
class _Called:
    """A child of a block: its path, whether it has parameters, and its answer (0 a tensor, n a tuple of n)."""

    path: str
    weighs: bool
    answers: int


@contextmanager
def _noting(model: nn.Module, calls: dict[str, list[_Called]]) -> Iterator[None]:
    """Inside the `with`, each block's children are noted in the order in which they begin."""
    handles = []
    answers: dict[str, int] = {}
    for block, noted in calls.items():
        for name, child in model.get_submodule(block).named_children():
            for path, module in _callable(f"{block}.{name}", child):

                def begin(module: nn.Module, args: tuple, noted: list = noted, path: str = path) -> None:
                    if all(call.path != path for call in noted):
                        noted.append(_Called(path, any(True for _ in module.parameters()), -1))

                def end(module: nn.Module, args: tuple, out: Any, path: str = path) -> None:
                    answers.setdefault(path, len(out) if isinstance(out, tuple | list) else 0)

                handles.append(module.register_forward_pre_hook(begin))
                handles.append(module.register_forward_hook(end))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for noted in calls.values():
        noted[:] = [replace(call, answers=answers[call.path]) for call in noted if call.path in answers]


def _callable(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The module itself, or, for a list that is never called, its elements."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        for name, child in module.named_children():
            yield from _callable(f"{path}.{name}", child)
    else:
        yield path, module


def _write(kind: str, layer: int) -> Site:
    return Site("attn_write" if kind == "attention" else "mlp_write", layer)


def _sublayer(sites: SiteMap, layer: int, kind: str, calls: list[_Called]) -> Sublayer | None:
    write = sites.places.get(_write(kind, layer))
    if write is None:
        return None
    paths = [call.path for call in calls]
    adding = next((path for path in paths if _within(write.path, path)), None)
    if adding is None:
        return None
    chosen = _in_turn(sites, layer, kind, paths) or _side_by_side(sites, layer, kind, paths, adding)
    gone = [call for call in calls if call.path in chosen and (call.weighs or call.path == adding)]
    return Sublayer({call.path: (call.path == adding, call.answers) for call in gone})


def _in_turn(sites: SiteMap, layer: int, kind: str, paths: list[str]) -> list[str] | None:
    """The kind's modules where attention comes first and the MLP reads what it wrote; None elsewhere."""
    if Site("mid", layer) not in sites.places:
        return None
    attention = sites.places[Site("attn_write", layer)].path
    last = next((n for n, path in enumerate(paths) if _within(attention, path)), None)
    if last is None:
        return None
    return paths[: last + 1] if kind == "attention" else paths[last + 1 :]


def _side_by_side(sites: SiteMap, layer: int, kind: str, paths: list[str], adding: str) -> list[str]:
    """The kind's modules where both read the same stream: its own norm, and what holds its places."""
    mine, others = ("attn_norm_in", "head_out", "q"), ("mlp_norm_in", "mlp_act")
    if kind == "mlp":
        mine, others = others, mine
    own = {adding, *_holders(sites, layer, mine, paths)}
    return [path for path in paths if path in own - _holders(sites, layer, others, paths)]


def _holders(sites: SiteMap, layer: int, kinds: Iterable[str], paths: list[str]) -> set[str]:
    places = [sites.places[site].path for kind in kinds if (site := Site(kind, layer)) in sites.places]
    return {path for path in paths for place in places if _within(place, path)}


def _within(path: str, holder: str) -> bool:
    return path == holder or path.startswith(f"{holder}.")


def _cache_places(model: nn.Module, sublayers: Sublayers, gone: set[int]) -> dict[str, int]:
    """`layer_idx` of every module in the attentions that stay: the first places of their kind, in order."""
    config: Any = model.config
    kinds = getattr(config.get_text_config(), "layer_types", None) or ["full_attention"] * len(
        sublayers.attention
    )
    free: dict[str, list[int]] = {}
    for layer, kind in enumerate(kinds):
        # what could not be told apart stays where it is
        free.setdefault(kind, []).extend([layer] if sublayers.attention[layer] is not None else [])
    places = {}
    for layer, sublayer in enumerate(sublayers.attention):
        if sublayer is None or layer in gone:
            continue
        place = free[kinds[layer]].pop(0)
        for path in sublayer.modules:
            for name, module in model.get_submodule(path).named_modules(prefix=path):
                if isinstance(getattr(module, "layer_idx", None), int):
                    places[name] = place
    return places
