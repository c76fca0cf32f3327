"""What several test files share: a browser."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest


def _reason() -> str:
    """What `make browser` said, which `make test` runs first."""
    kept = Path(sys.prefix) / ".no-browser"
    return kept.read_text().strip() if kept.is_file() else "make browser installs it"


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that tells what it logs and what it asks the network for; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip(f"no Chromium with chromedriver on this machine: {_reason()}")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1400"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as found:
        yield found
