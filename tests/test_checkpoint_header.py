"""Safetensors headers that lie: each refused for its own reason."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from superweights.checkpoint import open_checkpoint
from superweights.errors import SuperweightsError

pytestmark = pytest.mark.unit


def refusal(path: Path) -> SuperweightsError:
    with pytest.raises(SuperweightsError) as caught:
        open_checkpoint(path)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def file_of(header: bytes, data: bytes = bytes(8), *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(**changes: Any) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}).encode()


GOOD = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
BAD = {
    "has 3 bytes": b"abc",
    "claims 9,223,372,036,854,775,807 bytes": file_of(GOOD, length=2**63 - 1),
    "claims 100,000,001 bytes": file_of(GOOD, length=100_000_001),
    "does not begin with {": file_of(b"[]"),
    "not valid JSON": file_of(b'{"a":'),
    "a name appears twice": file_of(GOOD[:-1] + b"," + GOOD[1:]),
    "lacks dtype, shape or data_offsets": file_of(b'{"a":{"dtype":"F32"}}'),
    "lacks dtype": file_of(b'{"a":[]}'),
    "cannot be read here": file_of(entry(dtype="F33")),
    "the shape of 'a' is impossible": file_of(entry(shape=[-2])),
    "the shape of 'a' is impossible ": file_of(entry(shape=[2**62, 2**62])),
    "the shape of 'a' is impossible  ": file_of(entry(shape=[2**62, 2**62, 0], data_offsets=[0, 0])),
    "the shape of 'a' is impossible   ": file_of(entry(shape=[2.0])),
    "the shape of 'a' is impossible    ": file_of(entry(shape=[1] * 65 + [2])),
    "are not two whole numbers": file_of(entry(data_offsets=[0])),
    "are not two whole numbers ": file_of(entry(data_offsets=[0, True])),
    "ends at byte": file_of(entry(shape=[4], data_offsets=[0, 16])),
    "ends at byte ": file_of(entry(data_offsets=[8, 0])),
    "do not fit F32": file_of(entry(shape=[3])),
    "follows a hole": file_of(entry(data_offsets=[4, 12]), bytes(12)),
    "belong to nothing": file_of(GOOD, bytes(9)),
    "overlaps": file_of(
        json.dumps({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}).encode()
    ),
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}


@pytest.mark.parametrize("reason", BAD)
def test_a_damaged_header_is_refused_for_its_reason(tmp_path, reason):
    (tmp_path / "model.safetensors").write_bytes(BAD[reason])
    assert reason.strip() in refusal(tmp_path).message


def test_the_sound_file_that_the_damaged_ones_are_made_from_is_read(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(file_of(GOOD, struct.pack("<2f", 1, 2)))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.read("a").tolist() == [1, 2]


def test_data_at_an_odd_address_is_read_all_the_same(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(file_of(GOOD + b" ", struct.pack("<2f", 1, 2)))
    assert (8 + len(GOOD) + 1) % 4
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.read("a").tolist() == [1, 2]
        assert checkpoint.element("a", (1,)) == 2


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="relies on sparse files and Linux's memory rules"
)
@pytest.mark.parametrize("shift", [0, 1], ids=["aligned", "at an odd address"])
def test_a_file_far_larger_than_memory_opens_and_its_last_number_is_read(tmp_path, shift):
    rows = 2**30 // 8  # times 1024 float32 numbers: 512 GiB, of which the disk holds a few kilobytes
    header = entry(shape=[rows, 1024], data_offsets=[0, rows * 4096])
    header += b" " * (-len(header) % 8 + shift)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(file_of(header, b""))
        file.truncate(8 + len(header) + rows * 4096)
        file.seek(-4, 2)
        file.write(struct.pack("<f", 7.0))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.element("a", (rows - 1, 1023)) == 7.0
        assert len(checkpoint.fingerprint()) == 32
        if shift:
            with pytest.raises(SuperweightsError, match="odd address"):
                checkpoint.read("a")
        else:
            assert checkpoint.read("a")[-1, -1] == 7.0
