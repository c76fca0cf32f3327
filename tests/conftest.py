"""What several test files share: a browser."""

from __future__ import annotations

import pytest
from pages import NoBrowserError, chromium


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; skips where there is none, and says why."""
    try:
        with chromium() as found:
            yield found
    except NoBrowserError as reason:
        pytest.skip(str(reason))
