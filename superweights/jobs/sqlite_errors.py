"""SQLite's errors in words: a disk that is full has several names there."""

from __future__ import annotations

import errno
import sqlite3
import tempfile
from pathlib import Path


def is_busy(error: sqlite3.OperationalError) -> bool:
    """Whether another connection is in the way, for now."""
    busy = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
    return _code(error) in busy


def unusable(error: sqlite3.OperationalError, path: Path) -> tuple[str, str]:
    """What is wrong, and what to do: a disk that is full has several names in SQLite."""
    code = _code(error)
    perhaps = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    if code == sqlite3.SQLITE_FULL or (code in perhaps and _is_full(path.parent)):
        return "the disk is full", "free some space; what is done is kept."
    if is_busy(error):
        return (
            str(error),
            "another program holds it, or it lies on a network file system; put it on a local disk.",
        )
    return str(error), "check that its folder exists and that you may write there."


def _code(error: sqlite3.OperationalError) -> int:
    """SQLite's primary code; 0 for an error of Python's own around it, such as text that cannot be decoded."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_full(folder: Path) -> bool:
    """Whether not even a small file can be written there, though the folder is there and ours to write in."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 65536)
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False
