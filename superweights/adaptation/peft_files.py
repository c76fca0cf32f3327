"""Experts and supports as PEFT adapters: what plain PEFT loads beside the base, without this package."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from superweights.adaptation.expert import Expert
from superweights.adaptation.factors import Factors
from superweights.adaptation.learners import Sparse
from superweights.adaptation.matrices import Matrix
from superweights.artefacts.folder import new_folder
from superweights.artefacts.manifest import Work, digest_of
from superweights.errors import SuperweightsError


def write_psoft(
    expert: Expert, factors: Mapping[str, Factors], matrices: Sequence[Matrix], to: Path
) -> list[Path]:
    """The folders of PSOFT adapters that hold the expert's function; `to` itself where all ranks are alike.

    PSOFT computes `W + U diag(sigma) (R - I) Vh` with `R = diag(b) Cayley(Q) diag(a)`; with Q = 0, b left out and
    a = z it is SVF. PEFT takes the SVD of the base again when it loads (float32, `torch.linalg.svd`), so the function
    is the same on the same linear algebra; where two singular values all but coincide, another one may turn their
    directions into each other. It has one rank per adapter: experts over matrices of several ranks become several
    folders `rank-N` below `to`, to be made active together (`model.base_model.set_adapter([...])`).

    Raises `SuperweightsError` for Conv1D layers, which PSOFT does not take, and for randomized factors.
    """
    known = {matrix.path: matrix for matrix in matrices}
    for path in expert.z:
        if known[path].transposed:
            raise SuperweightsError(
                f"{path} is a Conv1D, and PEFT's PSOFT takes linear layers only.",
                hint="export --as lora, or merge.",
            )
        if factors[path].method != "full":
            raise SuperweightsError(
                f"The factors of {path} are randomized ones, and PSOFT would compute others.",
                hint="export --as lora, or merge.",
            )
    by_rank: dict[int, dict[str, Tensor]] = {}
    for path, z in expert.z.items():
        by_rank.setdefault(len(z), {})[path] = z
    whole = {} if len(by_rank) == 1 else {rank: f"rank-{rank}" for rank in by_rank}

    def fill(folder: Path) -> None:
        for rank, z in by_rank.items():
            below = folder / whole[rank] if whole else folder
            below.mkdir(exist_ok=True)
            _fill_psoft(below, rank, z, expert.base)

    _at_once(to, expert, "psoft", fill)
    return [to / name for name in whole.values()] or [to]


def write_lora(
    expert: Expert, factors: Mapping[str, Factors], matrices: Sequence[Matrix], rank: int, to: Path
) -> float:
    """Write a LoRA adapter with the `rank` largest changes of each matrix; the share of the change it misses.

    The change `U diag(sigma (z - 1)) Vh` has its own singular values `sigma |z - 1|`, so that cutting it is exact
    arithmetic: what is missed is the root of the missed share of their squares, over all matrices together.
    """
    known = {matrix.path: matrix for matrix in matrices}
    state: dict[str, Tensor] = {}
    missed = total = 0.0
    for path, z in expert.z.items():
        held = factors[path]
        strength = held.sigma * (z - 1)
        order = strength.abs().argsort(descending=True)
        kept = order[: min(rank, len(order))]
        a, b = torch.zeros(rank, held.Vh.shape[1]), torch.zeros(len(held.U), rank)
        a[: len(kept)], b[:, : len(kept)] = held.Vh[kept], held.U[:, kept] * strength[kept]
        state[f"base_model.model.{path}.lora_A.weight"], state[f"base_model.model.{path}.lora_B.weight"] = (
            a,
            b,
        )
        squares = strength.double().square()
        total += squares.sum().item()
        missed += squares[order[len(kept) :]].sum().item()
    config = _lora_config(rank, list(expert.z), any(known[path].transposed for path in expert.z), expert.base)
    _at_once(to, expert, f"lora {rank}", lambda folder: _fill(folder, config, state))
    return (missed / total) ** 0.5 if total else 0.0


def write_supertuning(learner: Sparse, base: str, to: Path) -> Path:
    """Write a support and how far it moved as a PEFT Supertuning adapter. All layers must move as many weights."""
    counts = {len(each) for each in learner.support.values()}
    sizes = {learner.model.get_submodule(path).weight.numel() for path in learner.support}  # type: ignore[union-attr, operator]
    if len(counts) > 1 or len(sizes) > 1:
        raise SuperweightsError(
            "PEFT's Supertuning moves one share of each layer's weights, and this support has several.",
            hint="write the merged model instead.",
        )
    count, size = counts.pop(), sizes.pop()
    config = _peft().SupertuningConfig(
        target_modules=list(learner.support), sparsity=1 - (count + 0.5) / size, base_model_name_or_path=base,
        task_type="CAUSAL_LM", inference_mode=True,
    )  # fmt: skip
    state = {}
    for path, moved in learner.parameters.items():
        name = f"base_model.model.{path}"
        state[f"{name}.supertuning_values"] = moved.detach().clone()
        state[f"{name}.supertuning_indices"] = learner.support[path].to(torch.int32)
    _at_once(to, None, "supertuning", lambda folder: _fill(folder, config, state))
    return to


def _fill_psoft(folder: Path, rank: int, z: Mapping[str, Tensor], base: str) -> None:
    peft = _peft()
    config = peft.PsoftConfig(
        r=rank, psoft_alpha=rank, psoft_mag_b=False, target_modules=list(z), base_model_name_or_path=base,
        task_type="CAUSAL_LM", inference_mode=True,
    )  # fmt: skip
    # PEFT warns of what is not stored, so Q is, as zeros of half the width.
    nothing = torch.zeros(rank * (rank - 1) // 2, dtype=torch.float16)
    state = {
        f"base_model.model.{path}.psoft_R.vector_a": each.float().contiguous() for path, each in z.items()
    }
    state |= {f"base_model.model.{path}.psoft_R.weight": nothing.clone() for path in z}
    _fill(folder, config, state)


def _lora_config(rank: int, paths: list[str], transposed: bool, base: str) -> Any:
    return _peft().LoraConfig(
        r=rank, lora_alpha=rank, target_modules=paths, fan_in_fan_out=transposed, base_model_name_or_path=base,
        task_type="CAUSAL_LM", inference_mode=True,
    )  # fmt: skip


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise SuperweightsError(
            "Writing PEFT adapters needs peft.", hint="pip install 'superweights[adapt]'"
        ) from error
    return peft


def _fill(folder: Path, config: Any, state: dict[str, Tensor]) -> None:
    config.save_pretrained(folder)
    told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    told["target_modules"] = sorted(told["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _at_once(to: Path, expert: Expert | None, form: str, fill: Callable[[Path], None]) -> None:
    """The folder `to`, filled beside it and put in its place when all is written."""
    source = "" if expert is None else expert.fingerprint
    plan = digest_of(form, "" if expert is None else expert.digest())
    with new_folder(to, Work("adapter", source, plan)) as draft:
        fill(draft.path)
