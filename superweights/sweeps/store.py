"""One file that holds a sweep: SQLite in WAL mode, safe against killed writers, shared by several processes.

Source for the choice: three writers killed with kill -9 after a second left a sound file, and the restarted
run had every row; a second DuckDB writer dies instead. SQLite's locks do not work on network file systems,
so a store belongs to one machine.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from superweights.errors import SuperweightsError
from superweights.record import to_json_line, versions
from superweights.sweeps.cell import Cell, Numbers
from superweights.sweeps.owner import is_gone

SCHEMA_VERSION = 1
# Marks the file as ours: "swts" in ASCII.
_APPLICATION = 0x73777473
# A claim is given up by this time, in seconds, unless its worker says that it is alive.
LEASE = 60.0
# After so many deaths of its worker a cell is measured alone; after so many it has failed.
_ALONE_AFTER, _FAILED_AFTER = 2, 4
_BUSY_SECONDS = 60.0

_TABLES = """
CREATE TABLE IF NOT EXISTS model (fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cell (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL REFERENCES model,
    cell TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'done', 'failed')),
    numbers TEXT,
    sentence TEXT,
    hint TEXT,
    versions TEXT,
    finished REAL,
    owner TEXT,
    lease REAL,
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS cell_open ON cell (status, owner);
"""


@dataclass(frozen=True)
class Entry:
    """What a store holds of a cell: `status` is open, done (with numbers) or failed (with a sentence and a hint)."""

    cell: Cell
    status: str
    numbers: Numbers | None = None
    sentence: str | None = None
    hint: str | None = None
    versions: dict[str, str] | None = None


class Store:
    """An open store. Each process, and each thread, opens its own; use it in a `with`.

    `models` maps the fingerprints that the sweep is over to the models' names. A new store is made for them;
    one that was made for other models, or by another version, is refused and left as it is. Raises
    `SuperweightsError` also for a file that is damaged or no store.
    """

    def __init__(self, path: str | Path, models: Mapping[str, str]):
        self.path = Path(path)
        self._wanted: tuple[str, ...] | None = None
        with self._explained():
            self._db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            with self._explained():
                self._prepare(models)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, cells: Iterable[Cell]) -> None:
        """Take the cells in that are not there yet, as open ones, in this order."""
        rows = [(cell.key, cell.model, cell.to_json()) for cell in cells]
        with self._transaction("IMMEDIATE"):
            self._db.executemany("INSERT OR IGNORE INTO cell (key, model, cell) VALUES (?, ?, ?)", rows)

    def claim(self, keys: Sequence[str], owner: str, limit: int) -> list[Cell]:
        """Up to `limit` open cells of `keys` for `owner` alone, until it finishes or releases them or dies.

        Cells whose workers died before are handed out one at a time, in case they are the reason; one that has
        cost four workers their lives is recorded as failed.
        """
        free = "status = 'open' AND (owner IS NULL OR lease < :now)"
        names = {"now": time.time(), "owner": owner, "lease": time.time() + LEASE}
        with self._transaction("IMMEDIATE"):
            self._want(keys)
            self._db.execute(
                "UPDATE cell SET status = 'failed', owner = NULL, sentence = :sentence, hint = :hint "
                f"WHERE {free} AND attempts >= {_FAILED_AFTER} AND key IN wanted",
                {**names, "sentence": "Every worker that measured this cell died.", "hint": _DEATHS},
            )
            for condition, most in (("attempts < ", limit), ("attempts >= ", 1)):
                chosen = (
                    f"SELECT number FROM cell WHERE {free} AND {condition}{_ALONE_AFTER} "
                    "AND key IN wanted ORDER BY number LIMIT :most"
                )
                rows = self._db.execute(
                    f"UPDATE cell SET owner = :owner, lease = :lease, attempts = attempts + 1 "
                    f"WHERE number IN ({chosen}) RETURNING number, cell",
                    {**names, "most": most},
                ).fetchall()
                if rows:
                    return [Cell.from_json(text) for _, text in sorted(rows)]
        return []

    def finish(self, results: Mapping[str, Numbers | SuperweightsError]) -> None:
        """Write what became of cells, by key, all in one step. A result that is there already stays."""
        stamp, made_with = time.time(), json.dumps(versions())
        rows = [(*_columns(result), made_with, stamp, key) for key, result in results.items()]
        with self._transaction("IMMEDIATE"):
            self._db.executemany(
                "UPDATE cell SET status = ?, numbers = ?, sentence = ?, hint = ?, versions = ?, finished = ?, "
                "owner = NULL WHERE key = ? AND status = 'open'",
                rows,
            )

    def renew(self, owner: str) -> None:
        """Say that `owner` is alive."""
        with self._transaction("IMMEDIATE"):
            self._db.execute("UPDATE cell SET lease = ? WHERE owner = ?", (time.time() + LEASE, owner))

    def release(self, owner: str, *, died: bool = False) -> None:
        """Give up what `owner` has claimed; unless it died, the attempt does not count."""
        with self._transaction("IMMEDIATE"):
            self._db.execute(
                "UPDATE cell SET owner = NULL, attempts = attempts - ? WHERE owner = ?", (not died, owner)
            )

    def release_the_gone(self) -> None:
        """Give up the claims of processes of this machine that are no more."""
        with self._explained():
            owners = self._db.execute("SELECT DISTINCT owner FROM cell WHERE owner IS NOT NULL").fetchall()
        for (owner,) in owners:
            if is_gone(owner):
                self.release(owner, died=True)

    def reopen_failed(self, keys: Sequence[str]) -> None:
        """Let the failed cells of `keys` be tried again."""
        with self._transaction("IMMEDIATE"):
            self._want(keys)
            self._db.execute(
                "UPDATE cell SET status = 'open', sentence = NULL, hint = NULL, attempts = 0 "
                "WHERE status = 'failed' AND key IN wanted"
            )

    def count(self, keys: Sequence[str]) -> dict[str, int]:
        """How many of `keys` are `open`, `done` and `failed`, and how many of the open ones are `free`."""
        with self._transaction("DEFERRED"):
            self._want(keys)
            rows = self._db.execute(
                "SELECT status, count(*), sum(owner IS NULL OR lease < ?) FROM cell "
                "WHERE key IN wanted GROUP BY status",
                (time.time(),),
            ).fetchall()
        found = {"open": 0, "done": 0, "failed": 0, "free": 0}
        for status, number, free in rows:
            found[status] = number
            found["free"] += free if status == "open" else 0
        return found

    def read(self, keys: Sequence[str]) -> dict[str, Entry]:
        """What is held of `keys`."""
        with self._transaction("DEFERRED"):
            self._want(keys)
            return dict(self._entries("WHERE key IN wanted"))

    def export(self) -> Iterator[str]:
        """Every cell as a line of JSON, in the order in which they came."""
        with self._explained():
            for key, entry in self._entries(""):
                data = asdict(entry)
                yield to_json_line({"key": key, **data, "cell": json.loads(entry.cell.to_json())})

    def _entries(self, condition: str) -> Iterator[tuple[str, Entry]]:
        columns = "key, cell, status, numbers, sentence, hint, versions"
        for row in self._db.execute(f"SELECT {columns} FROM cell {condition} ORDER BY number"):
            key, cell, status, numbers, sentence, hint, made_with = row
            yield (
                key,
                Entry(
                    Cell.from_json(cell),
                    status,
                    Numbers.from_json(json.loads(numbers)) if numbers else None,
                    sentence,
                    hint,
                    json.loads(made_with) if made_with else None,
                ),
            )

    def _want(self, keys: Sequence[str]) -> None:
        """Fill the temporary table `wanted`, unless it holds these keys already."""
        asked = tuple(keys)
        if self._wanted == asked:
            return
        self._db.execute("DELETE FROM wanted")
        self._db.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((key,) for key in asked))
        self._wanted = asked

    def _prepare(self, models: Mapping[str, str]) -> None:
        """Refuse what is no store of ours before anything is written; then make the tables and the models."""
        if self._is_store():
            problem = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("CREATE TEMP TABLE wanted (key TEXT PRIMARY KEY) WITHOUT ROWID")
        with self._transaction("IMMEDIATE"):
            if not self._is_store():
                for statement in _TABLES.split(";"):
                    self._db.execute(statement)
                rows = list(models.items())
                self._db.executemany("INSERT INTO model VALUES (?, ?)", rows)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._check_models(models)

    def _is_store(self) -> bool:
        """Whether the file is a store; False for an empty one; raises for anything else."""
        application, version = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application == 0 and version == 0 and tables == 0:
            return False
        if application != _APPLICATION:
            raise SuperweightsError(
                f"{self.path} is a database, but no store of a sweep.", hint="give another file with --store."
            )
        if version != SCHEMA_VERSION:
            raise SuperweightsError(
                f"{self.path} was written by another version of superweights (store version {version}, "
                f"this one reads {SCHEMA_VERSION}).",
                hint="go on with that version, or give another file with --store.",
            )
        return True

    def _check_models(self, models: Mapping[str, str]) -> None:
        held = dict(self._db.execute("SELECT fingerprint, name FROM model").fetchall())
        for fingerprint, name in models.items():
            if fingerprint not in held:
                made_for = ", ".join(f"{n} (fingerprint {f[:12]})" for f, n in held.items())
                raise SuperweightsError(
                    f"{self.path} holds a sweep over {made_for}, not over {name} (fingerprint {fingerprint[:12]}).",
                    hint="give another file with --store, or the checkpoint that this one was made with.",
                )

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        """One transaction, all of it or nothing: `IMMEDIATE` for writing, `DEFERRED` for reading."""
        with self._explained():
            self._db.execute(f"BEGIN {kind}")
            try:
                yield
            except BaseException:
                self._wanted = None
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors, and values that cannot be read back, as sentences."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise SuperweightsError(f"{self.path} cannot be used: {error}.", hint=_unusable(error)) from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise SuperweightsError(
                f"{self.path} is damaged, or no store of a sweep: {error}.",
                hint="nothing in it was changed; move it away, or give another file with --store.",
            ) from error


_DEATHS = "see whether memory ran out; lower --window or --workers and try it again with --retry-failed."


def _columns(result: Numbers | SuperweightsError) -> tuple[Any, ...]:
    """Status, numbers, sentence and hint."""
    if isinstance(result, SuperweightsError):
        return "failed", None, result.message, result.hint
    return "done", json.dumps(asdict(result)), None, None


def _unusable(error: sqlite3.OperationalError) -> str:
    if "full" in str(error):
        return "the disk is full: free some space; what is done is kept."
    if "locked" in str(error):
        return "another program holds it, or it lies on a network file system; put it on a local disk."
    return "check that its folder exists and that you may write there."
