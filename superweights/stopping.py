"""SIGTERM taken like Ctrl-C: a job that is preempted puts away what it holds, as one that is interrupted does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

# What a shell calls a process that SIGTERM has ended.
EXIT_CODE = 128 + 15


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM): raised where it is, as Ctrl-C raises `KeyboardInterrupt`."""


@dataclass
class Stopped:
    """Whether the body of a `stopped_by_sigterm` was asked to end, also where somebody has caught what was raised."""

    asked: bool = False
    """A SIGTERM has come."""


@contextmanager
def stopped_by_sigterm() -> Iterator[Stopped]:
    """While the body runs the first SIGTERM raises `Terminated` in it; later ones do not disturb the putting away.

    Nothing changes outside of the main thread, or where SIGTERM is handled already (by an outer `with` of this kind,
    or by the program that uses us).
    """
    stopped = Stopped()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield stopped
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if _is_in_finalizer(frame):
            # Python swallows what is raised there; a moment later it is somewhere else.
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stopped.asked = True
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def kept_in(place: Path | str) -> Iterator[None]:
    """An interrupt of the body says in a note where the work so far is, and that the same call goes on with it."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"What is done is kept in {place}: the same command goes on from there.")
        raise


def go_on_stopping() -> NoReturn:
    """Raise again what has ended a part of the work that puts away what it has: `Terminated` or `KeyboardInterrupt`."""
    raise Terminated if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN else KeyboardInterrupt


def _is_in_finalizer(frame: FrameType | None) -> bool:
    """Whether a `__del__` is being run, at whatever depth."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
