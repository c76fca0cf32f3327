"""`superweights.scan`: what the weights alone show."""

from __future__ import annotations

from typing import Any

from superweights.checkpoint import opened_checkpoint
from superweights.discovery.scan import scan as scanned
from superweights.progress import Progress, silent
from superweights.record import Record
from superweights.subject import Source


def scan(model: Any = None, *, top: int = 10, spectrum: bool = False, progress: Progress = silent) -> Record:
    """A record of `findings.Scan`: the `top` suspicious rows and neurons, and the outliers of every tensor.

    No forward pass, one tensor in memory. `model` is a name, a path, an open checkpoint, or a `Source`. `spectrum` adds
    the exact form of the top rows. It tells where to look, not what matters: prove suspects with `find`.

    >>> record = scan("embedded", top=5)                  # doctest: +SKIP
    >>> record.findings.suspects[0].address              # doctest: +SKIP
    """
    with opened_checkpoint(Source.of(model)) as checkpoint:
        found = scanned(checkpoint, top=top, spectrum=spectrum, progress=progress)
        return Record.of("scan", checkpoint, findings=found, format=found.conditions["format"])
