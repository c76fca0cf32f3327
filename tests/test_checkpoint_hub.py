"""The hub, played by a server on this machine: what is asked of it, what it costs, how its refusals read."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from fake_hub import COMMIT, FakeHub
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from superweights.checkpoint import open_checkpoint, ranges
from superweights.errors import SuperweightsError

pytestmark = pytest.mark.unit
CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Two shards with their index: four blocks, each with a down-projection between other tensors."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for layer in range(4):
        shard = shards.setdefault(f"model-{layer // 2 + 1:05}-of-00002.safetensors", {})
        for name, shape in {"a_proj": (300, 200), "mlp.down_proj": (64, 256), "z_proj": (300, 200)}.items():
            shard[f"model.layers.{layer}.{name}.weight"] = torch.randn(shape).to(torch.bfloat16)
        shard[f"model.layers.{layer}.norm.weight"] = torch.randn(64)
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def expected(weights) -> dict[str, torch.Tensor]:
    return {name: t for file in weights.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.fixture
def hub(weights, tmp_path, monkeypatch) -> Iterator[FakeHub]:
    """The server, with huggingface_hub pointed at it, an empty cache, and every other address unreachable."""
    server = FakeHub({path.name: path.read_bytes() for path in weights.iterdir()})
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(ranges, "WAIT_SECONDS", 0.01)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        assert address[0] in ("127.0.0.1", "::1", "localhost"), f"the test tried to reach {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


DOWN = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(4)]


def test_tensors_read_by_range_equal_the_file(hub, expected):
    with open_checkpoint("org/model") as checkpoint:
        assert checkpoint.revision == COMMIT
        assert checkpoint.path is None
        assert {name: info.shape for name, info in checkpoint.tensors.items()} == {
            name: tuple(tensor.shape) for name, tensor in expected.items()
        }
        for name, tensor in expected.items():
            assert torch.equal(checkpoint.read(name), tensor)
            assert torch.equal(checkpoint.read_rows(name, 3, 5), tensor[3:5])
            assert checkpoint.element(name, (7,) * tensor.dim()) == tensor[(7,) * tensor.dim()].item()
        assert checkpoint.model_config().hidden_size == 64


def test_four_down_projections_cost_their_own_bytes(hub):
    with open_checkpoint("org/model") as checkpoint:
        opened = checkpoint.traffic
        assert opened.requests == 2, "one request for each shard's header"
        checkpoint.prefetch(DOWN)
        fetched = checkpoint.traffic
        assert fetched.bytes - opened.bytes == sum(checkpoint.tensors[name].nbytes for name in DOWN)
        assert fetched.requests - opened.requests == 4
        for name in DOWN:
            checkpoint.read(name)
        assert checkpoint.traffic == fetched, "prefetched tensors are not fetched again"


def test_neighbours_travel_in_one_request(hub, expected):
    names = [name for name in expected if name.startswith("model.layers.1.") and "norm" not in name]
    with open_checkpoint("org/model") as checkpoint:
        opened = checkpoint.traffic
        checkpoint.prefetch([*names, *names])
        assert checkpoint.traffic.requests - opened.requests == 1
        for name in names:
            assert torch.equal(checkpoint.read(name), expected[name])
        checkpoint.release(names)
        again = checkpoint.traffic.requests
        assert torch.equal(checkpoint.read(names[0]), expected[names[0]])
        assert checkpoint.traffic.requests == again + 1, "released bytes are gone"


def test_a_row_and_a_number_cost_a_row_and_a_number(hub, expected):
    with open_checkpoint("org/model") as checkpoint:
        before = checkpoint.traffic.bytes
        checkpoint.read_rows(DOWN[0], 10, 12)
        assert checkpoint.traffic.bytes - before == 2 * 256 * 2
        checkpoint.element(DOWN[0], (5, 5))
        assert checkpoint.traffic.bytes - before == 2 * 256 * 2 + 2


def test_edits_of_a_remote_tensor_end_with_release(hub, expected):
    with open_checkpoint("org/model") as checkpoint:
        checkpoint.prefetch(DOWN[:1])
        checkpoint.read(DOWN[0]).zero_()
        assert not checkpoint.read(DOWN[0]).any()
        checkpoint.release(DOWN[:1])
        assert torch.equal(checkpoint.read(DOWN[0]), expected[DOWN[0]])


def test_cut_connections_and_busy_servers_are_tried_again_where_they_broke(hub, expected):
    hub.busy = 3
    with open_checkpoint("org/model") as checkpoint:
        hub.cut = 3
        checkpoint.prefetch(DOWN)
        assert hub.cut == 0
        for name in DOWN:
            assert torch.equal(checkpoint.read(name), expected[name])


def test_a_connection_that_stalls_is_given_up_and_taken_up_again(hub, expected, monkeypatch):
    with open_checkpoint("org/model") as checkpoint:
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
        hub.stall = 0.6
        assert torch.equal(checkpoint.read(DOWN[0]), expected[DOWN[0]])
    assert len(hub.asked("model-00001-of-00002.safetensors")) == 3, "the header, the stalled half, the rest"


def test_a_dead_connection_is_given_up_after_a_few_tries(hub):
    with open_checkpoint("org/model") as checkpoint:
        hub.drop_all = True
        with pytest.raises(SuperweightsError, match="failed 6 times"):
            checkpoint.read(DOWN[0])
        with pytest.raises(SuperweightsError, match="failed 6 times"):
            checkpoint.prefetch(DOWN)


def test_a_server_without_ranges_is_not_misread(hub):
    hub.ranges = False
    with pytest.raises(SuperweightsError, match="does not send parts of files"):
        open_checkpoint("org/model")


def test_another_range_than_the_one_asked_for_is_not_misread(hub):
    with open_checkpoint("org/model") as checkpoint:
        hub.shift = 2
        with pytest.raises(SuperweightsError, match="another part"):
            checkpoint.read(DOWN[0])


def test_a_file_that_changes_while_it_is_read_is_noticed(hub):
    with open_checkpoint("org/model") as checkpoint:
        hub.files = {name: data + b"\0" for name, data in hub.files.items()}
        with pytest.raises(SuperweightsError, match="another part"):
            checkpoint.read(DOWN[0])


def test_signed_addresses_get_no_token_and_are_renewed_when_they_expire(hub, expected):
    hub.redirect = True
    with open_checkpoint("org/model") as checkpoint:
        assert torch.equal(checkpoint.read(DOWN[0]), expected[DOWN[0]])
        hub.expire = 1
        assert torch.equal(checkpoint.read(DOWN[1]), expected[DOWN[1]])
    signed = [headers for _, path, headers in hub.seen if path.startswith("/signed")]
    assert len(signed) >= 4
    assert all("authorization" not in headers for headers in signed)
    direct = [h for _, path, h in hub.seen if path.startswith("/org/") and path.endswith(".safetensors")]
    assert direct
    assert all(headers["authorization"] == "Bearer hf_secret" for headers in direct)


def test_everything_is_read_at_the_commit_found_first(hub):
    with open_checkpoint("org/model@v2") as checkpoint:
        checkpoint.read(DOWN[0])
        assert checkpoint.revision == COMMIT
    paths = [path for _, path, _ in hub.seen if "/resolve/" in path]
    assert paths
    assert all(f"/resolve/{COMMIT}/" in path for path in paths)


def test_a_downloaded_model_is_opened_from_the_cache_and_offline(hub, weights, expected, monkeypatch):
    folder = Path(huggingface_hub.snapshot_download("org/model", endpoint=hub.url, max_workers=1))
    hub.seen.clear()
    with open_checkpoint("org/model") as checkpoint:
        assert checkpoint.path == folder
        assert torch.equal(checkpoint.read(DOWN[2]), expected[DOWN[2]])
        online = checkpoint.fingerprint()
    assert not hub.asked(".safetensors")
    hub.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with open_checkpoint("org/model") as checkpoint:
        assert (checkpoint.path, checkpoint.revision) == (folder, COMMIT)
        assert checkpoint.fingerprint() == online
    assert not hub.seen


def test_the_fingerprint_is_the_same_by_range_and_on_disk(hub, weights):
    with open_checkpoint("org/model") as remote, open_checkpoint(weights) as local:
        assert remote.fingerprint() == local.fingerprint()
        assert remote.origin()["revision"] == COMMIT


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        ((403, "GatedRepo"), "org/model is gated"),
        ((401, "GatedRepo"), "org/model is gated"),
        ((401, ""), "is private"),
        ((404, "RepoNotFound"), "There is no org/model here nor on the hub"),
        ((500, ""), "HTTP 500"),
        ((429, ""), "too many requests"),
    ],
)
def test_a_refusal_is_explained(hub, refusal, sentence):
    hub.refuse = refusal
    with pytest.raises(SuperweightsError, match=re.escape(sentence)) as caught:
        open_checkpoint("org/model")
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_gated_repository_that_shows_its_list_of_files_is_explained_too(hub):
    hub.refuse_files = (403, "GatedRepo")
    with pytest.raises(SuperweightsError, match="is gated"):
        open_checkpoint("org/model")
    del hub.files["config.json"], hub.files["model.safetensors.index.json"]
    with pytest.raises(SuperweightsError, match="is gated"):
        open_checkpoint("org/model")


def test_an_unknown_revision_is_explained(hub):
    with pytest.raises(SuperweightsError, match="no such revision"):
        open_checkpoint("org/model@nowhere")
    with pytest.raises(SuperweightsError, match="one revision"):
        open_checkpoint("org/model@v2", revision="main")


def test_no_network_is_explained(hub, monkeypatch):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(
        SuperweightsError, match="There is no file or folder org/model, and the hub did not answer"
    ):
        open_checkpoint("org/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SuperweightsError, match="offline mode is on"):
        open_checkpoint("org/model")


def test_half_a_download_does_not_open_offline(hub, monkeypatch):
    open_checkpoint("org/model").close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SuperweightsError, match="only partly downloaded"):
        open_checkpoint(f"org/model@{COMMIT}")


def test_the_first_failure_stops_all_threads_where_they_are(hub):
    """Ctrl-C reaches the main thread only; the others must not read on to the end."""
    ended: list[bool] = []

    def work(item: int, stop: threading.Event) -> None:
        if item == 0:
            raise KeyboardInterrupt
        ended.append(stop.wait(30))

    with pytest.raises(KeyboardInterrupt):
        ranges.in_parallel(work, range(50))
    assert len(ended) <= 4
    assert all(ended)


def test_a_stopped_read_asks_for_nothing_more(hub):
    with open_checkpoint("org/model") as checkpoint:
        stop, got = threading.Event(), bytearray()
        file = ranges.RemoteFile(
            f"{hub.url}/org/model/resolve/{COMMIT}/model-00001-of-00002.safetensors", ranges.Meter()
        )
        stop.set()
        file.fetch(0, 1000, lambda at, chunk: got.extend(chunk), stop)
        assert not got
        assert file.meter.traffic.requests == 0
        assert checkpoint.read(DOWN[0]).shape == (64, 256)


@pytest.mark.parametrize(
    "name",
    [
        "./org/model",
        "/org/model",
        "../model",
        "~/model",
        "a/b/c",
        "model.gguf",
        "org/model.safetensors",
        "a b",
        "",
    ],
)
def test_what_looks_like_a_path_is_never_sent_to_the_hub(hub, name):
    with pytest.raises(SuperweightsError, match="no file or folder"):
        open_checkpoint(name)
    assert not hub.seen


def test_a_folder_wins_over_a_hub_name(hub, weights, tmp_path, monkeypatch):
    shutil.copytree(weights, tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    with open_checkpoint("org/model") as checkpoint:
        assert checkpoint.revision is None
    assert not hub.seen


def test_repositories_without_safetensors_say_what_they_hold(hub):
    hub.files = {"config.json": b"{}", "model.Q4_0.gguf": b"GGUF"}
    with pytest.raises(SuperweightsError, match="only GGUF files"):
        open_checkpoint("org/model")
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"PK"}
    with pytest.raises(SuperweightsError, match="pickled"):
        open_checkpoint("org/model")


def test_it_works_from_the_environment_alone(hub, weights, tmp_path):
    """As a user would: HF_ENDPOINT and HF_HOME in the environment of a fresh process."""
    code = (
        "from superweights.checkpoint import open_checkpoint\n"
        f"print(open_checkpoint('org/model').element({DOWN[0]!r}, (1, 2)))"
    )
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "PATH": "",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == load_file(weights / "model-00001-of-00002.safetensors")[DOWN[0]][1, 2].item()
