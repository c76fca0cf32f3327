"""A checkpoint split in two: a base without its super weights, and a side-car that holds them exactly.

The base is what any quantizer may round: nothing in it stretches a scale. One tensor is in memory at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from superweights.address import Address
from superweights.artefacts.folder import Draft, new_folder
from superweights.artefacts.manifest import Work, digest_of, state_of, verify
from superweights.artefacts.place import check_new
from superweights.artefacts.reading import read_text
from superweights.checkpoint import Checkpoint
from superweights.checkpoint.code import carry_code
from superweights.errors import SuperweightsError
from superweights.progress import Progress
from superweights.quantization.sidecar import KeptWeight, SideCar, kept_weights

SIDE_CAR = "super_weights.json"
_SHARD_BYTES = 4 * 2**30
# Read off safetensors itself, which spells a dtype in the header of what it saves.
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_DTYPES += ("float8_e4m3fn", "float8_e5m2")


def peel(
    checkpoint: Checkpoint,
    addresses: Sequence[Address],
    to: Path,
    *,
    transposed: Sequence[str] = (),
    shard_bytes: int = _SHARD_BYTES,
    progress: Progress | None = None,
) -> SideCar:
    """The side-car that was written to the folder `to`, beside the base: the checkpoint with 0 in those places.

    The base is safetensors under the checkpoint's tensor names, in the dtype that `checkpoint.read` gives (GGUF:
    float32), in shards of about `shard_bytes`, with config and tokenizer where the checkpoint has them.
    `transposed` names tensors stored as [inputs, outputs], as GPT-2's Conv1D has them. `progress` gets (tensor,
    done, total). The folder appears at once when all is written; a run that was stopped goes on after its last shard.

    Raises `SuperweightsError` for an address that the checkpoint lacks, none at all, or a folder that holds
    anything. `attach` and `write_adapter` put the weights back.
    """
    to = Path(to)
    check_new(to, "folder")
    wanted = _by_tensor(checkpoint, addresses)
    side_car = SideCar(_kept(checkpoint, wanted, set(transposed)), checkpoint.fingerprint())
    plan = digest_of(side_car.to_json(), str(shard_bytes))
    work = Work("peeled", checkpoint.fingerprint(), plan, state_of(checkpoint.path))
    with new_folder(to, work) as draft:
        _write_base(checkpoint, wanted, draft, shard_bytes, progress)
        (draft.path / SIDE_CAR).write_text(side_car.to_json(), encoding="utf-8")
        _write_settings(checkpoint, draft.path)
    return side_car


def read_side_car(folder: Path) -> SideCar:
    """The side-car in a folder that `peel` wrote. Raises `SuperweightsError` naming the fault of one that is none."""
    path = Path(folder) / SIDE_CAR
    if not os.path.lexists(path):
        raise SuperweightsError(f"{folder} holds no {SIDE_CAR}.", hint="superweights peel writes one.")
    verify(Path(folder), SIDE_CAR)
    return SideCar.from_json(read_text(path, hint="superweights peel writes one."), str(path))


def _by_tensor(checkpoint: Checkpoint, addresses: Sequence[Address]) -> dict[str, list[tuple[int, ...]]]:
    """The indices wanted of each tensor; `element` refuses what the checkpoint lacks."""
    if not addresses:
        raise SuperweightsError(
            "There is no weight to peel.", hint="superweights find names those that matter."
        )
    wanted: dict[str, list[tuple[int, ...]]] = {}
    for address in dict.fromkeys(addresses):
        checkpoint.element(address.tensor, address.index)
        wanted.setdefault(address.tensor, []).append(address.index)
    return wanted


def _kept(
    checkpoint: Checkpoint, wanted: Mapping[str, list[tuple[int, ...]]], transposed: set[str]
) -> tuple[KeptWeight, ...]:
    """The weights to take out, in the order of the checkpoint's tensors."""
    kept: list[KeptWeight] = []
    for name in checkpoint.tensors:
        if name in wanted:
            kept += kept_weights(name, checkpoint.read(name), wanted[name], int(name in transposed))
            checkpoint.release([name])
    return tuple(kept)


def _write_base(
    checkpoint: Checkpoint,
    wanted: Mapping[str, list[tuple[int, ...]]],
    draft: Draft,
    shard_bytes: int,
    progress: Progress | None,
) -> None:
    shards = list(_shards(checkpoint, shard_bytes))
    names = [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    done, places = 0, {}
    for file_name, shard in zip(names, shards, strict=True):

        def write(path: Path, shard: list[str] = shard, before: int = done) -> None:
            with open(path, "wb") as file:
                file.write(_header(checkpoint, shard))
                for count, name in enumerate(shard, before + 1):
                    tensor = checkpoint.read(name)
                    file.write(_bytes(_without(tensor, wanted[name]) if name in wanted else tensor))
                    checkpoint.release([name])
                    if progress is not None:
                        progress(name, count, len(checkpoint.tensors))

        draft.add(file_name, write)
        done += len(shard)
        places |= dict.fromkeys(shard, file_name)
    if len(shards) > 1:
        total = sum(_size(checkpoint, name) for name in checkpoint.tensors)
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (draft.path / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=1), encoding="utf-8"
        )


def _shards(checkpoint: Checkpoint, shard_bytes: int) -> Iterator[list[str]]:
    """Tensor names in order, cut where a shard would pass `shard_bytes`."""
    shard: list[str] = []
    held = 0
    for name in checkpoint.tensors:
        size = _size(checkpoint, name)
        if shard and held + size > shard_bytes:
            yield shard
            shard, held = [], 0
        shard.append(name)
        held += size
    if shard:
        yield shard


def _header(checkpoint: Checkpoint, shard: list[str]) -> bytes:
    """The safetensors header of a shard: length, names, dtypes, shapes and places, padded to eight bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name in shard:
        info = checkpoint.tensors[name]
        end = place + _size(checkpoint, name)
        spelled = _spelling(info.torch_dtype)
        entries[name] = {"dtype": spelled, "shape": list(info.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _spelling(dtype: torch.dtype) -> str:
    """How safetensors spells a dtype."""
    if str(dtype).removeprefix("torch.") not in _DTYPES:
        raise SuperweightsError(
            f"Tensors of {dtype} cannot be peeled.",
            hint="peel the original checkpoint, before any quantization.",
        )
    saved = save({"x": torch.empty(0, dtype=dtype)})
    return json.loads(saved[8 : 8 + int.from_bytes(saved[:8], "little")])["x"]["dtype"]


def _size(checkpoint: Checkpoint, name: str) -> int:
    info = checkpoint.tensors[name]
    return info.size * info.torch_dtype.itemsize


def _without(tensor: torch.Tensor, indices: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """A copy with 0 at `indices`."""
    tensor = tensor.clone()
    for index in indices:
        tensor[index] = 0
    return tensor


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes, row by row."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_settings(checkpoint: Checkpoint, folder: Path) -> None:
    """Config and tokenizer, as far as the checkpoint has them."""
    if checkpoint.config:
        checkpoint.model_config().save_pretrained(folder)
    tokenizer = checkpoint.tokenizer()
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    carry_code(checkpoint.path, folder)
