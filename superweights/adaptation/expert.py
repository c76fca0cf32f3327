"""An expert: the z of each matrix, the base it was made for, and how it was made. A small folder on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from superweights.artefacts.folder import new_folder
from superweights.artefacts.manifest import Work, digest_of, verify
from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import Between, shaped
from superweights.errors import SuperweightsError

FILE, TOLD = "expert.safetensors", "expert.json"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Expert:
    """How far each singular value of each matrix is turned, and where that comes from.

    `z` holds one number per singular value by the path of the matrix's module: the multipliers themselves, never
    logits; 1 is the base. `base` is the checkpoint's name, `fingerprint` its own. `about` says in a sentence what the
    expert is for: the prompt that chooses among experts shows it. `rank` is that of the decomposition (None: full).
    `made` holds how it was trained, as JSON values.
    """

    name: str
    z: Mapping[str, Tensor]
    base: str
    fingerprint: str
    about: str = ""
    rank: int | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers it consists of."""
        return sum(len(each) for each in self.z.values())

    def digest(self) -> str:
        """A hash of every z, for telling one from another."""
        held = hashlib.sha256()
        for path, each in sorted(self.z.items()):
            held.update(path.encode() + each.detach().cpu().float().contiguous().numpy().tobytes())
        return held.hexdigest()

    def check_base(self, fingerprint: str, name: str) -> None:
        """Raise `SuperweightsError` unless it was made for the checkpoint with this fingerprint."""
        if self.fingerprint != fingerprint:
            raise SuperweightsError(
                f"Expert {self.name} was made for {self.base} ({self.fingerprint[:8]}), not for {name} "
                f"({fingerprint[:8]}).",
                hint="singular values of one model say nothing of another's: train it again on this one.",
            )


@dataclass(frozen=True)
class _Told:
    """What stands in the header of an expert's file: its fields but z, and the version of the form."""

    name: str
    base: str
    fingerprint: str
    version: Literal[1]
    about: str = ""
    rank: Annotated[int, Between(1, 2**31)] | None = None
    made: dict[str, Any] = field(default_factory=dict)


def save_expert(expert: Expert, to: Path) -> Path:
    """The folder `to` with `expert.safetensors` (z) and `expert.json` (what is told of it), written at once.

    Raises `SuperweightsError` for a folder that holds anything, and for z that is not finite.
    """
    to = Path(to)
    wrong = [path for path, each in expert.z.items() if not torch.isfinite(each).all()]
    if wrong:
        raise SuperweightsError(f"The z of {wrong[0]} is nan or infinite.", hint="train with a lower rate.")
    z = {path: each.detach().to("cpu", torch.float32).contiguous() for path, each in expert.z.items()}
    told = {key: value for key, value in asdict(_without_z(expert)).items() if key != "z"}
    header = json.dumps({**told, "version": VERSION}, default=str)
    with new_folder(to, Work("expert", expert.fingerprint, digest_of(header, expert.digest()))) as draft:
        save_file(z, draft.path / FILE, metadata={"expert": header})
        (draft.path / TOLD).write_text(json.dumps(told, indent=1, default=str) + "\n", encoding="utf-8")
    return to


def load_expert(folder: Path) -> Expert:
    """The expert that `save_expert` wrote. Raises `SuperweightsError` for anything else, and for nan.

    Where the folder has its manifest it is held against it first.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        raise SuperweightsError(
            f"{folder} holds no {FILE}.",
            hint="superweights adapt train makes experts; name the folder of one.",
        )
    verify(Path(folder))
    again = "train the expert again."
    try:
        with safe_open(file, framework="pt") as held:
            header = (held.metadata() or {}).get("expert", "null")
            z = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - safe_open is no dictionary
    except (SafetensorError, OSError, ValueError) as error:
        raise SuperweightsError(f"{file} is damaged: {error}", hint=again) from error
    data = parse_json(header, str(file), hint=again)
    if not isinstance(data, dict) or data.get("version") != VERSION or not z:
        raise SuperweightsError(
            f"{file} is no expert of this version.", hint="pip install --upgrade superweights."
        )
    told = shaped(_Told, data, str(file), again)
    wrong = [
        path
        for path, each in z.items()
        if each.dim() != 1 or each.dtype != torch.float32 or not each.isfinite().all()
    ]
    if wrong:
        raise SuperweightsError(f"The z of {wrong[0]} in {file} is nan or infinite.", hint="train it again.")
    return Expert(told.name, z, told.base, told.fingerprint, told.about, told.rank, told.made)


def load_experts(folder: Path) -> tuple[Expert, ...]:
    """The experts in the folders below `folder`, by name. Raises `SuperweightsError` where there is none."""
    folder = Path(folder)
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    # Hidden ones are in the making, or were left by a run that was killed.
    held = [place for place in below if not place.name.startswith(".") and (place / FILE).is_file()]
    if not held:
        raise SuperweightsError(
            f"{folder} holds no experts.",
            hint="superweights adapt train MODEL --task FILE --to FOLDER/NAME makes one.",
        )
    return tuple(load_expert(path) for path in held)


def combined(
    experts: Sequence[Expert], alpha: Sequence[float] | Mapping[str, Sequence[float]]
) -> dict[str, Tensor]:
    """`sum_k alpha_k z_k` for every matrix that an expert turns; experts leave what they do not turn at z = 1.

    `alpha` has one number per expert, or one list of them per matrix. Source: Transformer², section 3.2 (few-shot):
    the sum is of the z themselves, so alphas that do not sum to 1 also scale the matrix. The published code sums raw
    logits instead and uses them without their sigmoid. (1, 0) gives the first expert bit for bit.

    Raises `SuperweightsError` for experts of different bases or ranks, and for a wrong number of alphas.
    """
    first = experts[0]
    for other in experts[1:]:
        other.check_base(first.fingerprint, first.base)
    paths = list(dict.fromkeys(path for expert in experts for path in expert.z))
    found = {}
    for path in paths:
        weights = alpha.get(path, ()) if isinstance(alpha, Mapping) else alpha
        if len(weights) != len(experts):
            raise SuperweightsError(
                f"There are {len(experts)} experts and {len(weights)} alphas for {path}.",
                hint="give one per expert.",
            )
        parts = [expert.z.get(path) for expert in experts]
        size = next(len(part) for part in parts if part is not None)
        if any(part is not None and len(part) != size for part in parts):
            raise SuperweightsError(
                f"The experts turn different numbers of singular values of {path}.",
                hint="give them the same --rank.",
            )
        found[path] = _sum(weights, [torch.ones(size) if part is None else part for part in parts])
    return found


def _sum(weights: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(parts[0])
    for weight, part in zip(weights, parts, strict=True):
        if weight:
            total = total + weight * part
    return total


def shuffled(z: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A control: the same numbers in another order within each matrix."""
    generator = torch.Generator().manual_seed(seed)
    return {path: each[torch.randperm(len(each), generator=generator)] for path, each in z.items()}


def random_like(z: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A control: normal numbers around 1, as far from it (root mean square) in each matrix as z is."""
    generator = torch.Generator().manual_seed(seed)
    return {
        path: 1 + torch.randn(len(each), generator=generator) * (each - 1).square().mean().sqrt()
        for path, each in z.items()
    }


def _without_z(expert: Expert) -> Expert:
    """The expert without its tensors, which `asdict` would copy."""
    return Expert(
        expert.name, {}, expert.base, expert.fingerprint, expert.about, expert.rank, dict(expert.made)
    )
