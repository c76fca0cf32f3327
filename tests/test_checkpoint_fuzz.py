"""Twelve hundred damaged files made from good ones: each is read, or refused in words, in bounded memory."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tiny_gguf import write_tiny

from superweights.checkpoint import open_checkpoint
from superweights.checkpoint.header import read_header
from superweights.errors import SuperweightsError

pytestmark = pytest.mark.tiny
ABSURD = (0, 1, 7, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
ROOM = 2**30  # bytes of address space that a damaged file may take at most, its 10 kB notwithstanding


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let this process grow by one GiB at most: a size believed unchecked would end in a MemoryError."""
    resource = pytest.importorskip("resource", reason="limits are a matter of Unix")
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("needs Linux's /proc")
    used = int(status.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def damage(data: bytes, chance: random.Random) -> bytes:
    """`data` with one to three things done to it, mostly near its beginning, where the headers are."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        near = min(len(changed), chance.choice((64, 512, len(changed)))) or 1
        DAMAGES[chance.randrange(len(DAMAGES))](changed, chance.randrange(near), chance)
    return bytes(changed)


def flip(data: bytearray, at: int, chance: random.Random) -> None:
    for i in range(at, min(at + chance.randint(1, 8), len(data))):
        data[i] ^= 1 << chance.randrange(8)


def cut(data: bytearray, at: int, chance: random.Random) -> None:
    del data[at : len(data) if chance.random() < 0.5 else at + chance.randint(1, 40)]


def splice(data: bytearray, at: int, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    data[at:at] = data[start : start + chance.randint(1, 200)]


def absurd_number(data: bytearray, at: int, chance: random.Random) -> None:
    data[at : at + 8] = struct.pack("<Q", chance.choice(ABSURD))


def absurd_digits(data: bytearray, at: int, chance: random.Random) -> None:
    found = list(re.finditer(rb"-?\d+", data[:5000]))
    if found:
        match = chance.choice(found)
        size = chance.choice(ABSURD)
        other = (b"%d" % size, b"-1", b"1e999", b"null", b"[]", b'"8"', b"NaN")
        data[match.start() : match.end()] = chance.choice(other)


def other_words(data: bytearray, at: int, chance: random.Random) -> None:
    words = (b"F32", b"BF16", b"shape", b"dtype", b"model", b"llama", b"safetensors", b"weight", b"general")
    old, new = chance.sample(words, 2)
    data[:] = data.replace(old, new, chance.randint(1, 3))


DAMAGES: list[Callable[[bytearray, int, random.Random], None]] = [
    flip,
    cut,
    splice,
    absurd_number,
    absurd_digits,
    other_words,
]


def read_all(path: Path, outcomes: Counter[str]) -> dict[str, torch.Tensor] | None:
    """Everything a checkpoint can be asked for. None where it is refused, in one sentence and a hint."""
    try:
        with open_checkpoint(path) as checkpoint:
            tensors = {name: checkpoint.read(name).clone() for name in checkpoint.tensors}
            checkpoint.fingerprint()
            checkpoint.release(checkpoint.tensors)
            outcomes["read"] += 1
            if checkpoint.config:
                checkpoint.model_config()
                checkpoint.tokenizer()
                outcomes["built"] += 1
            return tensors
    except SuperweightsError as error:
        refusal = error
    outcomes["refused"] += 1
    assert "\n" not in refusal.message
    assert refusal.hint
    return None


def save_shards(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir()
    weight_map = {}
    for i in (1, 2):
        file = f"model-0000{i}-of-00002.safetensors"
        tensors = {f"model.layers.{i}.{name}.weight": torch.randn(4, 6) for name in ("up", "down")}
        save_file(tensors | {f"norm{i}.weight": torch.randn(5).to(torch.bfloat16)}, folder / file)
        weight_map |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(CONFIG))


def as_safetensors_reads(path: Path) -> dict[str, torch.Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError, AttributeError):
        return None


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    def raw(tensor: torch.Tensor) -> bytes:
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return {n: (t.shape, raw(t)) for n, t in ours.items()} == {
        n: (t.shape, raw(t)) for n, t in theirs.items()
    }


def test_six_hundred_damaged_safetensors_files(tmp_path, little_memory):
    """What is accepted reads as the safetensors library reads it."""
    save_shards(tmp_path / "good")
    good = (tmp_path / "good" / "model-00001-of-00002.safetensors").read_bytes()
    path, chance, outcomes = tmp_path / "bad.safetensors", random.Random(1), Counter[str]()
    for _ in range(600):
        path.write_bytes(damage(good, chance))
        ours = read_all(path, outcomes)
        theirs = as_safetensors_reads(path)
        if ours is not None:
            assert theirs is not None
            assert same(ours, theirs)
        outcomes["they read"] += theirs is not None
    assert outcomes["read"] > 20
    assert outcomes["refused"] > 300
    assert outcomes["read"] >= 0.95 * outcomes["they read"], "and we refuse hardly anything that it accepts"


def test_three_hundred_damaged_folders(tmp_path, little_memory):
    save_shards(tmp_path / "good")
    chance, outcomes = random.Random(2), Counter[str]()
    for i in range(300):
        bad = Path(shutil.copytree(tmp_path / "good", tmp_path / "bad"))
        files = sorted(bad.iterdir())
        file = files[i % len(files)]
        file.write_bytes(damage(file.read_bytes(), chance))
        read_all(bad, outcomes)
        shutil.rmtree(bad)
    assert outcomes["built"] > 10
    assert outcomes["refused"] > 100


def test_three_hundred_damaged_gguf_files(tmp_path, little_memory):
    write_tiny(tmp_path / "good.gguf", "llama", "llama", layers=1)
    good = (tmp_path / "good.gguf").read_bytes()
    path, chance, outcomes = tmp_path / "bad.gguf", random.Random(3), Counter[str]()
    for _ in range(300):
        path.write_bytes(damage(good, chance))
        read_all(path, outcomes)
    assert outcomes["read"] > 20
    assert outcomes["refused"] > 100


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    header=st.dictionaries(
        st.text(max_size=5),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "U8", "BF16", "F33", ""]) | st.none(),
                "shape": st.lists(st.integers(-1, 4) | st.sampled_from(ABSURD), max_size=3) | st.none(),
                "data_offsets": st.lists(st.integers(0, 64) | st.sampled_from(ABSURD), max_size=3),
            }
        )
        | st.none(),
        max_size=3,
    ),
    data=st.integers(0, 64),
)
def test_whatever_a_header_claims_accepted_tensors_fill_the_file_exactly(header, data):
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + bytes(data)
    try:
        stored = read_header(lambda first, last: whole[first:last], len(whole), "made")
    except SuperweightsError:
        return
    ends = sorted((tensor.start, tensor.stop) for tensor in stored.values())
    assert [start for start, _ in ends] == [8 + len(text), *(stop for _, stop in ends)][: len(ends)]
    assert (ends[-1][1] if ends else 8 + len(text)) == len(whole)
