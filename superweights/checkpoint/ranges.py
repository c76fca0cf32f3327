"""Safetensors files read over HTTP by byte ranges: only the bytes asked for travel."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event, Lock
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import numpy as np
import torch
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from superweights.checkpoint.ahead import Ahead
from superweights.checkpoint.header import DTYPES, Stored, damaged, read_header
from superweights.checkpoint.hub_errors import HTTP_ERRORS, explained
from superweights.checkpoint.shards import info_of, places_of
from superweights.checkpoint.tensors import Traffic, tensor_over
from superweights.errors import SuperweightsError

FIRST_READ = 64 * 1024  # most headers fit, so that a shard's description takes one request
GAP = 64 * 1024  # neighbours closer than this travel in one request
LONGEST_RUN = 256 * 1024 * 1024  # but no request is longer, so that several can run at a time
TRIES = 6
WAIT_SECONDS = 0.5  # before the second try; doubles each time
_LONGEST_WAIT = 30.0
_WORKERS = 4
_AGAIN = (408, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)$")

Write = Callable[[int, bytes], None]


class Meter:
    """Counts requests and bytes, from several threads."""

    def __init__(self) -> None:
        self._lock, self.traffic = Lock(), Traffic()

    def add(self, *, requests: int = 0, received: int = 0) -> None:
        with self._lock:
            old = self.traffic
            self.traffic = replace(old, requests=old.requests + requests, bytes=old.bytes + received)


class RemoteFile:
    """One file on a server that answers range requests."""

    def __init__(self, url: str, meter: Meter):
        self.url, self.meter = url, meter
        self.size: int | None = None
        self._signed: str | None = None  # where the hub sent us last time, good for a while

    def span(self, first: int, last: int, stop: Event | None = None) -> bytearray:
        """Bytes `first` to `last`; fewer only where the file ends."""
        buffer = bytearray()
        self.fetch(first, last, lambda at, chunk: buffer.extend(chunk), stop)
        return buffer

    def fetch(self, first: int, last: int, write: Write, stop: Event | None = None) -> None:
        """Hand every byte from `first` to `last` to `write(position, chunk)`, once and in order.

        A dropped connection is taken up where it broke; `stop` ends it early, without a word. Raises
        `SuperweightsError` when the server cannot or will not send the range.
        """
        at, failures, stop = first, 0, stop or Event()
        while at < (last if self.size is None else min(last, self.size)) and not stop.is_set():
            before, broken = at, None
            try:
                for chunk in self._stream(at, last):
                    if stop.is_set():
                        return
                    write(at, chunk)
                    at += len(chunk)
            except HfHubHTTPError:
                raise
            except HTTP_ERRORS as error:
                broken = error
            failures = failures + 1 if at == before else 0
            if failures:
                stop.wait(self._patience(failures, broken))

    def _stream(self, at: int, last: int) -> Iterable[bytes]:
        """The chunks of one answer, after its status and range have been checked."""
        signed = self._signed  # read once: another thread may change it, and a token belongs to the hub only
        headers = {} if signed else dict(build_hf_headers())
        headers |= {"Range": f"bytes={at}-{last - 1}", "Accept-Encoding": "identity"}
        self.meter.add(requests=1)
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream(
            "GET", signed or self.url, headers=headers, timeout=timeout, follow_redirects=True
        ) as response:
            left = self._check(response, at, last)
            for chunk in response.iter_raw():
                self.meter.add(received=len(chunk))
                if not left:
                    return  # more than was asked for
                yield chunk[:left]
                left -= min(left, len(chunk))

    def _check(self, response: Any, at: int, last: int) -> int:
        """How many bytes the answer brings, or the reason why it is of no use."""
        if response.status_code in (401, 403) and self._signed:
            self._signed = None  # the signature has run out: ask the hub again
            raise _Again(f"HTTP {response.status_code}")
        if response.status_code in _AGAIN:
            raise _Again(f"HTTP {response.status_code}", _seconds(response.headers.get("Retry-After")))
        if response.status_code == 416:
            raise damaged(self.url, f"it ends before byte {at:,}, which its description promises")
        hf_raise_for_status(response)
        match = _RANGE.match(response.headers.get("Content-Range", ""))
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        if response.status_code != 206 or match is None or encoded:
            raise SuperweightsError(
                f"The server of {self.url} does not send parts of files (HTTP {response.status_code}).",
                hint="download the whole checkpoint first (hf download NAME), then open it again.",
            )
        start, end, size = (int(number) for number in match.groups())
        if start != at or not at <= end < min(last, size) or size != (self.size or size):
            raise damaged(self.url, "the server sent another part of the file than the one asked for")
        self.size = size
        if urlsplit(str(response.url)).netloc != urlsplit(self.url).netloc:
            self._signed = str(response.url)
        return end + 1 - start

    def _patience(self, failures: int, error: Exception | None) -> float:
        """Seconds to wait before the next try, more each time. Raises after the last."""
        if failures >= TRIES:
            raise SuperweightsError(
                f"The connection to {self.url} failed {TRIES} times ({error or 'it sent nothing'}).",
                hint="check the network, and try again.",
            ) from error
        wait = getattr(error, "wait", None) or WAIT_SECONDS * 2 ** (failures - 1)
        return min(wait, _LONGEST_WAIT)


class _Again(HTTP_ERRORS):  # type: ignore[valid-type, misc]
    """An answer worth another try, perhaps after `wait` seconds."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


class RemoteStore:
    """Tensors of safetensors shards on a server. Fetched ones stay in memory until released."""

    format = "safetensors"

    def __init__(self, urls: Mapping[str, str], weight_map: Mapping[str, str] | None = None, *, origin: str):
        """`urls` maps shard file names to addresses; `origin` names the checkpoint in messages.

        Reads all headers, several at a time.
        """
        self._meter, self._lock, self._origin = Meter(), Lock(), origin
        self._files = {name: RemoteFile(url, self._meter) for name, url in urls.items()}
        with explained(origin):
            headers = in_parallel(_header_of, self._files.values())
        self._places = places_of(dict(zip(self._files, headers, strict=True)), weight_map)
        self.tensors = {name: info_of(name, stored) for name, (_, stored) in self._places.items()}
        self._kept: dict[str, np.ndarray] = {}
        self._seen: WeakValueDictionary[str, np.ndarray] = WeakValueDictionary()
        self._ahead = Ahead(self._fetch_all)

    @property
    def traffic(self) -> Traffic:
        return self._meter.traffic

    def read(self, name: str) -> torch.Tensor:
        """The tensor over fetched bytes; fetched now unless prefetched, on its way, or still in use somewhere."""
        self._arrive([name])
        with self._lock:
            buffer = self._kept.get(name, self._seen.get(name))
        if buffer is None:
            buffer = self._fetch([name])[name]
        stored = self._places[name][1]
        return tensor_over(buffer, DTYPES[stored.dtype], 0, self.tensors[name].size).reshape(stored.shape)

    def read_span(self, name: str, first: int, last: int) -> torch.Tensor:
        if name in self._kept or name in self._seen:
            return self.read(name).reshape(-1)[first:last]
        dtype = DTYPES[self._places[name][1].dtype]
        data = self._exactly(name, first * dtype.itemsize, last * dtype.itemsize)
        return tensor_over(data, dtype, 0, last - first)

    def raw(self, name: str, first: int, last: int) -> bytes:
        return bytes(self._exactly(name, first, last))

    def prefetch(self, names: Iterable[str]) -> None:
        """Fetch these tensors, neighbours together, a few requests at a time, and keep them."""
        names = list(names)
        self._arrive(names)
        fetched = self._fetch_all(self._missing(names), Event())
        with self._lock:
            self._kept |= fetched

    def read_ahead(self, names: Iterable[str]) -> None:
        """As `prefetch`, in a thread of its own; what was sent for before is waited for."""
        self._arrive(None)
        missing = self._missing(list(names))
        if missing:
            self._ahead.send(missing)

    def release(self, names: Iterable[str]) -> None:
        names = list(names)
        self._ahead.drop(names)
        with self._lock:
            for name in names:
                self._kept.pop(name, None)
                self._seen.pop(name, None)

    def close(self) -> None:
        self._ahead.close()
        self.release(list(self._kept))

    def _missing(self, names: list[str]) -> list[str]:
        """Those of `names` that are to be fetched, each once; what is still in use somewhere is kept from now on."""
        with self._lock:
            self._kept |= {name: self._seen[name] for name in names if name in self._seen}
            return [name for name in dict.fromkeys(names) if name not in self._kept]

    def _arrive(self, names: Iterable[str] | None) -> None:
        """Keep what was read ahead, when it is there, where it has any of `names` (None: in any case)."""
        fetched = self._ahead.take(names)
        with self._lock:
            self._kept |= fetched

    def _fetch_all(self, names: list[str], stop: Event) -> dict[str, np.ndarray]:
        """The bytes of these tensors, neighbours together, a few requests at a time."""
        runs = in_parallel(self._fetch, self._runs(names), stop)
        return {name: buffer for run in runs for name, buffer in run.items()}

    def _runs(self, names: Iterable[str]) -> list[list[str]]:
        """The names in groups that lie close together in one file, each group one request."""
        runs: list[list[str]] = []
        for name in sorted(names, key=lambda name: (self._places[name][0], self._places[name][1].start)):
            file, stored = self._places[name]
            last = self._places[runs[-1][-1]] if runs else None
            near = last is not None and last[0] == file and stored.start - last[1].stop <= GAP
            if near and stored.stop - self._places[runs[-1][0]][1].start <= LONGEST_RUN:
                runs[-1].append(name)
            else:
                runs.append([name])
        return runs

    def _fetch(self, run: list[str], stop: Event | None = None) -> dict[str, np.ndarray]:
        """The bytes of one run of neighbours, each tensor in its own memory."""
        places = [self._places[name][1] for name in run]
        buffers = [_room(stored.stop - stored.start, run[0]) for stored in places]

        def write(at: int, chunk: bytes) -> None:
            for stored, buffer in zip(places, buffers, strict=True):
                first, last = max(at, stored.start), min(at + len(chunk), stored.stop)
                if first < last:
                    part = np.frombuffer(chunk, np.uint8, last - first, first - at)
                    buffer[first - stored.start : last - stored.start] = part

        with explained(self._origin):
            self._files[self._places[run[0]][0]].fetch(places[0].start, places[-1].stop, write, stop)
        fetched = dict(zip(run, buffers, strict=True))
        with self._lock:
            if stop is not None and stop.is_set():
                return {}  # perhaps not all of it has come
            self._seen.update(fetched)
        return fetched

    def _exactly(self, name: str, first: int, last: int) -> bytearray:
        file, stored = self._places[name]
        with explained(self._origin):
            return self._files[file].span(stored.start + first, stored.start + last)


def in_parallel(
    work: Callable[[Any, Event], Any], items: Iterable[Any], stop: Event | None = None
) -> list[Any]:
    """`work(item, stop)` for every item, a few at a time. The first error, Ctrl-C, or `stop` stops all of them."""
    stop = stop or Event()
    with ThreadPoolExecutor(_WORKERS) as pool:
        try:
            return list(pool.map(lambda item: work(item, stop), items))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _header_of(file: RemoteFile, stop: Event) -> dict[str, Stored]:
    """The header of a remote file: one request where it is short, two where it is long."""
    head = file.span(0, FIRST_READ, stop)

    def read(first: int, last: int) -> bytes:
        rest = file.span(max(first, len(head)), last, stop) if last > len(head) else b""
        return bytes(head[first:last]) + bytes(rest)

    return read_header(read, file.size or 0, file.url)


def _room(size: int, name: str) -> np.ndarray:
    try:
        return np.empty(size, np.uint8)
    except MemoryError:
        raise SuperweightsError(
            f"There is no memory for {name} ({size:,} bytes).", hint="read it in parts, with read_rows."
        ) from None


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None
