"""One file that holds a sweep: SQLite in WAL mode, safe against killed writers, shared by several processes.

Source for the choice: three writers killed with kill -9 after a second left a sound file, and the restarted
run had every row; a second DuckDB writer dies instead. SQLite's locks do not work on network file systems,
so a store belongs to one machine.
"""

from __future__ import annotations

import errno
import hashlib
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError
from superweights.record import to_json_line, versions
from superweights.sweeps.cell import Cell, Numbers
from superweights.sweeps.owner import is_gone, process_of

# 2: settled rows carry a checksum, and the tables refuse values of another type.
SCHEMA_VERSION = 2
# Marks the file as ours: "swts" in ASCII.
_APPLICATION = 0x73777473
# A claim is given up by this time, in seconds, unless its worker says that it is alive.
LEASE = 60.0
# After so many deaths of its worker a cell is measured alone; after so many it has failed.
_ALONE_AFTER, _FAILED_AFTER = 2, 4
_BUSY_SECONDS = 60.0

_TABLES = """
CREATE TABLE IF NOT EXISTS model (fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL) STRICT, WITHOUT ROWID;
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
    attempts INTEGER NOT NULL DEFAULT 0,
    checksum TEXT
) STRICT;
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
        free = f"status = 'open' AND {_UNCLAIMED}"
        names = {"now": time.time(), "owner": owner, "lease": time.time() + LEASE}
        with self._transaction("IMMEDIATE"):
            self._want(keys)
            deadly = f"SELECT key FROM cell WHERE {free} AND attempts >= {_FAILED_AFTER} AND key IN wanted"
            self._settle({key: _DEADLY for (key,) in self._db.execute(deadly, names).fetchall()})
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
                    return [Cell.from_json(text, str(self.path)) for _, text in sorted(rows)]
        return []

    def finish(self, results: Mapping[str, Numbers | SuperweightsError]) -> None:
        """Write what became of cells, by key, all in one step. A result that is there already stays."""
        with self._transaction("IMMEDIATE"):
            self._settle(results)

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

    def release_the_gone(self, stopped: Collection[int] = ()) -> None:
        """Give up the claims of processes of this machine that are no more.

        Those whose numbers are in `stopped` were ended by the caller: that is no death.
        """
        with self._explained():
            owners = self._db.execute("SELECT DISTINCT owner FROM cell WHERE owner IS NOT NULL").fetchall()
        for (owner,) in owners:
            if is_gone(owner):
                self.release(owner, died=process_of(owner) not in stopped)

    def reopen_failed(self, keys: Sequence[str]) -> None:
        """Let the failed cells of `keys` be tried again."""
        with self._transaction("IMMEDIATE"):
            self._want(keys)
            self._db.execute(
                "UPDATE cell SET status = 'open', sentence = NULL, hint = NULL, checksum = NULL, attempts = 0 "
                "WHERE status = 'failed' AND key IN wanted"
            )

    def count(self, keys: Sequence[str]) -> dict[str, int]:
        """How many of `keys` are `open`, `done` and `failed`, and how many of the open ones are `free`."""
        with self._transaction("DEFERRED"):
            self._want(keys)
            rows = self._db.execute(
                f"SELECT status, count(*), sum({_UNCLAIMED}) FROM cell WHERE key IN wanted GROUP BY status",
                {"now": time.time()},
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
        columns = f"key, cell, checksum, {_SETTLED}"
        for key, cell, checksum, *held in self._db.execute(
            f"SELECT {columns} FROM cell {condition} ORDER BY number"
        ):
            status, numbers, sentence, hint, made_with = held
            read = Cell.from_json(cell, str(self.path))
            settled = status != "open"
            if read.key != key or (settled and checksum != _checksum(key, *held)):
                raise sqlite3.DatabaseError(f"the checksum of the cell {key[:40]} does not fit what it holds")
            if settled and (numbers is None) == (status == "done"):
                raise sqlite3.DatabaseError(f"the cell {key} is {status} and its numbers do not fit that")
            yield (
                key,
                Entry(
                    read,
                    status,
                    self._noun(Numbers, numbers) if settled else None,
                    sentence,
                    hint,
                    self._noun(dict[str, str], made_with) if settled else None,
                ),
            )

    def _noun(self, form: Any, text: str | None) -> Any:
        """What a column holds as JSON; None where it holds nothing."""
        if text is None:
            return None
        return shaped(
            form, parse_json(text, str(self.path), hint=_DAMAGED), str(self.path), _DAMAGED, "whole"
        )

    def _settle(self, results: Mapping[str, Numbers | SuperweightsError]) -> None:
        """Write results, each with its checksum, into the cells that are open."""
        stamp, made_with = time.time(), json.dumps(versions())
        rows = []
        for key, result in results.items():
            columns = (*_columns(result), made_with)
            rows.append((*columns, _checksum(key, *columns), stamp, key))
        self._db.executemany(
            "UPDATE cell SET status = ?, numbers = ?, sentence = ?, hint = ?, versions = ?, checksum = ?, "
            "finished = ?, owner = NULL WHERE key = ? AND status = 'open'",
            rows,
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
        """Open the store, again and again while another process is opening it too."""
        until = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return self._prepare_once(models)
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > until:
                    raise
            time.sleep(random.uniform(0.005, 0.1))  # so that two do not go on in step

    def _prepare_once(self, models: Mapping[str, str]) -> None:
        """Refuse what is no store of ours before anything is written; then make the tables and the models."""
        with self._begun("DEFERRED"):  # one view of the file: another process may be making it a store
            if self._is_store():
                problem = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
                if problem != "ok":
                    raise sqlite3.DatabaseError(problem)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (key TEXT PRIMARY KEY) WITHOUT ROWID")
        with self._begun("IMMEDIATE"):
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
        with self._explained(), self._begun(kind):
            yield

    @contextmanager
    def _begun(self, kind: str) -> Iterator[None]:
        """The transaction itself, with SQLite's own errors."""
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._wanted = None
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors, and values that cannot be read back, as sentences."""
        try:
            yield
        except sqlite3.OperationalError as error:
            said, hint = _unusable(error, self.path)
            raise SuperweightsError(f"{self.path} cannot be used: {said}.", hint=hint) from error
        except sqlite3.DatabaseError as error:
            raise SuperweightsError(
                f"{self.path} is damaged, or no store of a sweep: {error}.", hint=_DAMAGED
            ) from error


_DAMAGED = "nothing in it was changed; move it away, or give another file with --store."
_DEADLY = SuperweightsError(
    "Every worker that measured this cell died.",
    hint="see whether memory ran out; lower --window or --workers and try it again with --retry-failed.",
)
# A lease that lies further ahead than any worker asks for is none (a clock was set back, or the file was changed).
_UNCLAIMED = f"(owner IS NULL OR coalesce(lease, 0) NOT BETWEEN :now AND :now + {2 * LEASE})"
# What is known of a settled cell, in the order in which its checksum takes it.
_SETTLED = "status, numbers, sentence, hint, versions"


def _columns(result: Numbers | SuperweightsError) -> tuple[Any, ...]:
    """Status, numbers, sentence and hint."""
    if isinstance(result, SuperweightsError):
        return "failed", None, result.message, result.hint
    return "done", json.dumps(asdict(result), allow_nan=False), None, None


def _checksum(key: str, *settled: str | None) -> str:
    """A hash of a row's key and of what it is settled with: SQLite does not notice a changed number."""
    return hashlib.sha256(json.dumps([key, *settled]).encode()).hexdigest()[:32]


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """Whether another connection is in the way, for now."""
    busy = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
    return (error.sqlite_errorcode & 0xFF) in busy


def _unusable(error: sqlite3.OperationalError, path: Path) -> tuple[str, str]:
    """What is wrong, and what to do: a disk that is full has several names in SQLite."""
    code = error.sqlite_errorcode & 0xFF
    perhaps = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    if code == sqlite3.SQLITE_FULL or (code in perhaps and _is_full(path.parent)):
        return "the disk is full", "free some space; what is done is kept."
    if _is_busy(error):
        return (
            str(error),
            "another program holds it, or it lies on a network file system; put it on a local disk.",
        )
    return str(error), "check that its folder exists and that you may write there."


def _is_full(folder: Path) -> bool:
    """Whether not even a small file can be written there, though the folder is there and ours to write in."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 65536)
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False
