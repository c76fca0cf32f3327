"""What a person is meant to read when something fails: what was given, what was expected, and a hint."""

from __future__ import annotations

import errno


class SuperweightsError(Exception):
    """Bad input or an impossible request, said in one sentence with a hint for what to do.

    The command line prints `error: <message>` and `hint: <hint>` and exits with code 1; a library user
    reads both in `str(error)`. Anything else that escapes is our own mistake and shows its traceback.
    """

    def __init__(self, message: str, *, hint: str):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}"


def explain_os_error(error: OSError) -> tuple[str, str]:
    """The sentence and the hint for an operating-system error that reached the top."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"The disk is full{where}.", "free some space, or write to another disk."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"No permission to write or read{where}.", "check the owner and mode of that path."
    return f"{error.strerror or error}{where}.", "check that the path exists and can be read."
