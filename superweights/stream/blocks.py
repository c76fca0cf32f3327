"""Which parts of a model are its blocks, and how their weights come and go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import nn

from superweights.errors import SuperweightsError
from superweights.stream.device import give_back_memory
from superweights.stream.skeleton import Skeleton
from superweights.subject.blocks import find_blocks


class BlockStream:
    """The blocks of a skeleton, read when they run and dropped when they have.

    `blocks` maps each block's path to its module; those of `staying` are read once, and stay. `on_load` callbacks get
    (parameter name, parameter) each time a streamed parameter has been read, before it is used.
    """

    def __init__(self, skeleton: Skeleton, staying: Collection[str] = ()):
        self.skeleton = skeleton
        self.blocks = find_blocks(skeleton.model)
        self.on_load: list[Callable[[str, nn.Parameter], None]] = []
        shared = {name for group in skeleton.shared for name in group}
        self._names: dict[str, list[str]] = {path: [] for path in self.blocks}
        self._stay: list[str] = []
        for name, target in skeleton.targets.items():
            path = None if target in shared else _block_of(target, self.blocks)
            (self._stay if path is None or path in staying else self._names[path]).append(name)
        self._shared = shared
        self._coming = [path for path in self.blocks if path not in staying]
        self._asleep = False
        self._here: set[str] = set()

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Blocks that are called inside the `with` are not read: their forward is replaced."""
        self._asleep = True
        try:
            yield
        finally:
            self._asleep = False

    @contextmanager
    def one_block_at_a_time(self) -> Iterator[None]:
        """What stays is in memory; another block is there while it runs, and the next one on its way."""
        self.skeleton.load(self._stay)
        handles = []
        paths = self._coming
        for path in paths:
            block = self.blocks[path]
            after = paths[(paths.index(path) + 1) % len(paths)]
            handles += [
                block.register_forward_pre_hook(lambda *_, p=path, a=after: self._fetch(p, a), prepend=True),
                block.register_forward_hook(lambda *_, p=path: self._drop(p), always_call=True),
            ]
            block.forward = self._called(path, after, block.forward)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for path in paths:
                self.blocks[path].__dict__.pop("forward", None)
            for path in paths:
                self._drop(path)

    def _called(self, path: str, after: str, forward: Callable) -> Callable:
        """A block's forward that reads the block where the model calls it without calling the block (SqueezeBERT)."""

        @wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            if self._asleep or path in self._here:
                return forward(*args, **kwargs)
            self._fetch(path, after)
            try:
                return forward(*args, **kwargs)
            finally:
                self._drop(path)

        return called

    def _fetch(self, path: str, after: str) -> None:
        if self._asleep:
            return
        self.skeleton.checkpoint.prefetch(self._names[path])  # waits for what was read ahead
        self.skeleton.checkpoint.read_ahead(self._names[after])
        self.skeleton.load(self._names[path])
        self._here.add(path)
        for name, parameter in self.blocks[path].named_parameters(prefix=path):
            if parameter.is_meta:
                raise SuperweightsError(
                    f"{self.skeleton.checkpoint.name} has no tensor for {name}.",
                    hint="the download may be incomplete, or config.json belongs to another checkpoint.",
                )
            for callback in self.on_load:
                callback(name, parameter)

    def _drop(self, path: str) -> None:
        if self._asleep:
            return
        self._here.discard(path)
        for name, module in self.blocks[path].named_modules(prefix=path):
            for leaf, parameter in module._parameters.items():
                if parameter is not None and not parameter.is_meta and f"{name}.{leaf}" not in self._shared:
                    module._parameters[leaf] = nn.Parameter(parameter.to("meta"), requires_grad=False)
        self.skeleton.checkpoint.release(self._names[path])
        give_back_memory()


def _block_of(parameter: str, blocks: dict[str, nn.Module]) -> str | None:
    """The path of the block that holds `parameter`, or None."""
    parts = parameter.split(".")
    for end in range(len(parts), 0, -1):
        path = ".".join(parts[:end])
        if path in blocks:
            return path
    return None
