"""The processes of a run that torchrun has started: which one this is, and what all of them must agree on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from superweights.errors import SuperweightsError

# So long is waited for a process that does not come, or that no longer answers.
PATIENCE = timedelta(minutes=10)
# So long a further process waits for the first one's last word, before it says its own.
_LAST_WORD = timedelta(seconds=5)
ENDED = "Another process that shares the model has ended."
_KEY = "superweights/error"
# What the libraries underneath say where another process has gone.
_GONE = ("gloo", "nccl", "closed by peer", "connection reset", "broken pipe")


def number() -> int:
    """Which of the processes this one is, from 0; 0 where it is alone."""
    return _told("RANK", 0)


def local_number() -> int:
    """Which of the processes on this machine this one is."""
    return _told("LOCAL_RANK", 0)


def count() -> int:
    """How many processes there are."""
    return max(1, _told("WORLD_SIZE", 1))


def local_count() -> int:
    """How many of them are on this machine; 1 where torchrun has not told."""
    return max(1, _told("LOCAL_WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process prints and writes: of several the first one does."""
    return count() == 1 or number() == 0


def join(device: str) -> None:
    """Meet the other processes, to compute together on `device` ("cpu" or "cuda").

    Raises `SuperweightsError` for a process that was started alone, and where the others do not come.
    """
    import torch.distributed as dist

    if count() < 2 or not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise SuperweightsError(
            "A model is shared among the processes that torchrun starts, and this one was started alone.",
            hint="torchrun --standalone --nproc-per-node 2 -m superweights find MODEL --tensor-parallel",
        )
    if not dist.is_available():
        raise SuperweightsError(
            "The installed torch cannot run several processes.",
            hint="install a build of torch with torch.distributed.",
        )
    if dist.is_initialized():
        return
    try:
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        raise SuperweightsError(
            f"Process {number()} of {count()} does not meet the others: {_first_line(error)}",
            hint="start all of them by one torchrun.",
        ) from error


def agree(facts: Mapping[str, Any]) -> None:
    """Raise `SuperweightsError`, in every process the same, unless `facts` are the same in all of them."""
    import torch.distributed as dist

    held: list[Any] = [None] * count()
    dist.all_gather_object(held, dict(facts))
    for other, told in enumerate(held):
        for name, value in held[0].items():
            if told.get(name) != value:
                raise SuperweightsError(
                    f"The processes are unequal: {name} is {value} in process 0 and {told.get(name)} in process "
                    f"{other}.",
                    hint="start all of them by one torchrun, with the same model, options and versions.",
                )


@contextmanager
def together() -> Iterator[None]:
    """Inside, the end of another process is told in one sentence instead of the network's."""
    try:
        yield
    except (RuntimeError, SuperweightsError) as error:
        if not _is_of_others(error):
            raise
        raise SuperweightsError(
            ENDED,
            hint="it says why; then start all of them again. Nothing was written.",
        ) from error


def is_told(sentence: str) -> bool:
    """Whether the first process ends with the same `sentence`, so that this one need not repeat it.

    The first process leaves its sentence where the others can read it. Where it has said anything, nobody needs to
    be told that another one has ended.
    """
    store = _store()
    if store is None:
        return False
    import torch.distributed as dist

    try:
        if number() == 0:
            store.set(_KEY, sentence)
            return False
        store.wait([_KEY], _LAST_WORD)
        return sentence in (ENDED, store.get(_KEY).decode())
    except (RuntimeError, ValueError, dist.DistError):
        return False


def _store() -> Any:
    """Where torchrun's processes leave words for each other; None where they have not met, and cannot."""
    if count() < 2:
        return None
    import torch.distributed as dist

    if dist.is_initialized():
        return dist.distributed_c10d._get_default_store()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    try:
        opened: Any = dist
        return opened.TCPStore(host, int(port), is_master=False, timeout=_LAST_WORD)
    except (RuntimeError, ValueError, dist.DistError):
        return None


def _told(variable: str, otherwise: int) -> int:
    """A number that torchrun tells its processes."""
    found = os.environ.get(variable, "")
    return int(found) if found.isdigit() else otherwise


def _is_of_others(error: BaseException | None) -> bool:
    while error is not None:
        if not isinstance(error, SuperweightsError) and any(word in str(error).lower() for word in _GONE):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
