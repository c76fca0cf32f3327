"""Tensors on their way: fetched by a thread of their own while the program goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event, Lock

import numpy as np

Buffers = dict[str, np.ndarray]
# Fetches tensors, and ends early, with whatever it has, when the event is set.
Fetch = Callable[[list[str], Event], Buffers]


@dataclass(frozen=True, eq=False)
class _Sent:
    """What is on its way: its names, the event that ends it, and what will have come."""

    names: frozenset[str]
    stop: Event
    coming: Future[Buffers]


class Ahead:
    """At most one set of tensors on its way, so that no more than one is held beside what is in use."""

    def __init__(self, fetch: Fetch):
        self._fetch, self._lock = fetch, Lock()
        self._pool = ThreadPoolExecutor(1, "read-ahead")
        self._sent: _Sent | None = None

    def send(self, names: list[str]) -> None:
        """Begin to fetch `names`; nothing happens where something is on its way already."""
        with self._lock:
            if self._sent is None:
                stop = Event()
                self._sent = _Sent(frozenset(names), stop, self._pool.submit(self._fetch, names, stop))

    def take(self, names: Iterable[str] | None = None) -> Buffers:
        """Wait for what is on its way and hand it over, where it has any of `names` (None: in any case).

        Raises what the fetching has raised, once.
        """
        sent = self._sent
        if sent is None or (names is not None and sent.names.isdisjoint(names)):
            return {}
        sent.coming.exception()  # waits, and may be interrupted: then it is still on its way
        with self._lock:
            mine, self._sent = self._sent is sent, None if self._sent is sent else self._sent
        return sent.coming.result() if mine else {}

    def drop(self, names: Iterable[str] | None = None) -> None:
        """End what is on its way, where it has any of `names` (None: in any case); nobody waits for it."""
        with self._lock:
            sent = self._sent
            if sent is not None and (names is None or not sent.names.isdisjoint(names)):
                sent.stop.set()
                self._sent = None

    def close(self) -> None:
        """End everything."""
        self.drop()
        self._pool.shutdown(wait=False, cancel_futures=True)
