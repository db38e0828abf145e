"""Writes docs/errors.md: tries every bad input of tests/bad_input_table.py and notes its line."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "errors.md"
sys.path.insert(0, str(DOCS.parent / "tests"))

from bad_input import GOOD, tried, write_project, write_run  # noqa: E402
from bad_input_table import GROUPS  # noqa: E402

Lines = dict[tuple[str, str], str]  # by heading and what is wrong

START = f"""\
# Errors

A mistake gets one line on standard error that says what, where and what to do, and exit code 1 (or
2, where a command line cannot be read). This page is made by trying: `docs/make_errors_table.py`
runs every command below, and the tests run them again and compare.

Each begins with this recipe as `good.yaml`, its data beside it, and a run of it in `runs/done`:

<!-- only to show: its data are those of the tests -->

```yaml
{GOOD}```
"""


def measured() -> Lines:
    """Tries every bad input in a folder of its own."""
    lines: Lines = {}
    with TemporaryDirectory() as name:
        project = Path(name) / "project"
        write_project(project)
        write_run(project)
        for title, cases in GROUPS.items():
            for number, bad in enumerate(cases):
                here = shutil.copytree(project, Path(name) / title / str(number))
                _, _, err = tried(bad, here)
                lines[title, bad.what] = err.strip().removeprefix("segue: ")
    return lines


def page(lines: Lines) -> str:
    """The page."""
    parts = [START]
    for title, cases in GROUPS.items():
        rows = [
            f"| {bad.what} | {shown(bad.command)} | {shown(lines[title, bad.what])} |"
            for bad in cases
        ]
        head = (f"## {title}", "", "| what | `segue` ... | says |", "|---|---|---|")
        parts.append("\n".join((*head, *rows, "")))
    return "\n".join(parts)


def recorded() -> Lines:
    """The lines that the page has."""
    lines: Lines = {}
    title = ""
    for line in PAGE.read_text().splitlines():
        title = line.removeprefix("## ") if line.startswith("## ") else title
        cells = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
        if line.startswith("| ") and len(cells) == 3 and cells[0] != "what":
            lines[title, cells[0]] = re.sub(r"^(`+) ?(.*?) ?\1$", r"\2", cells[2]).replace(
                "\\|", "|"
            )
    return lines


def shown(text: str) -> str:
    """Text as code inside a cell, whatever marks it holds itself."""
    return (f"`` {text} ``" if "`" in text else f"`{text}`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(measured()))
