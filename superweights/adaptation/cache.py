"""Decompositions kept on disk: each matrix once, found again by what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from superweights.adaptation.factors import Factors, decompose
from superweights.adaptation.matrices import Matrix, weight_of
from superweights.artefacts import cache as artefacts
from superweights.artefacts.disk import explained
from superweights.artefacts.file import new_file
from superweights.progress import Progress, silent
from superweights.subject import device_of, stream_of

VERSION = 1


def cache_folder() -> Path:
    """Where decompositions are kept: `singular` in the user's cache folder."""
    return artefacts.cache_folder("singular")


def decompositions(
    model: nn.Module,
    matrices: Sequence[Matrix],
    *,
    rank: int | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Factors]:
    """The factors of each matrix by its path, taken from `folder` (None: `cache_folder()`) or made and kept there.

    A matrix is known by a hash of its values, so that another checkpoint never gets its factors, and two checkpoints
    that share a matrix share the work. A file that cannot be read is made anew.
    """
    held = folder or cache_folder()
    found = {}
    for done, matrix in enumerate(matrices, 1):
        found[matrix.path] = remembered(weight_of(model, matrix), rank, held, matrix.path)
        progress(matrix.path, done, len(matrices))
    return found


def decompose_streamed(
    model: nn.Module,
    matrices: Sequence[Matrix],
    *,
    rank: int | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Factors]:
    """The factors of each matrix of a streamed model, made while its block is in memory: one pass over two tokens.

    Everything is kept on disk as in `decompositions`; what comes back maps to the files' contents.
    """
    held = folder or cache_folder()
    by_parameter = {f"{matrix.path}.weight": matrix for matrix in matrices}
    found: dict[str, Factors] = {}

    def take(name: str, parameter: nn.Parameter) -> None:
        matrix = by_parameter.get(name)
        if matrix is None or matrix.path in found:
            return
        stored = parameter.detach().T if matrix.transposed else parameter.detach()
        weight = stored.to("cpu", torch.float32, copy=True).contiguous()
        found[matrix.path] = remembered(weight, rank, held, matrix.path)
        progress(matrix.path, len(found), len(matrices))

    stream = stream_of(model)
    assert stream is not None, "asked of streamed models"
    stream.on_load.append(take)
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device_of(model)), use_cache=False)
    finally:
        stream.on_load.remove(take)
    missing = [matrix.path for matrix in matrices if matrix.path not in found]
    assert not missing, f"{missing[0]} was never read"
    return {matrix.path: found[matrix.path] for matrix in matrices}


def remembered(weight: Tensor, rank: int | None, folder: Path, name: str) -> Factors:
    """The factors of `weight`, from the file that this matrix and rank have in `folder`, or made and written there."""
    file = folder / f"{_digest(weight, rank)}.safetensors"
    known = _read(file)
    if known is not None:
        return known
    made = decompose(weight, rank, name=name)
    _write(made, file)
    return made


def _digest(weight: Tensor, rank: int | None) -> str:
    digest = hashlib.sha256(f"{VERSION} {tuple(weight.shape)} {rank}".encode())
    digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _read(file: Path) -> Factors | None:
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as held:
            told: Mapping[str, str] = held.metadata() or {}
            U, sigma, Vh = (held.get_tensor(name) for name in ("U", "sigma", "Vh"))
            if told["digest"] != _digest_of(U, sigma, Vh, told):
                return None
            error, energy = (json.loads(told[name]) for name in ("error", "energy"))
    except (SafetensorError, OSError, KeyError, ValueError):
        return None  # cut short by a full disk long ago, of an older version, or changed: made anew
    return Factors(U, sigma, Vh, told["method"], error, energy)


def _digest_of(U: Tensor, sigma: Tensor, Vh: Tensor, told: Mapping[str, str]) -> str:
    """A hash of the factors and of what is told of them."""
    digest = hashlib.sha256(json.dumps([told[name] for name in ("method", "error", "energy")]).encode())
    for each in (U, sigma, Vh):
        digest.update(f"{each.dtype} {tuple(each.shape)}".encode())
        digest.update(each.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(factors: Factors, file: Path) -> None:
    told = {
        "method": factors.method,
        "error": json.dumps(factors.error),
        "energy": json.dumps(factors.energy),
    }
    told["digest"] = _digest_of(factors.U, factors.sigma, factors.Vh, told)
    with explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with new_file(file, replace=True) as partial:
        save_file({"U": factors.U, "sigma": factors.sigma, "Vh": factors.Vh}, partial, metadata=told)
