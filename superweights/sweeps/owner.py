"""Who has claimed a cell: a process, named so that others can see whether it is still there."""

from __future__ import annotations

import itertools
import os
import platform
from pathlib import Path

_NUMBERS = itertools.count()


def new_owner() -> str:
    """A new owner in this process, as `machine/namespace/process/start/number`."""
    pid = os.getpid()
    return f"{platform.node()}/{_namespace()}/{pid}/{_started(pid)}/{next(_NUMBERS)}"


def is_gone(owner: str) -> bool:
    """Whether `owner` is known to be no more; False where that cannot be seen from here."""
    machine, namespace, pid, started, _ = owner.split("/")
    if machine != platform.node() or namespace != _namespace() or os.name != "posix":
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _started(int(pid)) != started


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
