"""A real browser without a window: Debian's Chromium, driven by Playwright.

Run as a program, this module installs Chromium where it is missing, if the machine has apt; Playwright never loads a
browser of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def program() -> str | None:
    """Return where Chromium is; None where it is not."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def missing() -> str:
    """Say what keeps a browser from running here; empty when nothing does."""
    if program() is None:
        return f"Chromium is not installed here (none of {', '.join(PROGRAMS)} is there)"
    try:
        import playwright  # noqa: F401 - whether it is there
    except ImportError:
        return "Playwright is not installed here; pip install '.[dev]' brings it"
    return ""


@contextmanager
def browser(folder: Path, **options: object) -> Iterator[BrowserContext]:
    """Run a browser with a profile of its own. Skips, loudly, where there is none; in CI that is a failure."""
    if problem := missing():
        if os.environ.get("CI"):
            pytest.fail(problem)
        pytest.skip(problem)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(folder), executable_path=program(), args=list(FLAGS), headless=True, **options
        )
        try:
            yield context
        finally:
            context.close()


def until(page: Page, condition: str) -> None:
    """Wait for a condition, asked from outside: the page's own policy lets nobody evaluate a text in it."""
    end = time.monotonic() + 30
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


class Watched:
    """A page, and what must not happen in it: messages of the console, errors, requests to another place."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path) -> Page:
        """Open a file, and wait until it is drawn."""
        self.page.goto(path.as_uri())
        until(self.page, "Boolean(window.timeline) && timeline.chart.frames > 0")
        return self.page

    def close(self) -> None:
        with suppress(Exception):
            self.page.close()


def install() -> int:
    """Install Chromium where it is missing, and say what is done."""
    if program() is not None:
        return 0
    apt = shutil.which("apt-get")
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if apt is None or (prefix and shutil.which("sudo") is None):
        print(f"{missing()}: install it with this machine's package manager; its tests are skipped until then")  # noqa: T201 - a program says what it does
        return 0
    setting = ["env", "DEBIAN_FRONTEND=noninteractive"]
    for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "chromium"]):
        subprocess.run([*prefix, *setting, apt, *command], check=False)
    if program() is None:
        print(f"{missing()}; apt-get could not")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(install())
