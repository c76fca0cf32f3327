"""A file that appears, or takes the place of another, at once when all of it is on the disk."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from superweights.artefacts.disk import explained, settle, settle_folder
from superweights.artefacts.place import (
    check_new,
    check_replaceable,
    clear_dead,
    lock,
    parents_made,
    partial_of,
)
from superweights.errors import SuperweightsError


def write_text(to: Path, text: str) -> None:
    """Write `text` to the file `to`, in the place of one that may be there: never half of it.

    Raises `SuperweightsError` where no file can be written, through a link, and for a full disk.
    """
    with new_file(to, replace=True) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def new_file(to: Path, *, replace: bool = False) -> Iterator[Path]:
    """A path beside `to` for the body to write; what stands there becomes `to` when the body has ended.

    A body that raises leaves nothing. With `replace` a file at `to` is replaced; otherwise it is refused, before the
    body and after it. Raises `SuperweightsError` as `check_new` and `check_replaceable` do, and for a full disk.
    """
    to = Path(to)
    check_replaceable(to) if replace else check_new(to, "file")
    with explained(to), parents_made(to):
        clear_dead(to)
        partial, handle = _claimed(to)
        try:
            yield partial
            settle(partial)
            if not replace and os.path.lexists(to):
                raise SuperweightsError(f"{to} exists already.", hint="give the name of a new file.")
            os.replace(partial, to)
            settle_folder(to.parent)
        finally:
            partial.unlink(missing_ok=True)
            os.close(handle)


def _claimed(to: Path) -> tuple[Path, int]:
    """A new file beside `to`, and the handle that locks it."""
    while True:
        partial = partial_of(to, secrets.token_hex(8))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(partial, flags, 0o666))
        handle = lock(partial)
        if handle is not None:
            return partial, handle
