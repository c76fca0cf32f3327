"""A command line run in a terminal of a given width, and what a person then sees on the screen.

The command runs in a fork of this process, so that a hundred of them need one import of torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import tempfile
import termios
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07]*\x07|(.)", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+±]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")
_ADDRESS = re.compile(r"\w+(?:\.\w+){2,}(?:\[[\d:]+(?:, [\d:]+)*\])?")


@dataclass(frozen=True)
class Shown:
    """How a command ended and what was seen of it."""

    code: int  # the exit code; -1 where it had to be stopped
    out: str  # a terminal's screen, scrolled back to its beginning; of a pipe: stdout
    err: str  # of a pipe: stderr; a terminal shows both on one screen
    breaks: tuple[str, ...] = ()  # words that the terminal itself broke at its edge

    @property
    def numbers(self) -> set[str]:
        """Every number that can be read in it."""
        return set(_NUMBER.findall(_whole(self.out)))

    @property
    def addresses(self) -> set[str]:
        """Every dotted name with its index that can be read in it."""
        return set(_ADDRESS.findall(_whole(self.out)))


class Screen:
    """Rows of a terminal without an end: what a program writes, with the few controls that progress bars use."""

    def __init__(self, width: int):
        self._width = width
        self._rows: list[list[str]] = [[]]
        self._goes_on: set[int] = set()  # rows that go on in the next one, because the edge was there
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        """Show what was written."""
        for found in _CONTROL.finditer(text):
            number, control, letter = found.groups()
            if control:
                self._control(control, number)
            elif letter:
                self._letter(letter)

    def text(self) -> str:
        """What stands on it."""
        return "\n".join("".join(row).rstrip() for row in self._rows).strip("\n")

    def breaks(self) -> tuple[str, ...]:
        """The words with a number in them that the edge broke, although they would fit on a line of their own."""
        found = []
        for row in sorted(self._goes_on):
            head, tail = "".join(self._rows[row]), "".join(self._rows[row + 1])
            word = re.search(r"\S*$", head)[0] + re.match(r"\S*", tail)[0]  # type: ignore[index]
            broken = not head.endswith(" ") and tail[:1].strip()
            if broken and len(word) <= self._width and re.search(r"\d|\[", word) and "/" not in word:
                found.append(word)
        return tuple(found)

    def _control(self, control: str, number: str) -> None:
        count = int(number) if number.isdigit() else 1
        if control == "A":
            self._row = max(self._row - count, 0)
        elif control == "K":
            row = self._rows[self._row]
            del row[0 if number == "2" else self._column :]
            self._goes_on.discard(self._row)

    def _letter(self, letter: str) -> None:
        if letter == "\r":
            self._column = 0
        elif letter == "\n":
            self._next()
        elif letter >= " ":
            if self._column >= self._width:
                self._goes_on.add(self._row)
                self._next()
                self._column = 0
            row = self._rows[self._row]
            row.extend(" " * (self._column + 1 - len(row)))
            row[self._column] = letter
            self._column += 1

    def _next(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])


def in_terminal(arguments: Sequence[str], width: int, folder: Path, seconds: float = 300) -> Shown:
    """Run `superweights ARGUMENTS` in `folder`, in a terminal of this width."""
    sys.stdout.flush()
    child, side = pty.fork()
    if child == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        _become(arguments, folder)
    written, ended = b"", False
    end = time.monotonic() + seconds
    while not ended:
        with contextlib.suppress(OSError):  # what a terminal says when its last program is gone
            read = _read(side, end)
            written, ended = written + (read or b""), not read
            continue
        ended = True
    os.close(side)
    screen = Screen(width)
    screen.feed(written.decode(errors="replace"))
    return Shown(_code(child, end), screen.text(), "", screen.breaks())


def in_pipe(arguments: Sequence[str], folder: Path, seconds: float = 300) -> Shown:
    """The same with stdout and stderr into files, which have no width."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out.fileno()), (2, err.fileno())):
                os.dup2(file, number)
            _become(arguments, folder)
        code = _code(child, time.monotonic() + seconds)
        texts = [os.pread(file.fileno(), 1 << 26, 0).decode(errors="replace") for file in (out, err)]
        return Shown(code, *texts)


def _become(arguments: Sequence[str], folder: Path) -> None:
    """The rest of a forked child's life: the command, and nothing of the process that it came from."""
    code = 99
    try:
        for name in ("COLUMNS", "LINES", "FORCE_COLOR", "PYTEST_CURRENT_TEST"):
            os.environ.pop(name, None)
        os.environ["TERM"] = "xterm"
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        os.chdir(folder)
        from superweights.cli import run

        code = run(list(arguments))
    except BaseException:  # noqa: BLE001 - a traceback is what is looked for
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _read(side: int, end: float) -> bytes:
    import select

    ready, _, _ = select.select([side], [], [], max(end - time.monotonic(), 0))
    return os.read(side, 1 << 16) if ready else b""


def _code(child: int, end: float) -> int:
    """The child's exit code, once it has one."""
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def _whole(text: str) -> str:
    return text.replace("−", "-")
