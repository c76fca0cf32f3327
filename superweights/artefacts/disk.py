"""Bytes that are on the disk when we say so, and what a disk refuses in words that a person can act on."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from superweights.errors import SuperweightsError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# Folders cannot be synchronised everywhere; where they cannot, the file system does without.
_UNABLE = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
# What torch says where it cannot write a file: the line of its own code that failed, or the C++ stream's complaint.
_TORCH_WROTE = ("inline_container.cc", "iostream error")


def settle(path: Path) -> None:
    """Wait until the file's bytes are on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def settle_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove whatever is there: a file, a folder with all it holds, or a link (and not what it leads to)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def explained(to: Path) -> Iterator[None]:
    """What the disk refuses while the body writes `to`, as one `SuperweightsError`; other errors pass."""
    try:
        yield
    except OSError as error:
        told = _in_words(error, to)
        if told is None:
            raise
        raise told from error
    except SuperweightsError:
        raise
    except Exception as error:
        # safetensors has an error of its own, which says the system's number in its text only; torch says none.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if any(words in str(error) for words in _TORCH_WROTE):
            raise SuperweightsError(
                f"{to} could not be written: the disk is full, or refuses it.",
                hint="free some space and run the same command again, or write to another disk.",
            ) from error
        told = _in_words(OSError(int(number[1]), os.strerror(int(number[1]))), to) if number else None
        if told is None:
            raise
        raise told from error


def _in_words(error: OSError, to: Path) -> SuperweightsError | None:
    """The sentence and the hint for a refusal to write `to`; None for an error about something else."""
    if error.errno in _FULL:
        return SuperweightsError(
            f"The disk is full: {to} could not be written.",
            hint="free some space and run the same command again, or write to another disk.",
        )
    if isinstance(error.filename, str | bytes) and to.name not in os.fsdecode(error.filename):
        return None
    if error.errno in _FORBIDDEN:
        return SuperweightsError(
            f"{to} may not be written: {error.strerror}.", hint="check the owner and the mode of its folder."
        )
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY):
        return SuperweightsError(
            f"Something else has taken the place of {to} meanwhile.",
            hint="move it away and run the same command again: what is done is kept.",
        )
    return None
