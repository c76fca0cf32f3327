"""The other experts of a super weight's layer: whether its own was rounded worse than they were."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from superweights.address import Address

# A matrix of one expert in a list of them, as every such checkpoint numbers it: `...experts.3.down_proj.weight`.
_NUMBERED = re.compile(r"(.*\bexperts\.)(\d+)(\..+)")


def error_of(changed: Tensor, exact: Tensor) -> float:
    """The Frobenius norm of the error over that of the matrix; 0 for a matrix of zeros that has stayed so."""
    size, error = float(exact.norm()), float((changed.float() - exact).norm())
    return error / size if size else error


def others_error(quantized: Any, original: Any, address: Address) -> tuple[int, float] | None:
    """The number of the expert that holds `address`, and the median error of the others' matrices of that kind.

    `quantized` and `original` read tensors by the original's names (`audits.standing_in.Pair`). None where the address
    is in no expert, or in the only one.
    """
    if len(address.index) == 3:
        expert = address.index[0]
        changed, exact = quantized.decoded(address.tensor).weight, original.read(address.tensor)
        errors = [error_of(changed[n], exact[n]) for n in range(len(exact)) if n != expert]
    else:
        numbered = _NUMBERED.fullmatch(address.tensor)
        if numbered is None:
            return None
        expert = int(numbered[2])
        errors = list(_errors_beside(quantized, original, numbered))
    return (expert, float(torch.tensor(errors).median())) if errors else None


def _errors_beside(quantized: Any, original: Any, numbered: re.Match[str]) -> Iterator[float]:
    """The errors of the same matrix of all other experts of the layer, one in memory at a time."""
    for name in original.tensors:
        other = _NUMBERED.fullmatch(name)
        if other is None or (other[1], other[3]) != (numbered[1], numbered[3]) or other[2] == numbered[2]:
            continue
        yield error_of(quantized.decoded(name).weight, original.read(name))
        quantized.release([name])
        original.release([name])
