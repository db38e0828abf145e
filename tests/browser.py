"""A headless Chromium that notes what a page complains of and what it asks the network for.

A test module uses it by `from browser import browser_page` and `browser_page` as an argument.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("data:", "blob:", "about:", "file:")


def chromium() -> str | None:
    """The browser's path: `SEGUE_CHROMIUM`, or what is found by its usual names."""
    told = os.environ.get("SEGUE_CHROMIUM")
    return told or next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Watched:
    """An open page and what was noted of it.

    Args:
        page: playwright's.
        errors: console errors and exceptions of scripts.
        failed: addresses that were asked for in vain.
        requests: addresses asked of any network; those of files and data are left out.
    """

    page: object
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, address: str | Path) -> None:
        """Opens a file or an address and waits until it has loaded."""
        self.page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)

    def assert_quiet(self) -> None:
        """Fails where the console told of an error or a request failed."""
        assert (self.errors, self.failed) == ([], [])

    def accessibility(self, **options) -> list[str]:
        """What axe finds wrong, a line each: rule, what it is, where."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page, options=options or None).response["violations"]
        return [
            f"{one['id']}: {one['help']}: {node['target']} {node.get('failureSummary', '')}"
            for one in found
            for node in one["nodes"]
        ]


@contextmanager
def opened(**options) -> Iterator[Watched]:
    """A fresh page; options are those of playwright's `new_context`, as color_scheme="dark"."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium installed (or name it in SEGUE_CHROMIUM)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            context = browser.new_context(**options)
            watched = Watched(context.new_page())
            _watch(watched)
            yield watched
        finally:
            browser.close()


def _watch(watched: Watched) -> None:
    page = watched.page

    def say(message) -> None:
        if message.type == "error":
            watched.errors.append(message.text)

    def ask(request) -> None:
        if not request.url.startswith(LOCAL):
            watched.requests.append(request.url)

    page.on("console", say)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("request", ask)
    page.on("requestfailed", lambda request: watched.failed.append(request.url))


@pytest.fixture
def browser_page() -> Iterator[Watched]:
    """A page of 1280 x 800 in the light scheme."""
    with opened(viewport={"width": 1280, "height": 800}, color_scheme="light") as watched:
        yield watched
