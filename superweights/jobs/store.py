"""One file that holds many jobs: SQLite in WAL mode, safe against killed writers, shared by several processes.

Source for the choice: three writers killed with kill -9 after a second left a sound file, and the restarted
run had every row; a second DuckDB writer dies instead. SQLite's locks do not work on network file systems,
so a store belongs to one machine.
"""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from superweights.artefacts.reading import parse_json
from superweights.artefacts.shape import shaped
from superweights.errors import SuperweightsError
from superweights.jobs.kind import Kind
from superweights.jobs.owner import is_gone, process_of
from superweights.jobs.sqlite_errors import is_busy, unusable
from superweights.record import to_json_line, versions

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
CREATE TABLE IF NOT EXISTS kind (word TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
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
    """What a store holds of a job."""

    payload: Any
    """What was to be done."""
    status: str
    """open, done (with a result) or failed (with a sentence and a hint)."""
    result: Any = None
    """What came out; None until it is done."""
    sentence: str | None = None
    """Why it failed."""
    hint: str | None = None
    """What to do about that."""
    versions: dict[str, str] | None = None
    """With which it was settled."""


class Store:
    """An open store. Each process, and each thread, opens its own; use it in a `with`.

    `models` maps the fingerprints that the jobs are about to the models' names, `kind` says what the jobs are. A new
    store is made for them; one that was made for other models or another kind, or by another version, is refused
    and left as it is. Raises `SuperweightsError` also for a file that is damaged or no store.
    """

    def __init__(self, path: str | Path, models: Mapping[str, str], kind: Kind):
        self.path, self._kind = Path(path), kind
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

    def add(self, payloads: Iterable[Any]) -> None:
        """Take the jobs in that are not there yet, as open ones, in this order."""
        rows = [(each.key, each.subject, each.to_json()) for each in payloads]
        with self._transaction("IMMEDIATE"):
            self._db.executemany("INSERT OR IGNORE INTO cell (key, model, cell) VALUES (?, ?, ?)", rows)

    def claim(self, keys: Sequence[str], owner: str, limit: int) -> list[Any]:
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
                    return [self._kind.payload.from_json(text, str(self.path)) for _, text in sorted(rows)]
        return []

    def finish(self, results: Mapping[str, Any | SuperweightsError]) -> None:
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

    def reopen(self, keys: Sequence[str], *, done: bool = False) -> None:
        """Let the failed cells of `keys` be tried again; with `done` also those that have a result, which is lost.

        An open cell whose workers died is given another try too, alone and after all others: whoever starts the work
        again may have killed it himself.
        """
        settled = "('failed', 'done')" if done else "('failed')"
        with self._transaction("IMMEDIATE"):
            self._want(keys)
            self._db.execute(
                "UPDATE cell SET status = 'open', numbers = NULL, sentence = NULL, hint = NULL, checksum = NULL, "
                f"attempts = 0 WHERE status IN {settled} AND key IN wanted"
            )
            self._db.execute(
                "UPDATE cell SET attempts = min(attempts, ?) WHERE status = 'open' AND key IN wanted",
                (_ALONE_AFTER,),
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
                held = asdict(entry)
                payload, result = json.loads(entry.payload.to_json()), held["result"]
                rest = {name: held[name] for name in ("status", "sentence", "hint", "versions")}
                yield to_json_line({"key": key, "cell": payload, "numbers": result, **rest})

    def _entries(self, condition: str) -> Iterator[tuple[str, Entry]]:
        columns = f"key, cell, checksum, {_SETTLED}"
        for key, cell, checksum, *held in self._db.execute(
            f"SELECT {columns} FROM cell {condition} ORDER BY number"
        ):
            status, numbers, sentence, hint, made_with = held
            read = self._kind.payload.from_json(cell, str(self.path))
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
                    self._noun(self._kind.result, numbers) if settled else None,
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

    def _settle(self, results: Mapping[str, Any | SuperweightsError]) -> None:
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
                if not is_busy(error) or time.monotonic() > until:
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
                self._db.execute("INSERT INTO kind VALUES (?)", (self._kind.word,))
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
                f"{self.path} is a database, but no store of a {self._kind.word}.",
                hint="give another file with --store.",
            )
        if version != SCHEMA_VERSION:
            raise SuperweightsError(
                f"{self.path} was written by another version of superweights (store version {version}, "
                f"this one reads {SCHEMA_VERSION}).",
                hint="go on with that version, or give another file with --store.",
            )
        return True

    def _check_models(self, models: Mapping[str, str]) -> None:
        words = [word for (word,) in self._db.execute("SELECT word FROM kind")]
        if words != [self._kind.word]:
            raise SuperweightsError(
                f"{self.path} holds a {', '.join(words) or 'run'}, and no {self._kind.word}.",
                hint="give another file with --store.",
            )
        held = dict(self._db.execute("SELECT fingerprint, name FROM model").fetchall())
        for fingerprint, name in models.items():
            if fingerprint not in held:
                made_for = ", ".join(f"{n} (fingerprint {f[:12]})" for f, n in held.items())
                raise SuperweightsError(
                    f"{self.path} holds a {self._kind.word} over {made_for}, not over {name} "
                    f"(fingerprint {fingerprint[:12]}).",
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
            said, hint = unusable(error, self.path)
            raise SuperweightsError(f"{self.path} cannot be used: {said}.", hint=hint) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise SuperweightsError(
                f"{self.path} is damaged, or no store of a {self._kind.word}: {error}.", hint=_DAMAGED
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


def _columns(result: Any | SuperweightsError) -> tuple[Any, ...]:
    """Status, numbers, sentence and hint."""
    if isinstance(result, SuperweightsError):
        return "failed", None, result.message, result.hint
    return "done", json.dumps(asdict(result), allow_nan=False), None, None


def _checksum(key: str, *settled: str | None) -> str:
    """A hash of a row's key and of what it is settled with: SQLite does not notice a changed number."""
    return hashlib.sha256(json.dumps([key, *settled]).encode()).hexdigest()[:32]
