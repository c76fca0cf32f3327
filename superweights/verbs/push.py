"""`superweights.push`: a folder or file that superweights wrote, put on the Hugging Face Hub with a model card."""

from __future__ import annotations

from pathlib import Path

from superweights.errors import SuperweightsError
from superweights.formats.card import model_card
from superweights.formats.sharing import check_target, upload
from superweights.record import Record

__all__ = ["check_target", "push"]


def push(
    path: Path | str, name: str, record: Record | Path | str | None = None, *, private: bool = False
) -> str:
    """The address of the new repository `name` (`ORG/NAME`) that holds the folder, adapter or .gguf file at `path`.

    Its model card says what was done, sizes, kept weights and how to load it; the more where the `record` of the
    command that wrote it is given. Raises `SuperweightsError` without a token, for a repository that holds something
    already, and for a folder that is not what was written.

    >>> push("smollm2-int4", "ada/smollm2-int4", record="quantized.json", private=True)     # doctest: +SKIP
    """
    path = Path(path)
    if not path.exists():
        raise SuperweightsError(f"There is nothing at {path}.", hint="give a folder that superweights wrote.")
    held = record if isinstance(record, Record) or record is None else Record.read(record)
    check_target(name)
    return upload(path, name, model_card(path, name, held), private=private)
