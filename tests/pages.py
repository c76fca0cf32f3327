"""What no page may do to a person: be wider than the window, hide what it says, break an address, glare at night.

`faults_of` looks at a page as a phone and a desk show it, light and dark, and returns a sentence for each fault.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")

_FAULTS = (Path(__file__).parent / "pages.js").read_text(encoding="utf-8")


class NoBrowserError(Exception):
    """There is none on this machine, and why."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium that tells what it logs and what it asks the network for. Raises `NoBrowserError`."""
    try:
        from selenium import webdriver
    except ImportError as error:
        raise NoBrowserError("selenium is not installed") from error
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        kept = Path(sys.prefix) / ".no-browser"  # what `make browser` said, which `make test` runs first
        why = kept.read_text().strip() if kept.is_file() else "make browser installs it"
        raise NoBrowserError(f"no Chromium with chromedriver on this machine: {why}")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1400"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as found:
        yield found


@contextmanager
def as_seen(browser, width: int, scheme: str = "light") -> Iterator[None]:
    """The browser as a window of this width, of a person who reads by day or (`dark`) at night."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def faults_of(browser, address: str, ready: Callable[[], object] = lambda: True) -> list[str]:
    """Everything that is wrong with the page at `address`, once it is `ready`, in each width by day and night."""
    found = []
    for width in WIDTHS:
        for scheme in SCHEMES:
            with as_seen(browser, width, scheme):
                browser.get(
                    "about:blank"
                )  # what the page before has to say when it is left is not this one's
                browser.get_log("browser")
                browser.get(address)
                until(ready)
                browser.execute_script("document.querySelectorAll('details').forEach((e) => e.open = true)")
                time.sleep(0.2)
                said = browser.execute_script(_FAULTS, scheme == "dark")
                said += [f"says {entry['message']}" for entry in browser.get_log("browser")]
                found += [f"{width} {scheme}: {each}" for each in said]
    return found


def until(ready: Callable[[], object], seconds: float = 30) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "what was waited for never came"
        time.sleep(0.1)
