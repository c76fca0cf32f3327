"""What several test files share: a browser."""

from __future__ import annotations

import os

import pytest
from pages import NoBrowserError, chromium

# pytest's workers give programs a width, which files and pipes do not have: here only tests that ask for one get it.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; skips where there is none, and says why."""
    try:
        with chromium() as found:
            yield found
    except NoBrowserError as reason:
        pytest.skip(str(reason))
