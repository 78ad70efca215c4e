"""Headless Chromium, for a test of a page: driven by its own driver, so that nothing is downloaded."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.support.waiting import PATIENCE

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


OWN = ("chrome:", "chrome-untrusted:", "chrome-extension:", "data:")
"""How the addresses of the browser's own pages begin, and of what lies within a page."""


@contextmanager
def chromium(profile: Path, width: int = 1280, dark: bool = False) -> Iterator[Chrome]:
    """A window that closes with the block.

    Without Chromium the test is skipped, or fails if CORANK_REQUIRE_BROWSER is set.

    Args:
        profile: a folder that is new.
        width: of the window, in pixels.
        dark: whether pages are told that the user prefers dark colours.
    """
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        lacking = "no Chromium and chromedriver found; on Debian, apt-get install chromium chromium-driver"
        if os.environ.get("CORANK_REQUIRE_BROWSER"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    options = ChromeOptions()
    options.binary_location = binary
    for argument in (*QUIET, f"--user-data-dir={profile}", f"--window-size={width},1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = Chrome(options, Service(driver))
    try:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        window.set_script_timeout(PATIENCE)
        yield window
    finally:
        window.quit()


def asked(window: Chrome) -> list[str]:
    """The addresses that pages in the window asked since the last call."""
    events: list[dict[str, Any]] = [
        json.loads(entry["message"])["message"] for entry in window.get_log("performance")
    ]
    requests = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [
        request["request"]["url"]
        for request in requests
        # the browser's own pages, as that of a new tab, ask too
        if not request["documentURL"].startswith(OWN) and not request["request"]["url"].startswith(OWN)
    ]


def faults(window: Chrome) -> list[str]:
    """What the console holds since the last call, but for what it says of every answer other than 200."""
    return [entry["message"] for entry in window.get_log("browser") if entry["source"] != "network"]
