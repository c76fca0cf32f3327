"""A checkpoint written anew: shard by shard, at once or not at all, and on from where it stopped."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from superweights.checkpoint import Checkpoint
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
    original_nbytes: int


@dataclass(frozen=True)
class Form:
    """How a folder is stored: the stem of its weight files, and what is stored for each tensor.

    `work` tells this piece of work from every other on the same checkpoint: only the same one may go on where it
    was stopped. Tensors in `left_out` are not stored at all.
    """

    work: str
    stem: str
    store: Store
    left_out: frozenset[str] = frozenset()


def rounded(name: str, stem: str, plan: Plan, encode: Encode, rest: torch.dtype | None = None) -> Form:
    """The form `name` of a checkpoint whose tensors `plan` rounds and `encode` writes.

    `rest` is the dtype of matrices that are not rounded (embeddings, heads); None leaves them as they are. Gains
    and biases always stay: they are small, and a gain may hold a model up.
    """

    def store(tensor: str, weight: torch.Tensor) -> Mapping[str, torch.Tensor]:
        if tensor in plan.schemes:
            return encode(tensor, plan.round(tensor, weight))
        shrinks = rest is not None and weight.dim() > 1 and weight.is_floating_point()
        return {tensor: weight.to(rest) if shrinks else weight}

    digest = hashlib.sha256(plan.to_json().encode())
    return Form(f"{name} {digest.hexdigest()[:16]} {rest or 'as stored'}", stem, store)


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

    One shard's tensors are in memory at a time. Until all is written the work stands in `.NAME.partial` beside
    `to`; a run that was stopped goes on after its last whole shard when it is started again with the same
    checkpoint and form, and is refused with others. `progress` gets (tensor, done, total).

    Raises `SuperweightsError` for a folder that holds anything, or one that another process is writing.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise SuperweightsError(f"{to} is not an empty folder.", hint="give the name of a new folder.")
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(to)
    with _claimed(partial, _identity(form, checkpoint)):
        shards = list(_shards(checkpoint, form.left_out, shard_bytes))
        places, done, total = {}, 0, sum(map(len, shards))
        for number, names in enumerate(shards, 1):
            file = _file_name(form.stem, number, len(shards))
            if not (partial / file).exists():
                _write_shard(checkpoint, form, names, partial / file, _counting(progress, done, total))
            done += len(names)
            places |= dict.fromkeys(_names_in(partial / file), file)
        nbytes = sum((partial / file).stat().st_size for file in set(places.values()))
        if len(shards) > 1:
            index = {"metadata": {"total_size": nbytes}, "weight_map": places}
            _write_text(partial / f"{form.stem}.safetensors.index.json", json.dumps(index, indent=1))
        settings(partial)
        (partial / "state.json").unlink()
    os.replace(partial, to)
    return Written(to, nbytes, sum(info.nbytes for info in checkpoint.tensors.values()))


def discard(to: Path, form: Form, checkpoint: Checkpoint) -> None:
    """Remove what an unfinished `write_folder` of this form has left for `to`; other work is not touched."""
    state = _partial(to) / "state.json"
    if state.is_file() and state.read_text(encoding="utf-8") == _identity(form, checkpoint):
        shutil.rmtree(_partial(to), ignore_errors=True)


def write_settings(
    checkpoint: Checkpoint, folder: Path, change: Callable[[dict[str, Any]], None], readme: str
) -> None:
    """config.json as `change` leaves it, the tokenizer where the checkpoint has one, and README.md."""
    config = checkpoint.model_config().to_diff_dict()
    config.pop("quantization_config", None)
    change(config)
    _write_text(folder / "config.json", json.dumps(config, indent=2, default=str) + "\n")
    tokenizer = checkpoint.tokenizer()
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    _write_text(folder / "README.md", readme)


def _partial(to: Path) -> Path:
    """Where the work on `to` stands until it is done."""
    return to.with_name(f".{to.name}.partial")


def _identity(form: Form, checkpoint: Checkpoint) -> str:
    """What tells one piece of work from another."""
    return f"{form.work} {checkpoint.fingerprint()}"


@contextlib.contextmanager
def _claimed(partial: Path, identity: str) -> Iterator[None]:
    """The working folder, ours alone while the body runs; left as it is when the body is stopped."""
    fresh = not partial.exists()
    partial.mkdir(exist_ok=True)
    state = partial / "state.json"
    try:
        with open(state, "a+", encoding="utf-8") as file:
            _lock(file, partial)
            file.seek(0)
            held = file.read()
            if held and held != identity:
                raise SuperweightsError(
                    f"{partial} holds the unfinished work of another checkpoint or plan.",
                    hint=f"delete it, or choose another folder: rm -r '{partial}'.",
                )
            if not held:
                file.write(identity)
                file.flush()
            yield
    except OSError:
        if fresh and not any(partial.glob("*.safetensors")):
            shutil.rmtree(
                partial, ignore_errors=True
            )  # nothing was finished, so there is nothing to go on from
        raise


def _lock(file: Any, partial: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SuperweightsError(
            f"Another process is writing {partial}.", hint="wait for it, or choose another folder."
        ) from None


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
    part = path.with_name(f"{path.name}.part")
    try:
        save_file({n: t.contiguous() for n, t in tensors.items()}, part, metadata={"format": "pt"})
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())  # safetensors makes files that nobody else can read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    """The permissions that new files lack here; they can only be read by setting them."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


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
