"""Runs every row of docs/results.md and writes its tables; stop it and start it at will.

    .venv/bin/python benchmarks/results.py demo
    .venv/bin/python benchmarks/results.py carla --data DIR

`layout`, `sweep` and `ablation` only write the tables of commands that the page names beside them.
`demo` needs nothing; `carla` and `carla-native` need the pair in DIR/carla, DIR/camvid and
DIR/weights. A row that is finished is not run again. With `--jobs 2` two rows run side by side;
`--only NAME ...` runs some.
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

from segue.demo.demo import make_worlds, minutes_of, trained
from segue.inference.evaluation import Evaluation
from segue.recipe import load
from segue.recipe.recipe import EvaluateStage, PseudoLabelStage, Recipe
from segue.report.iou_table import cell
from segue.storage.whole import read_rows
from segue.work_dir import SECONDS, recipe_of

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
NAMES = {
    "source-only": "source only",
    "advent-single": "AdvEnt (AGP-GI)",
    "local-alignment": "local alignment (001)",
    "grouping": "grouping (000)",
    "coarse-to-fine": "coarse-to-fine (002)",
    "category-adaptive": "category-adaptive (003)",
    "bdl": "BDL",
    "fda": "FDA",
    "cbst": "CBST",
    "composition": "composition",
    "composition-segformer": "composition, SegFormer",
    "source-only-segformer": "source only, SegFormer",
    "ceiling": "ceiling",
}
SYSTEMS = list(NAMES)[:10]
METHODS = {
    "demo": [*SYSTEMS, "source-only-segformer", "composition-segformer"],
    "carla": [*SYSTEMS, "ceiling"],
    "carla-native": [*SYSTEMS[:6], "ceiling"],
}
HELD_OUT = "mIoU (protocol 10) on CARLA from 440 on, seed 0"
SWEEPS = {
    "sweep": (Path("runs/sweep-local-alignment-demo"), "mIoU (protocol 19), seed 0"),
    "norms": (Path("runs/sweep-decoder-norms"), HELD_OUT),
    "small": (Path("runs/sweep-small"), HELD_OUT),
    "native": (Path("runs/sweep-native"), HELD_OUT),
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
        f"templates.train.networks.segmenter.weights={weights}",
    ]
    if method == "ceiling":
        return shared
    ceiling = load(f"ceiling-{pair}").data["validation"]
    half = {**ceiling, "root": str(camvid)}
    models = scored(load(f"{method}-{pair}"))
    stage = {"like": "evaluate", "data": "second_half", "models": models}
    return [*shared, f"data.second_half={json.dumps(half)}", f"stages.half={json.dumps(stage)}"]


def scored(recipe: Recipe) -> list[str]:
    """The models that a recipe's evaluate stage scores."""
    stage = recipe.stages["evaluate"]
    assert isinstance(stage, EvaluateStage)
    return stage.models


def command(pair: str, method: str, seed: int, data: Path, runs: Path) -> list[str]:
    """One row as a command that anyone can run."""
    settings = [*overrides(pair, method, data), f"seed={seed}"]
    folder = folder_of(pair, method, seed, runs)
    words = ["run", f"{method}-{pair}", *settings, "--work-dir", str(folder)]
    return [sys.executable, "-m", "segue", *words]


def folder_of(pair: str, method: str, seed: int, runs: Path) -> Path:
    """Where a row's run lies."""
    return runs / pair / method / f"seed_{seed}"


def run_all(
    pair: str, methods: Sequence[str], data: Path, runs: Path, seeds: int, jobs: int
) -> None:
    """Runs what is not finished, `jobs` at a time, each with its share of the cores."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    # Threads that wait must not spin while other runs could use the core.
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    waiting = [
        command(pair, method, seed, data, runs) for seed in range(seeds) for method in methods
    ]
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            words = waiting.pop(0)
            print(" ".join(words[1:]), flush=True)
            running.append(subprocess.Popen(words, env=environment))
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            if process.returncode:
                sys.exit(f"a row failed: {process.args}")
        time.sleep(1)


def results(pair: str, method: str, runs: Path, seeds: int, stage: str) -> list[Evaluation]:
    """A method's results over seeds."""
    return [
        Evaluation.read(folder_of(pair, method, seed, runs) / stage / "evaluation.json")
        for seed in range(seeds)
    ]


def finished(pair: str, method: str, runs: Path, seeds: int) -> bool:
    """Whether every seed of a row is there."""
    folders = [folder_of(pair, method, seed, runs) for seed in range(seeds)]
    return all((folder / "evaluate" / "evaluation.json").is_file() for folder in folders)


def section(pair: str, methods: Sequence[str], runs: Path, seeds: int) -> str:
    """The tables of a pair in Markdown."""
    done = [method for method in methods if finished(pair, method, runs, seeds)]
    rows = [method for method in done if method != "ceiling"]
    found = {method: results(pair, method, runs, seeds, "evaluate") for method in rows}
    text = [
        summary(pair, found, runs, seeds),
        classes(found),
        shares(found),
        signs(pair, rows, runs, seeds),
        pseudo_labels(pair, rows, runs, seeds),
    ]
    if "ceiling" in done:
        half = {method: results(pair, method, runs, seeds, "half") for method in rows}
        half["ceiling"] = results(pair, "ceiling", runs, seeds, "evaluate")
        told = "On the second half of CamVid val alone, beside the ceiling, IoU in %:\n"
        text += [told, classes(half)]
    return "\n".join(text)


def summary(pair: str, found: dict[str, list[Evaluation]], runs: Path, seeds: int) -> str:
    """Each method's mean, its paired differences, its budget and its time."""
    headline = next(iter(next(iter(found.values()))[0].miou))
    lines = [
        ["method", f"mIoU (protocol {headline})", "difference", "by seed", "iterations",
         "training, min", "translation and labels, min"]
    ]  # fmt: skip
    for method, of_seeds in found.items():
        base = "source-only-segformer" if "segformer" in method else "source-only"
        scores = [100 * one.miou[headline] for one in of_seeds]
        paired = [
            score - 100 * one.miou[headline] for score, one in zip(scores, found[base], strict=True)
        ]
        folders = [folder_of(pair, method, seed, runs) for seed in range(seeds)]
        length = sum(trained(recipe_of(folders[0])).values())
        training = statistics.mean(minutes_of(folder) for folder in folders)
        beside = statistics.mean(minutes_beside(folder) for folder in folders)
        differs = method != base
        name = f"{NAMES[method]} (`{method}-{pair}`)"
        told = [spread(paired, signed=True), " ".join(f"{one:+.1f}" for one in paired)]
        lines.append(
            [name, spread(scores), *(told if differs else ["", ""]), str(length),
             f"{training:.1f}", f"{beside:.1f}" if beside else ""]
        )  # fmt: skip
    return markdown(lines)


def minutes_beside(work_dir: Path) -> float:
    """Minutes of what is no training of a segmenter: translation, pseudo-labels, centres."""
    recipe = recipe_of(work_dir)
    training = set(trained(recipe))
    seconds = 0.0
    for name, stage in recipe.stages.items():
        if name not in training and not isinstance(stage, EvaluateStage):
            seconds += json.loads((work_dir / name / SECONDS).read_text())["seconds"]
    return seconds / 60


def classes(found: dict[str, list[Evaluation]]) -> str:
    """IoU by class with its spread, classes that occur."""
    first = next(iter(found.values()))[0]
    headline = next(iter(first.miou))
    names = [first.classes[index] for index in first.protocols[headline]]
    present = [name for name in names if first.confusion[first.classes.index(name)].sum()]
    lines = [["IoU, %", *present, f"**mIoU ({headline})**"]]
    for method, of_seeds in found.items():
        cells = [spread([100 * one.iou[name] for one in of_seeds]) for name in present]
        mean = spread([100 * one.miou[headline] for one in of_seeds])
        lines.append([NAMES[method], *cells, f"**{mean}**"])
    return markdown(lines)


def shares(found: dict[str, list[Evaluation]]) -> str:
    """How much of the target each class covers, as labelled and as predicted, mean over seeds."""
    first = next(iter(found.values()))[0]
    labelled = first.confusion.sum(1) / first.confusion.sum()
    present = [index for index, share in enumerate(labelled) if share]
    lines = [["% of target pixels", *(first.classes[index] for index in present)]]
    lines.append(["labelled", *(f"{100 * labelled[index]:.1f}" for index in present)])
    for method, of_seeds in found.items():
        predicted = [one.confusion.sum(0) / one.confusion.sum() for one in of_seeds]
        cells = (statistics.mean(float(one[index]) for one in predicted) for index in present)
        lines.append([NAMES[method], *(f"{100 * share:.1f}" for share in cells)])
    return markdown(lines)


def signs(pair: str, methods: Sequence[str], runs: Path, seeds: int) -> str:
    """What the last training stage says of itself, without a target label."""
    lines = [["over the last 50 iterations", "cross-entropy", "pull of each term, % of its",
              "discriminators right, %"]]  # fmt: skip
    for method in methods:
        means = last_numbers([folder_of(pair, method, seed, runs) for seed in range(seeds)])
        own = means.get("pull/segmentation", 0.0)
        pulls = [
            f"{name.removeprefix('pull/')} {100 * value / own:.0f}"
            for name, value in means.items()
            if name.startswith("pull/") and name != "pull/segmentation" and own
        ]
        whole = means["gradient_norm/segmenter"]
        pulls += [
            f"{name.removeprefix('gradient/')} {100 * value / whole:.0f} \\*"
            for name, value in means.items()
            if name.startswith("gradient/")
        ]
        right = [
            f"{name.removeprefix('accuracy/')} {100 * value:.0f}"
            for name, value in means.items()
            if name.startswith("accuracy/")
        ]
        entropy = f"{means['loss/segmentation']:.3f}"
        lines.append([NAMES[method], entropy, ", ".join(pulls), ", ".join(right)])
    return markdown(lines)


def last_numbers(folders: Sequence[Path]) -> dict[str, float]:
    """Means over runs of the last five lines of the last training's metrics.jsonl."""
    found: dict[str, list[float]] = {}
    for folder in folders:
        name = list(trained(recipe_of(folder)))[-1]
        for row in read_rows(folder / name / "metrics.jsonl")[-5:]:
            for key, value in row.items():
                found.setdefault(key, []).append(value)
    return {key: statistics.mean(values) for key, values in found.items()}


def pseudo_labels(pair: str, methods: Sequence[str], runs: Path, seeds: int) -> str:
    """Share kept and its accuracy on labelled images of the target, by round."""
    lines = [["pseudo-labels", "stage", "kept, %", "right of what is kept, %",
              "right of all that is labelled, %"]]  # fmt: skip
    for method in methods:
        folders = [folder_of(pair, method, seed, runs) for seed in range(seeds)]
        for name, stage in recipe_of(folders[0]).stages.items():
            if not isinstance(stage, PseudoLabelStage):
                continue
            rows = [read_rows(folder / name / "metrics.jsonl")[-1] for folder in folders]
            cells = [
                spread([100 * row[key] for row in rows]) if all(key in row for row in rows) else "–"  # noqa: RUF001
                for key in ("kept", "accuracy", "recall")
            ]
            lines.append([NAMES[method], name, *cells])
    return markdown(lines) if len(lines) > 1 else ""


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and sample standard deviation of per cents."""
    return cell([value / 100 for value in values], signed=signed).text


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its header; all but the first column are numbers."""
    rule = [":--", *["--:"] * (len(lines[0]) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], rule, *lines[1:]))


def layout(folder: Path) -> str:
    """The final errors that `segue analyse layout-shift` left."""
    with (folder / "layout_shift.csv").open() as file:
        rows = list(csv.DictReader(file))
    last_of = {row["patch"]: 100 * float(row["error"]) for row in rows}
    lines = ["| patch, at 128x64 | error of the classifier, % |", "|---|---:|"]
    return "\n".join(lines + [f"| {patch} | {error:.1f} |" for patch, error in last_of.items()])


def sweep(folder: Path, title: str) -> str:
    """What `segue sweep` left, in per cent."""
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    key = next(iter(rows[0]))
    found = {row[key]: float(row["miou"]) for row in rows}
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
    parser.add_argument("pair", choices=[*sorted(METHODS), "layout", "sweep", "ablation"])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(NAMES), help="run these, write nothing")
    parser.add_argument("--write", action="store_true", help="write the rows that are finished")
    chosen = parser.parse_args()
    if chosen.pair == "layout":
        write("layout", layout(Path("runs/layout-shift")))
        return
    if chosen.pair == "sweep":
        for mark, (folder, title) in SWEEPS.items():
            if (folder / "sweep.csv").is_file():
                write(mark, sweep(folder, title))
            else:
                print(f"{folder}: no sweep.csv; its table stays as it is")
        return
    if chosen.pair == "ablation":
        folder = Path("runs/sweep-coarse-to-fine-demo-schemes")
        write("ablation", (folder / "sweep.md").read_text())
        return
    if chosen.pair == "demo":
        make_worlds(Path("runs/demo/worlds"), None)
    methods = METHODS[chosen.pair]
    if not chosen.write:
        only = chosen.only or methods
        run_all(chosen.pair, only, chosen.data, chosen.runs, chosen.seeds, chosen.jobs)
    if chosen.only is None:
        write(chosen.pair, section(chosen.pair, methods, chosen.runs, chosen.seeds))


if __name__ == "__main__":
    main()
