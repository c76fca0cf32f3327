"""A store of jobs as bytes, and how it is read again from changed ones: what several kinds of job are tried with."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from superweights.jobs import Kind, Store


def stored(
    folder: Path, kind: Kind, models: dict[str, str], jobs: Sequence[Any], results: Mapping[str, Any]
) -> tuple[bytes, Callable[[bytes], str]]:
    """The bytes of a store that holds `jobs` and the `results` by their keys; and a reader, which says `same`, or that
    a result has become another."""
    keys = [job.key for job in jobs]
    path = folder / "whole.sqlite"
    with Store(path, models, kind) as store:
        store.add(jobs)
        store.finish(dict(results))
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()

    def read(made: bytes) -> str:
        for old in folder.glob("store.sqlite*"):
            old.unlink()
        (folder / "store.sqlite").write_bytes(made)
        with Store(folder / "store.sqlite", models, kind) as store:
            held = store.read(keys)
            store.count(keys)
        other = [k for k, e in held.items() if e.result is not None and e.result != results.get(k)]
        return "wrong: other numbers" if other else "same"

    return path.read_bytes(), read
