"""Times Segue's short cuts beside the plain formulas and writes docs/performance.md's table.

    .venv/bin/python benchmarks/bench.py                 # all rows (`make bench`)
    .venv/bin/python benchmarks/bench.py --only losses   # one topic, the others as they were

Each row runs in a process of its own, on one thread, both sides in turn. CPU seconds; ratios are
medians over pairs. What was measured stands in docs/performance.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from row import Row, measure
from rows import TOPICS, rows_of

DOCS = Path(__file__).parents[1] / "docs"
PAGE, NUMBERS = DOCS / "performance.md", DOCS / "performance.json"
# What a row's `uses` counts in, by the row whose own side is the whole.
WHOLES = {
    "iteration": "adversarial step, DeepLab-v2 R-101, 640x360 + 512x256",
    "pseudo-label image": "pseudo-labels of an image, DeepLab-v2 R-101, 1024x512, network included",
}


def one(topic: str, name: str) -> None:
    """Measures a row and prints it as JSON: what a process of its own does."""
    import torch

    torch.set_num_threads(1)
    row = next(row for row in rows_of(topic) if row.name == name)
    reason = row.refuses()
    found = {"skipped": reason} if reason else measure(row)
    print(json.dumps(found))


def run(topic: str, row: Row) -> dict[str, Any]:
    """Measures a row in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    words = [sys.executable, __file__, "--row", topic, row.name]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{row.name} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"topic": topic, **found}


def table(rows: Mapping[str, Row], found: Mapping[str, dict[str, Any]]) -> str:
    """The rows that were measured, as Markdown."""
    lines = [
        "| work | against | seconds, plain → ours | ratio (aim) | memory, plain → ours | "
        "share (aim) | difference (aim) | of a whole |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: |",
    ]
    for name, row in rows.items():
        if name not in found:
            continue
        cells = "skipped | | | | | " if "skipped" in found[name] else _numbers(row, found[name])
        lines.append(f"| {name} | {row.against} | {cells} | {_share(row, found)} |")
    return "\n".join(lines) + "\n"


def _numbers(row: Row, found: Mapping[str, Any]) -> str:
    seconds, peaks = found["seconds"], found["peak_bytes"]
    share = peaks["ours"] / peaks["plain"] if peaks["plain"] else float("nan")
    low, high = found["ratios"]
    cells = [
        f"{_time(seconds['plain'])} → {_time(seconds['ours'])}",
        f"**{found['ratio']:.2f}×** {low:.2f}–{high:.2f}" + _aim("≥", row.faster, "×"),  # noqa: RUF001
        f"{peaks['plain'] / 1e6:.0f} → {peaks['ours'] / 1e6:.0f} MB",
        f"{share:.2f}×" + _aim("≤", row.memory, "×"),  # noqa: RUF001
        "" if found["difference"] is None
        else f"{found['difference']:.1e}" + _aim("≤", row.within, ""),
    ]  # fmt: skip
    return " | ".join(cells)


def _aim(sign: str, aim: float | None, unit: str) -> str:
    return "" if aim is None else f" ({sign} {aim:g}{unit})"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _share(row: Row, found: Mapping[str, dict[str, Any]]) -> str:
    told = []
    for whole, times in row.uses.items():
        base = found.get(WHOLES[whole], {})
        if "seconds" in base and "seconds" in found[row.name]:
            share = times * found[row.name]["seconds"]["ours"] / base["seconds"]["ours"]
            told.append(f"{100 * share:.1f} % of {whole}")
    return ", ".join(told)


def notes(rows: Mapping[str, Row], found: Mapping[str, dict[str, Any]]) -> str:
    """What a reader must know of single rows."""
    told = [f"- {name}: {row.note}" for name, row in rows.items() if row.note and name in found]
    told += [
        f"- {name}: skipped here, {found[name]['skipped']}."
        for name in rows
        if "skipped" in found.get(name, {})
    ]
    return "\n".join(told) + "\n"


def machine() -> str:
    """Where it was measured."""
    import torch

    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        model = next((value.strip() for key, _, value in lines if "model name" in key), model)
    wide = torch.backends.cpu.get_cpu_capability()
    return f"{model}, {wide}, one thread, torch {torch.__version__}"


def write(mark: str, text: str) -> None:
    """Puts a section between its marks in the page."""
    page = PAGE.read_text()
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = page.split(begin)
    PAGE.write_text(before + begin + "\n" + text + "\n" + end + rest.split(end)[1])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=list(TOPICS))
    parser.add_argument("--row", nargs=2, metavar=("TOPIC", "NAME"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row:
        one(*chosen.row)
        return
    told = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {"format": 1, "rows": {}}
    found = told["rows"]
    for topic in chosen.only:
        for row in rows_of(topic):
            found[row.name] = {"machine": machine(), **run(topic, row)}
            print(f"{row.name}: {json.dumps(found[row.name])}", flush=True)
            NUMBERS.write_text(json.dumps(told, indent=1) + "\n")
    rows = {row.name: row for topic in TOPICS for row in rows_of(topic)}
    told["rows"] = {name: found[name] for name in rows if name in found}
    NUMBERS.write_text(json.dumps(told, indent=1) + "\n")
    machines = "\n".join(dict.fromkeys(one["machine"] for one in told["rows"].values()))
    write(
        "rows", f"Machine: {machines}\n\n{table(rows, told['rows'])}\n{notes(rows, told['rows'])}"
    )


if __name__ == "__main__":
    main()
