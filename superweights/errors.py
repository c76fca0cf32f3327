"""The one exception a person is meant to read: what was given, what was expected, and a hint."""

from __future__ import annotations


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
