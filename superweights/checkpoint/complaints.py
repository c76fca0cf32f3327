"""What transformers, torch and their kin raise over files they cannot use, turned into our one error."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError

from superweights.errors import SuperweightsError

# They check little and fail wherever they happen to fail, so this names nearly every kind there is, but not
# MemoryError, nor a test's or a person's interruption.
COMPLAINTS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OSError,
    EOFError,
    ImportError,
    ArithmeticError,
    RuntimeError,
    AssertionError,  # theirs: only calls of other libraries stand inside `complaints`
    StrictDataclassError,
    pickle.UnpicklingError,
)


@contextmanager
def complaints(sentence: str, *, hint: str | None = None) -> Iterator[None]:
    """Turn what a library raises inside into `sentence`, followed by the library's own first line."""
    try:
        yield
    except COMPLAINTS as error:
        raise _ours(sentence, error, hint) from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise _ours(sentence, error, hint) from error  # the tokenizers library raises nothing more particular


def _ours(sentence: str, error: BaseException, hint: str | None) -> SuperweightsError:
    hint = hint or "the file may be damaged, or need a newer transformers."
    return SuperweightsError(f"{sentence}: {first_line(error)}", hint=hint)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]
