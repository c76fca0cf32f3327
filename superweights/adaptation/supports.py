"""Which weights may move: super weights, the largest, the smallest, or random ones, as many of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from superweights.adaptation.matrices import Matrix, dense_parameter
from superweights.address import Address
from superweights.errors import SuperweightsError
from superweights.subject import layout_of

KINDS = ("super", "largest", "smallest", "random")


def support(
    model: nn.Module,
    matrices: Sequence[Matrix],
    kind: str,
    count: int,
    *,
    addresses: Sequence[Address] = (),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Flat indices by layer of `count` weights of `matrices` taken together: of the largest or smallest magnitude, or
    random ones; `super` are those at `addresses`, whatever the count.

    Source: Super-Tuning (arXiv 2607.09287) takes the largest of each matrix; here they compete across matrices, so
    that the supports compared have one size. Random ones never fall on an address.

    Raises `SuperweightsError` for a kind that is not there, a count that does not fit, and addresses outside.
    """
    weights = {m.path: dense_parameter(model.get_submodule(m.path), m.path).detach() for m in matrices}
    places = _placed(model, weights, addresses)
    if kind == "super":
        return _grouped(places)
    total = sum(weight.numel() for weight in weights.values())
    if kind not in KINDS or not 0 < count <= total - len(places):
        raise SuperweightsError(
            f"There are no {count} {kind} weights among {total}.", hint=f"kinds: {', '.join(KINDS)}."
        )
    if kind == "random":
        return _grouped(_random(weights, count, set(places), seed))
    return _grouped(_extreme(weights, count, largest=kind == "largest"))


def largest_each(
    model: nn.Module, matrices: Sequence[Matrix], count: int, *, top: bool = True
) -> dict[str, Tensor]:
    """Flat indices of the `count` largest (or smallest) weights of each matrix: PEFT's Supertuning support."""
    found = {}
    for matrix in matrices:
        weight = dense_parameter(model.get_submodule(matrix.path), matrix.path).detach()
        found[matrix.path] = torch.topk(weight.abs().flatten(), count, largest=top).indices
    return found


def _placed(
    model: nn.Module, weights: Mapping[str, Tensor], addresses: Sequence[Address]
) -> list[tuple[str, int]]:
    """Layer and flat index of each address."""
    layout, found = layout_of(model), []
    for address in addresses:
        parameter, index = layout.parameter_of(address)
        path = parameter.removesuffix(".weight")
        if path not in weights:
            raise SuperweightsError(
                f"{address} lies in none of the matrices that are trained.",
                hint="choose its layer and part too.",
            )
        row, column = index
        found.append((path, row * weights[path].shape[1] + column))
    return found


def _random(
    weights: Mapping[str, Tensor], count: int, taken: set[tuple[str, int]], seed: int
) -> list[tuple[str, int]]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([weight.numel() for weight in weights.values()])
    ends, paths = sizes.cumsum(0), list(weights)
    found: dict[tuple[str, int], None] = {}
    while len(found) < count:
        at = int(torch.randint(int(ends[-1]), (), generator=generator))
        n = int(torch.searchsorted(ends, at, right=True))
        place = paths[n], at - int(ends[n] - sizes[n])
        if place not in taken:
            found[place] = None
    return list(found)


def _extreme(weights: Mapping[str, Tensor], count: int, *, largest: bool) -> list[tuple[str, int]]:
    candidates = []
    for path, weight in weights.items():
        top = torch.topk(weight.abs().float().flatten(), min(count, weight.numel()), largest=largest)
        candidates += [
            (value, path, at) for value, at in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
    candidates.sort(key=lambda each: (-each[0] if largest else each[0], each[1], each[2]))
    return [(path, at) for _, path, at in candidates[:count]]


def _grouped(places: Sequence[tuple[str, int]]) -> dict[str, Tensor]:
    by_path: dict[str, list[int]] = {}
    for path, at in places:
        by_path.setdefault(path, []).append(at)
    return {path: torch.tensor(sorted(indices)) for path, indices in by_path.items()}
