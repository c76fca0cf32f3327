"""A checkpoint written anew: shard by shard, at once or not at all, and on from where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from superweights.artefacts.folder import Draft, new_folder
from superweights.artefacts.manifest import Work, digest_of, state_of
from superweights.checkpoint import Checkpoint
from superweights.checkpoint.code import carry_code
from superweights.errors import SuperweightsError
from superweights.progress import Progress
from superweights.quantization.plan import Plan
from superweights.quantization.tensor import Quantized

# So much of the original is turned into one file: it is held in memory until the file is written.
SHARD_BYTES = 1 << 30

# What is stored for a tensor of the checkpoint: its name and values in, names and values out. What comes back may be
# the tensor itself.
Store = Callable[[str, torch.Tensor], Mapping[str, torch.Tensor]]
# The tensors that stand for a rounded one in the format: its name and its rounded form in, names and values out.
Encode = Callable[[str, Quantized], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Written:
    """What a format has written: the folder, the bytes of its weight files, and those of the original's tensors."""

    folder: Path
    nbytes: int
    """Bytes of its weight files."""
    original_nbytes: int
    """Bytes of the original's tensors."""


@dataclass(frozen=True)
class Form:
    """How a folder is stored: the stem of its weight files, and what is stored for each tensor.

    `work` tells this piece of work from every other on the same checkpoint: only the same one may go on where it
    was stopped. Tensors in `left_out` are not stored at all.
    """

    work: str
    stem: str
    store: Store
    """Gives what is stored for each tensor."""
    left_out: frozenset[str] = frozenset()


def rounded(name: str, stem: str, plan: Plan, encode: Encode) -> Form:
    """The form `name` of a checkpoint whose tensors `plan` rounds and `encode` writes; what it narrows is narrower."""

    def store(tensor: str, weight: torch.Tensor) -> Mapping[str, torch.Tensor]:
        if tensor in plan.schemes:
            return encode(tensor, plan.round(tensor, weight))
        return {tensor: plan.stored(tensor, weight)}

    return Form(f"{name} {plan.fingerprint()[:16]}", stem, store)


def write_folder(
    checkpoint: Checkpoint,
    to: Path,
    form: Form,
    settings: Callable[[Path], None],
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Written:
    """The folder `to` with the checkpoint in this form; `settings(folder)` adds config, tokenizer and the like.

    One shard's tensors are in memory at a time. Until all is written the work stands in a hidden folder beside `to`
    (`superweights.artefacts.folder`); a run that was stopped goes on after its last whole shard when it is started
    again with the same checkpoint and form. Where `settings` raises `SuperweightsError`, nothing is left. `progress`
    gets (tensor, done, total).

    Raises `SuperweightsError` where no new folder can stand at `to`, where another process is writing it, and for a
    full disk.
    """
    to = Path(to)
    plan = digest_of(form.work, form.stem, str(shard_bytes))
    work = Work(form.work.split()[0], checkpoint.fingerprint(), plan, state_of(checkpoint.path))
    with new_folder(to, work) as draft:
        nbytes = _write_shards(checkpoint, form, draft, shard_bytes, progress)
        try:
            settings(draft.path)
        except SuperweightsError:
            draft.useless = True
            raise
    return Written(to, nbytes, sum(info.nbytes for info in checkpoint.tensors.values()))


def _write_shards(
    checkpoint: Checkpoint, form: Form, draft: Draft, shard_bytes: int, progress: Progress | None
) -> int:
    """The bytes of the weight files that the draft has now."""
    shards = list(_shards(checkpoint, form.left_out, shard_bytes))
    places, done, total = {}, 0, sum(map(len, shards))
    for number, names in enumerate(shards, 1):
        file, count = _file_name(form.stem, number, len(shards)), _counting(progress, done, total)
        draft.add(
            file, lambda path, names=names, count=count: _write_shard(checkpoint, form, names, path, count)
        )
        done += len(names)
        places |= dict.fromkeys(_names_in(draft.path / file), file)
    nbytes = sum((draft.path / file).stat().st_size for file in set(places.values()))
    if len(shards) > 1:
        index = {"metadata": {"total_size": nbytes}, "weight_map": places}
        _write_text(draft.path / f"{form.stem}.safetensors.index.json", json.dumps(index, indent=1))
    return nbytes


def write_settings(
    checkpoint: Checkpoint, folder: Path, change: Callable[[dict[str, Any]], None], readme: str
) -> None:
    """config.json as `change` leaves it, the tokenizer where the checkpoint has one, their code, and README.md."""
    config = checkpoint.model_config().to_diff_dict()
    config.pop("quantization_config", None)
    change(config)
    _write_text(folder / "config.json", json.dumps(config, indent=2, default=str) + "\n")
    tokenizer = checkpoint.tokenizer()
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    carry_code(checkpoint.path, folder)
    _write_text(folder / "README.md", readme)


def _shards(checkpoint: Checkpoint, left_out: frozenset[str], shard_bytes: int) -> Iterator[list[str]]:
    """Tensor names in order, cut where the originals would pass `shard_bytes`."""
    shard: list[str] = []
    held = 0
    for name, info in checkpoint.tensors.items():
        if name in left_out:
            continue
        size = info.size * info.torch_dtype.itemsize
        if shard and held + size > shard_bytes:
            yield shard
            shard, held = [], 0
        shard.append(name)
        held += size
    if shard:
        yield shard


def _file_name(stem: str, number: int, of: int) -> str:
    return f"{stem}.safetensors" if of == 1 else f"{stem}-{number:05d}-of-{of:05d}.safetensors"


def _write_shard(
    checkpoint: Checkpoint, form: Form, names: list[str], path: Path, count: Callable[[str], None]
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        held = checkpoint.read(name)
        for stored, tensor in form.store(name, held).items():
            tensors[stored] = tensor.clone() if tensor is held else tensor  # what is held goes with `release`
        checkpoint.release([name])
        count(name)
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata={"format": "pt"})


def _counting(progress: Progress | None, done: int, total: int) -> Callable[[str], None]:
    """A function that tells `progress` of one more tensor each time."""
    count = done

    def one_more(name: str) -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(name, count, total)

    return one_more


def _names_in(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
