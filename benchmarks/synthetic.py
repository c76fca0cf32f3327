"""A checkpoint of any size whose super weight we know: Llama's shape, cheap random numbers, one planted weight.

Written a few rows at a time, so that a checkpoint larger than memory can be made. Numbers repeat one block of
8,388,593 random ones (a prime, so that no two rows of a matrix are alike); every tensor starts elsewhere in it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK = 8_388_593
_STD = 0.02
# The rows of the super weight's neuron are this many times the others', which makes it spike at every token.
_BOOST = 20.0
_VALUE = 2.3


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama, and where its super weight stands."""

    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    shard_bytes: int
    layer: int
    out_channel: int
    in_neuron: int

    @property
    def planted(self) -> str:
        """The super weight's address."""
        return f"model.layers.{self.layer}.mlp.down_proj.weight[{self.out_channel}, {self.in_neuron}]"

    @property
    def nbytes(self) -> int:
        """What all tensors take on the disk."""
        return sum(2 * rows * columns for _, (rows, columns) in self.matrices()) + 2 * self.hidden * (
            2 * self.layers + 1
        )

    def matrices(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Name and shape of every matrix, in the order of the model."""
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            place = f"model.layers.{layer}"
            for name in "qkvo":
                yield f"{place}.self_attn.{name}_proj.weight", (self.hidden, self.hidden)
            for name in ("gate", "up"):
                yield f"{place}.mlp.{name}_proj.weight", (self.inner, self.hidden)
            yield f"{place}.mlp.down_proj.weight", (self.hidden, self.inner)
        yield "lm_head.weight", (self.vocabulary, self.hidden)

    def gains(self) -> Iterator[str]:
        for layer in range(self.layers):
            yield f"model.layers.{layer}.input_layernorm.weight"
            yield f"model.layers.{layer}.post_attention_layernorm.weight"
        yield "model.norm.weight"


# Llama-7B has its super weight at layer 2, [3968, 7003] (arXiv 2411.07191, Table 2).
SHAPES = {
    "7b": Shape(4096, 11008, 32, 32, 32000, 2_000_000_000, 2, 3968, 7003),
    "1b": Shape(2048, 5504, 16, 16, 32000, 500_000_000, 2, 1984, 3501),
    "small": Shape(512, 1376, 6, 8, 4000, 8_000_000, 2, 496, 875),
}


def write(shape: Shape, folder: Path) -> None:
    """The checkpoint of `shape` in `folder`: config.json, shards of about `shape.shard_bytes`, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=2))
    block = _random_block()
    shards = list(_sharded(shape))
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, tensors, block, shape)
        weight_map.update(dict.fromkeys(tensors, name))
    index = {"metadata": {"total_size": shape.nbytes}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _sharded(shape: Shape) -> Iterator[dict[str, tuple[int, ...]]]:
    """The tensors of one shard after the other, by name, with their shapes."""
    shard: dict[str, tuple[int, ...]] = dict.fromkeys(shape.gains(), (shape.hidden,))
    for name, dimensions in shape.matrices():
        if shard and sum(map(_nbytes, shard.values())) + _nbytes(dimensions) > shape.shard_bytes:
            yield shard
            shard = {}
        shard[name] = dimensions
    yield shard


def _nbytes(dimensions: tuple[int, ...]) -> int:
    size = 2
    for n in dimensions:
        size *= n
    return size


def _random_block() -> bytes:
    """The numbers that everything repeats, twice over, so that a stretch may start anywhere."""
    import torch

    numbers = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)) * _STD
    return 2 * numbers.bfloat16().view(torch.uint8).numpy().tobytes()


def _write_shard(path: Path, tensors: dict[str, tuple[int, ...]], block: bytes, shape: Shape) -> None:
    header, end = {}, 0
    for name, dimensions in tensors.items():
        start, end = end, end + _nbytes(dimensions)
        header[name] = {"dtype": "BF16", "shape": list(dimensions), "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("w+b") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dimensions in tensors.items():
            _write_tensor(file, name, dimensions, block)
        for name, dimensions in tensors.items():
            _plant(file, 8 + len(text) + header[name]["data_offsets"][0], name, dimensions, shape)


def _write_tensor(file: BinaryIO, name: str, dimensions: tuple[int, ...], block: bytes) -> None:
    if len(dimensions) == 1:
        file.write(b"\x80\x3f" * dimensions[0])  # 1 in bfloat16
        return
    left, at = _nbytes(dimensions), 2 * (zlib.crc32(name.encode()) % _BLOCK)
    while left:
        part = min(left, len(block) // 2)
        file.write(memoryview(block)[at : at + part])
        left, at = left - part, (at + part) % (len(block) // 2)


def _plant(file: BinaryIO, start: int, name: str, dimensions: tuple[int, ...], shape: Shape) -> None:
    """Make the neuron spike, and give it its super weight."""
    import torch

    place = f"model.layers.{shape.layer}.mlp"
    if name in (f"{place}.gate_proj.weight", f"{place}.up_proj.weight"):
        file.seek(start + 2 * shape.in_neuron * shape.hidden)
        row = torch.frombuffer(bytearray(file.read(2 * shape.hidden)), dtype=torch.bfloat16)
        file.seek(-2 * shape.hidden, 1)
        file.write((row * _BOOST).view(torch.uint8).numpy().tobytes())
    if name == f"{place}.down_proj.weight":
        file.seek(start + 2 * (shape.out_channel * dimensions[1] + shape.in_neuron))
        file.write(torch.tensor([_VALUE], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes())
    file.seek(0, 2)
