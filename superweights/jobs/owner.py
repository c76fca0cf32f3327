"""Who has claimed a cell: a process, named so that others can see whether it is still there."""

from __future__ import annotations

import itertools
import os
import platform
import re
from pathlib import Path

_NUMBERS = itertools.count()


def new_owner() -> str:
    """A new owner in this process, as `machine/namespace/process/start/number`."""
    pid = os.getpid()
    return f"{platform.node()}/{_namespace()}/{pid}/{_started(pid)}/{next(_NUMBERS)}"


def is_gone(owner: str) -> bool:
    """Whether `owner` is known to be no more; False where that cannot be seen from here."""
    pid = process_of(owner)
    if pid is None or os.name != "posix":
        return False
    machine, namespace, _, started, _ = owner.split("/")
    if machine != platform.node() or namespace != _namespace():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _started(pid) != started


def process_of(owner: str) -> int | None:
    """The number of the owner's process; None where the text is no owner's name."""
    parts = owner.split("/")
    return int(parts[2]) if len(parts) == 5 and re.fullmatch("[1-9][0-9]{0,8}", parts[2]) else None


def _namespace() -> str:
    """Which table of processes we see: containers of one machine may share its name."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "-"


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks: process numbers are used again. `-` where unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "-"
    return "gone" if fields[0] == "Z" else fields[19]
