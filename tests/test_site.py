"""The documentation site builds without a warning and asks nothing of anyone else."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading

import pytest
from browser import browser_page  # noqa: F401
from pages import DOCS, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    # Its makers' notes on the future of their tools are no warnings of ours.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    told = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert "WARNING" not in told.stderr
    return folder


def test_every_page_is_there(site):
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix("") / "index.html").is_file(), page
    assert "make demo" in (site / "index.html").read_text()


def test_nothing_of_what_makes_it_is_in_it(site):
    assert not [one for one in site.rglob("*") if one.suffix in (".py", ".pyc") and one.is_file()]


def test_every_page_is_in_the_navigation(site):
    start = (site / "index.html").read_text()
    for page in DOCS.rglob("*.md"):
        assert f'href="{page.relative_to(DOCS).with_suffix("")}/"' in start, page


def test_links_to_source_files_show_them(site):
    text = (site / "methods" / "index.html").read_text()
    assert 'href="../source/src/segue/losses/entropy.py/"' in text
    shown = site / "source/src/segue/losses/entropy.py/index.html"
    assert "MKDOCS" not in shown.read_text()
    assert "def " in re.sub(r"<[^>]+>", "", shown.read_text())


def test_nothing_comes_from_elsewhere(site):
    loads = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:)?//")
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text()), page


def test_a_browser_is_content(site, browser_page):  # noqa: F811
    handler = functools.partial(QuietHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        browser_page.open(f"{here}systems/grouping/")
        picture = browser_page.page.get_by_role("img", name="t-SNE")
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.naturalWidth") > 0
        server.shutdown()
    browser_page.assert_quiet()
    assert all(address.startswith(here) for address in browser_page.requests)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Says nothing."""
