"""Read ahead: the next block is on its way while one computes, nothing is read twice, and no more than one is held."""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from fake_hub import FakeHub
from families import save_tiny, tiny_model, token_ids
from huggingface_hub import constants

from superweights.checkpoint import open_checkpoint, ranges
from superweights.errors import SuperweightsError
from superweights.stream import streaming

pytestmark = pytest.mark.tiny
# Blocks larger than what is read to find out what a file holds.
SIZES = {"num_hidden_layers": 5, "intermediate_size": 160}


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[FakeHub]:
    """A server with a tiny Llama; nothing else can be reached."""
    save_tiny("llama", tmp_path / "model", tiny_model("llama", **SIZES))
    server = FakeHub({path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()})
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ranges, "WAIT_SECONDS", 0.01)
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        assert address[0] in ("127.0.0.1", "::1", "localhost"), f"the test tried to reach {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    huggingface_hub.close_session()
    yield server
    server.gate.set()
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


def block(layer: int, checkpoint) -> list[str]:
    return [name for name in checkpoint.tensors if f"layers.{layer}." in name]


@pytest.fixture
def expected(tmp_path, hub) -> dict[str, torch.Tensor]:
    with open_checkpoint(str(tmp_path / "model")) as checkpoint:
        return {name: checkpoint.read(name).clone() for name in checkpoint.tensors}


def test_what_is_read_ahead_comes_while_the_program_goes_on_and_once(hub, expected):
    with open_checkpoint("org/model") as checkpoint:
        names, before = block(2, checkpoint), checkpoint.traffic.bytes
        hub.gate.clear()
        checkpoint.read_ahead(names)  # a server that does not answer holds nobody up
        threading.Timer(0.05, hub.gate.set).start()
        checkpoint.prefetch(names)
        arrived = checkpoint.traffic.bytes
        assert arrived - before == sum(checkpoint.tensors[name].nbytes for name in names)
        for name in names:
            assert torch.equal(checkpoint.read(name), expected[name])
        assert checkpoint.traffic.bytes == arrived


def test_a_read_waits_for_what_is_on_its_way(hub, expected):
    with open_checkpoint("org/model") as checkpoint:
        names = block(1, checkpoint)
        hub.gate.clear()
        checkpoint.read_ahead(names)
        threading.Timer(0.05, hub.gate.set).start()
        assert torch.equal(checkpoint.read(names[0]), expected[names[0]])
        arrived = checkpoint.traffic
        assert all(torch.equal(checkpoint.read(name), expected[name]) for name in names)
        assert checkpoint.traffic == arrived


def test_what_is_released_on_its_way_is_dropped_and_read_whole_later(hub, expected):
    with open_checkpoint("org/model") as checkpoint:
        names = block(3, checkpoint)
        hub.cut = 1  # half of it has come when the connection breaks
        hub.gate.clear()
        checkpoint.read_ahead(names)
        checkpoint.release(names[:1])
        hub.gate.set()
        assert all(torch.equal(checkpoint.read(name), expected[name]) for name in names)


def test_an_error_on_the_way_is_told_to_whoever_reads_and_once(hub, expected):
    with open_checkpoint("org/model") as checkpoint:
        names = block(0, checkpoint)
        hub.drop_all = True
        checkpoint.read_ahead(names)
        with pytest.raises(SuperweightsError, match="failed 6 times"):
            checkpoint.read(names[0])
        hub.drop_all = False
        assert torch.equal(checkpoint.read(names[0]), expected[names[0]])


def test_a_checkpoint_can_be_closed_while_something_is_on_its_way(hub):
    with open_checkpoint("org/model") as checkpoint:
        hub.gate.clear()
        checkpoint.read_ahead(block(0, checkpoint))
    hub.gate.set()
    with pytest.raises(SuperweightsError, match="no tensor"):
        checkpoint.read_ahead(["nothing"])


class Held:
    """Bytes of the buffers that are alive, and the most that were at a time."""

    def __init__(self, make):
        self._make, self._lock, self.now, self.most = make, threading.Lock(), 0, 0

    def __call__(self, size: int, name: str) -> np.ndarray:
        buffer = self._make(size, name)
        with self._lock:
            self.now += size
            self.most = max(self.most, self.now)
        weakref.finalize(buffer, self._gone, size)
        return buffer

    def _gone(self, size: int) -> None:
        self.now -= size


def test_a_streamed_model_computes_while_the_next_block_is_on_its_way_and_holds_no_more_than_that(
    hub, tmp_path, monkeypatch
):
    """The server answers about block 2 only when block 1 has computed."""
    held, ids, received = Held(ranges._room), token_ids(), []
    monkeypatch.setattr(ranges, "_room", held)
    with open_checkpoint(str(tmp_path / "model")) as local, streaming(local, resident=False) as whole:
        expected = whole(input_ids=ids).logits
    with open_checkpoint("org/model") as checkpoint, streaming(checkpoint, resident=False) as model:
        sizes = [sum(checkpoint.tensors[name].nbytes for name in block(n, checkpoint)) for n in range(5)]
        stay = sum(info.nbytes for info in checkpoint.tensors.values()) - sum(sizes)
        prefetch = ranges.RemoteStore.prefetch

        def arrived(store, names) -> None:
            prefetch(store, names)
            if block(1, checkpoint)[0] in names:
                hub.gate.clear()
                received.append(checkpoint.traffic.bytes)

        def computed(*_: Any) -> None:
            received.append(checkpoint.traffic.bytes)
            hub.gate.set()

        monkeypatch.setattr(ranges.RemoteStore, "prefetch", arrived)
        model.model.layers[1].mlp.register_forward_hook(computed)
        logits = model(input_ids=ids).logits
        assert checkpoint.traffic.bytes > received[0] + sum(sizes[2:]) - 1
    assert torch.equal(logits, expected)
    assert received[1] == received[0]
    assert max(sizes) < held.most <= stay + 2 * max(sizes)


def test_a_second_pass_reads_every_block_again_and_gives_the_same(hub):
    ids = token_ids()
    with open_checkpoint("org/model") as checkpoint, streaming(checkpoint, resident=False) as model:
        first = model(input_ids=ids).logits
        once = checkpoint.traffic.bytes
        assert torch.equal(model(input_ids=ids).logits, first)
        blocks = sum(checkpoint.tensors[name].nbytes for n in range(5) for name in block(n, checkpoint))
        assert checkpoint.traffic.bytes - once <= blocks + 2 * blocks / 5
