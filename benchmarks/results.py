"""Runs every row of docs/results.md and writes its tables; stop it and start it at will.

    .venv/bin/python benchmarks/results.py demo
    .venv/bin/python benchmarks/results.py carla --data DIR

`layout` and `sweep` only write the tables of the commands that the page names beside them.
`demo` needs nothing; `carla` needs the pair in DIR/carla, DIR/camvid and DIR/weights. A row that is
finished is not run again. With `--jobs 2` two rows run side by side.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from segue.demonstration import make_worlds
from segue.recipe import load
from segue.showing import compare
from segue.stages.evaluate import Evaluation
from segue.tracking import read_rows

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
METHODS = {
    "demo": ["source-only", "advent-single", "local-alignment"],
    "carla": ["source-only", "advent-single", "local-alignment", "ceiling"],
}
NAMES = {
    "source-only": "source only",
    "advent-single": "AdvEnt (AGP-GI)",
    "local-alignment": "local alignment (ALP-GI)",
    "ceiling": "ceiling",
}


def overrides(pair: str, method: str, data: Path) -> list[str]:
    """Where the data lies, and for CARLA the second half of validation besides the whole."""
    if pair == "demo":
        return []
    camvid, carla = data / "camvid", data / "carla"
    weights = data / "weights" / "mobilenetv2_100.safetensors"
    shared = [
        f"data.source.root={camvid if method == 'ceiling' else carla}",
        f"data.target.root={camvid}",
        f"data.validation.root={camvid}",
        f"stages.train.networks.segmenter.weights={weights}",
    ]
    if method == "ceiling":
        return shared
    ceiling = load("ceiling-carla").data["validation"]
    half = {**ceiling, "root": str(camvid)}
    stage = {"kind": "evaluate", "data": "half", "size": [320, 240], "models": ["train"]}
    return [*shared, f"data.half={json.dumps(half)}", f"stages.half={json.dumps(stage)}"]


def command(pair: str, method: str, seed: int, data: Path, runs: Path) -> list[str]:
    """One row as a command that anyone can run."""
    folder = runs / pair / method / f"seed_{seed}"
    settings = [*overrides(pair, method, data), f"seed={seed}"]
    words = ["run", f"{method}-{pair}", *settings, "--work-dir", str(folder)]
    return [sys.executable, "-m", "segue", *words]


def run_all(pair: str, data: Path, runs: Path, seeds: int, jobs: int) -> None:
    """Runs what is not finished, `jobs` at a time, each with its share of the cores."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    waiting = [
        command(pair, method, seed, data, runs) for seed in range(seeds) for method in METHODS[pair]
    ]
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            words = waiting.pop(0)
            print(" ".join(words[1:]), flush=True)
            environment = {**os.environ, "OMP_NUM_THREADS": threads}
            running.append(subprocess.Popen(words, env=environment))
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            if process.returncode:
                sys.exit(f"a row failed: {process.args}")
        time.sleep(1)


def results(pair: str, method: str, runs: Path, seeds: int, stage: str) -> list[Evaluation]:
    """A method's results over seeds."""
    folder = runs / pair / method
    return [
        Evaluation.read(folder / f"seed_{seed}" / stage / "evaluation.json")
        for seed in range(seeds)
    ]


def last(pair: str, method: str, runs: Path, seeds: int, number: str) -> str:
    """Mean over seeds of a number of metrics.jsonl over its last five lines."""
    means = []
    for seed in range(seeds):
        rows = read_rows(runs / pair / method / f"seed_{seed}" / "train" / "metrics.jsonl")[-5:]
        values = [row[number] for row in rows if number in row]
        if not values:
            return "n/a"
        means.append(statistics.mean(values))
    return f"{statistics.mean(means):.3g}"


def section(pair: str, runs: Path, seeds: int) -> str:
    """The tables of a pair in Markdown."""
    methods = [method for method in METHODS[pair] if method != "ceiling"]
    found = {method: results(pair, method, runs, seeds, "evaluate") for method in methods}
    text = [table(found), shares(found), signs(pair, methods, runs, seeds)]
    if pair == "carla":
        half = {method: results(pair, method, runs, seeds, "half") for method in methods}
        half["ceiling"] = results(pair, "ceiling", runs, seeds, "evaluate")
        text += ["On the second half of CamVid val alone, beside the ceiling:\n", table(half)]
    return "\n".join(text)


def table(found: dict[str, list[Evaluation]]) -> str:
    """IoU by class and mIoU with their spread over seeds."""
    return compare({NAMES[method]: seeds for method, seeds in found.items()}).to_markdown()


def shares(found: dict[str, list[Evaluation]]) -> str:
    """How much of the target each class covers, as labelled and as predicted, mean over seeds."""
    first = next(iter(found.values()))[0]
    labelled = first.confusion.sum(1) / first.confusion.sum()
    lines = ["| % of target pixels | labelled | " + " | ".join(NAMES[m] for m in found) + " |"]
    lines.append("|---|" + "---:|" * (len(found) + 1))
    for index, name in enumerate(first.classes):
        if labelled[index] == 0:
            continue
        predicted = [
            statistics.mean(one.confusion[:, index].sum() / one.confusion.sum() for one in seeds)
            for seeds in found.values()
        ]
        cells = " | ".join(f"{100 * share:.1f}" for share in (labelled[index], *predicted))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def signs(pair: str, methods: Sequence[str], runs: Path, seeds: int) -> str:
    """What training says of itself, without a target label."""
    numbers = {
        "cross-entropy": "loss/segmentation",
        "its pull on the logits": "pull/segmentation",
        "the adversary's pull": "pull/alignment",
        "discriminator accuracy": "accuracy/discriminator",
        "adversarial loss": "loss/alignment",
    }
    lines = ["| over the last 50 iterations | " + " | ".join(NAMES[m] for m in methods) + " |"]
    lines.append("|---|" + "---:|" * len(methods))
    for title, number in numbers.items():
        cells = [last(pair, method, runs, seeds, number) for method in methods]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def layout(folder: Path) -> str:
    """The final errors that `segue analyse layout-shift` left."""
    with (folder / "layout_shift.csv").open() as file:
        rows = list(csv.DictReader(file))
    last_of = {row["patch"]: 100 * float(row["error"]) for row in rows}
    lines = ["| patch, at 128x64 | error of the classifier, % |", "|---|---:|"]
    return "\n".join(lines + [f"| {patch} | {error:.1f} |" for patch, error in last_of.items()])


def sweep(folder: Path, title: str, before: dict[str, float]) -> str:
    """What `segue sweep` left, in per cent."""
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    key = next(iter(rows[0]))
    found = before | {row[key]: float(row["miou"]) for row in rows}
    lines = [f"| {key.rsplit('.', 1)[-1]} | {title} |", "|---|---:|"]
    return "\n".join(lines + [f"| {name} | {100 * miou:.1f} |" for name, miou in found.items()])


def write(pair: str, text: str) -> None:
    """Puts a section between its marks in the page."""
    page = PAGE.read_text()
    begin, end = f"<!-- {pair}: begin -->", f"<!-- {pair}: end -->"
    before, rest = page.split(begin)
    PAGE.write_text(before + begin + "\n" + text + "\n" + end + rest.split(end)[1])


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pair", choices=[*sorted(METHODS), "layout", "sweep"])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.pair == "layout":
        write("layout", layout(Path("runs/layout-shift")))
        return
    if chosen.pair == "sweep":
        source = results("demo", "source-only", chosen.runs, 1, "evaluate")[0]
        without = {"0 (source only)": next(iter(source.miou.values()))}
        folder, title = Path("runs/sweep-local-alignment-demo"), "mIoU (protocol 19), seed 0"
        write("sweep", sweep(folder, title, without))
        title = "mIoU (protocol 10) on CARLA from 440 on, seed 0"
        write("norms", sweep(Path("runs/sweep-decoder-norms"), title, {}))
        return
    if chosen.pair == "demo":
        make_worlds(Path("runs/demo/worlds"), None)
    run_all(chosen.pair, chosen.data, chosen.runs, chosen.seeds, chosen.jobs)
    write(chosen.pair, section(chosen.pair, chosen.runs, chosen.seeds))


if __name__ == "__main__":
    main()
