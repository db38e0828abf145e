"""How CPU seconds and memory grow with sizes and numbers; fills a table of docs/performance.md.

    .venv/bin/python benchmarks/growth.py

A few points of each curve on one thread, with a tiny network so that what grows is seen; an
exponent is the slope of a straight line through the logarithms (least squares). Each curve is
measured in a process of its own. Numbers stand in docs/growth.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from bench import machine, write
from row import peak

from segue.checking.fit import changed
from segue.checking.one_step import generated, prepared
from segue.inference.model import FILE, Model
from segue.label_space import LabelSpace
from segue.models import MODELS
from segue.recipe import load
from segue.recipe.recipe import Recipe, TrainStage
from segue.runtime import processes as distributed
from segue.runtime.processes import World
from segue.stages import STAGES, pseudo_label
from segue.training.loop import iterate

NUMBERS = Path(__file__).parents[1] / "docs" / "growth.json"
FORK = multiprocessing.get_context("fork")
# One thread; and blocks are handed back at once, or one point would hide the next.
QUIET = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(2**16),
}
CLASSES, WIDTHS = 19, (16, 32, 64, 128)
REPEATS = 2
Work = Callable[[], object]
ALONE = World()


@dataclass(frozen=True)
class Curve:
    """One kind of work over one quantity.

    Args:
        work: what is done.
        over: the quantity that is changed.
        points: its values.
        make: value -> the work, and how often it does what is told per unit.
        note: why an exponent is above 1, where it is.
    """

    work: str
    over: str
    points: tuple[int, ...]
    make: Callable[[int], tuple[Work, int]]
    note: str = ""


def space_of(classes: int) -> dict[str, Any]:
    """A label space of so many classes."""
    return {"name": "own", "classes": [f"class {index}" for index in range(classes)]}


def stepping(
    recipe_name: str, stage_name: str, settings: dict[str, Any], world: World = ALONE
) -> Work:
    """An iteration of a recipe's stage with settings laid over it, on a tiny network."""
    at = f"stages.{stage_name}"
    tiny = {
        "protocols": [],
        "label_space": space_of(CLASSES),
        f"{at}.networks.segmenter.backbone": "test_resnet",
        f"{at}.networks.segmenter.weights": None,
        f"{at}.networks.discriminator.widths": list(WIDTHS),
    }
    recipe = changed(load(recipe_name), {**tiny, **settings})
    stage = recipe.stages[stage_name]
    assert isinstance(stage, TrainStage)
    training, _ = prepared(recipe, stage_name, stage, world)
    training.examine_every = None
    drawn = [generated(recipe, stage_name, stage, 0)]
    return lambda: iterate(training, 0, drawn)


def adversarial(width: int = 192, classes: int = CLASSES, world: World = ALONE) -> Work:
    """An iteration of AdvEnt on images of `width` x `width / 2`."""
    sizes = {f"stages.train.{role}.size": [width, width // 2] for role in ("source", "target")}
    settings = {**sizes, "label_space": space_of(classes)}
    return stepping("advent-single-gta5", "train", settings, world)


def grouping(width: int = 192, classes: int = CLASSES, groups: int = 8) -> Work:
    """An iteration with the conditional discriminator of groups as its only adversary."""
    sizes = {f"stages.warm_up.{role}.size": [width, width // 2] for role in ("source", "target")}
    settings = {
        **sizes,
        "label_space": space_of(classes),
        "stages.warm_up.networks.grouping.groups": groups,
    }
    return stepping("grouping-gta5", "warm_up", settings)


def files(stage: dict[str, Any], width: int, classes: int, images: int) -> tuple[Any, Path]:
    """A recipe whose one stage looks at generated files with a tiny model, and its work_dir."""
    root = Path(tempfile.mkdtemp(prefix="segue-growth-"))
    size, random = (width, width // 2), np.random.default_rng(0)
    for folder in ("images", "labels", "train"):
        (root / folder).mkdir()
    for index in range(images):
        coarse = random.integers(0, 256, (8, 16, 3), np.uint8)
        cv2.imwrite(str(root / f"images/{index}.jpg"), cv2.resize(coarse, size))
        ids = random.integers(0, classes, (8, 16), np.uint8)
        label = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / f"labels/{index}.png"), label)
    torch.manual_seed(0)
    settings = {"kind": "deeplab_v2", "backbone": "test_resnet"}
    network = MODELS["deeplab_v2"](classes, backbone="test_resnet").eval()
    names = space_of(classes)["classes"]
    space = LabelSpace.from_settings("own", names, None, None)
    Model(network, space, size, settings, {"main": 1.0}).save(root / "train" / FILE)
    training = {
        "kind": "train", "iterations": 1, "source": {"data": "all", "size": size},
        "networks": {"segmenter": settings}, "terms": {},
    }  # fmt: skip
    stages = {"train": training, "stage": {**stage, "data": "all", "size": size}}
    recipe = Recipe(
        name="growth", device="cpu", workers=0, label_space=space_of(classes),
        data={"all": {"kind": "folder", "root": str(root)}}, stages=stages,
    )  # fmt: skip
    return recipe, root


def staged(
    stage: dict[str, Any], width: int = 256, classes: int = CLASSES, images: int = 4
) -> tuple[Work, int]:
    """A whole stage on generated files, and how many images it sees."""
    recipe, root = files({**stage, "models": ["train"]}, width, classes, images)
    settings = recipe.stages["stage"]

    def work() -> None:
        (root / "stage").mkdir(exist_ok=True)
        # The picture that a stage leaves takes a second, whatever else there is.
        with mock.patch.object(pseudo_label, "leave"):
            STAGES[settings.kind](recipe, "stage", settings, root, world=ALONE, console=None)

    return work, images


def together(stage: dict[str, Any], images: int) -> tuple[Work, int]:
    """The same, counted as one."""
    work, _ = staged(stage, width=128, images=images)
    return work, 1


LABELLING = {"kind": "pseudo_label", "rule": "confidence"}
SCORING = {"kind": "evaluate"}
EXPLAINED = (
    "its first layer has as many kernels as there are pairs of classes, which are folded into one "
    "per class and image"
)
SIDES = (192, 256, 384, 512)
SEVERAL = (10, 19, 38, 76)
MANY = (20, 50, 100, 200)
# The work done is that of one image, or of all; the last number says by how many it is divided.
CURVES = (
    Curve("adversarial step", "pixels", SIDES, lambda n: (adversarial(width=n), 1)),
    Curve("adversarial step", "classes", SEVERAL, lambda n: (adversarial(classes=n), 1)),
    Curve("step with groups", "pixels", SIDES[:3], lambda n: (grouping(width=n), 1)),
    Curve(
        "step with groups", "classes", SEVERAL[:3], lambda n: (grouping(classes=n), 1), EXPLAINED
    ),
    Curve("step with groups", "K", (1, 2, 4, 8, 16), lambda n: (grouping(groups=n), 1)),
    Curve("pseudo-labels, an image", "pixels", SIDES, lambda n: staged(LABELLING, width=n)),
    Curve("pseudo-labels, an image", "classes", SEVERAL, lambda n: staged(LABELLING, classes=n)),
    Curve("pseudo-labels, all images", "images", MANY, lambda n: together(LABELLING, n)),
    Curve("evaluation, an image", "pixels", SIDES, lambda n: staged(SCORING, width=n)),
    Curve("evaluation, an image", "classes", SEVERAL, lambda n: staged(SCORING, classes=n)),
    Curve("evaluation, all images", "images", MANY, lambda n: together(SCORING, n)),
)
PROCESSES = (1, 2, 4)


def timed(work: Work, units: int) -> dict[str, float]:
    """Median CPU seconds per unit, and peak bytes."""
    work()
    most = peak(work)
    seconds = []
    for _ in range(REPEATS):
        begun = time.process_time()
        work()
        seconds.append((time.process_time() - begun) / units)
    return {"seconds": statistics.median(seconds), "bytes": most}


def measured(curve: Curve) -> list[dict[str, float]]:
    """Every point of a curve."""
    return [timed(*curve.make(value)) for value in curve.points]


def started(work: Callable[[], Any], **environment: str) -> Connection:
    """Does something in a fork of this process, which has loaded all and computed nothing."""
    receiver, sender = FORK.Pipe(duplex=False)

    def report() -> None:
        os.environ.update(environment)
        sender.send(work())

    FORK.Process(target=report).start()
    sender.close()
    return receiver


def shared(count: int) -> dict[str, float]:
    """A step of each of several processes that average their gradients: the most of any."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    joined = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        started(one_process, RANK=str(rank), LOCAL_RANK=str(rank), **joined)
        for rank in range(count)
    ]
    found = [process.recv() for process in processes]
    return {key: max(one[key] for one in found) for key in found[0]}


def one_process() -> dict[str, float]:
    """What one of several processes takes for its step."""
    world = distributed.join("cpu")
    found = timed(adversarial(width=256, world=world), 1)
    distributed.meet(world)
    distributed.leave()
    return found


def exponent(points: Sequence[float], values: Sequence[float]) -> float:
    """The slope of logarithms, by least squares.

    Example:
        >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
        2.0
    """
    return float(np.polyfit(np.log(points), np.log(np.maximum(values, 1e-9)), 1)[0])


def told(
    work: str, over: str, points: Sequence[int], found: list[dict[str, float]]
) -> dict[str, Any]:
    """A curve with its exponents; of images the pixels count, which grow as the side's square."""
    x = [side * side // 2 for side in points] if over == "pixels" else list(points)
    seconds, sizes = ([one[key] for one in found] for key in ("seconds", "bytes"))
    return {
        "work": work, "over": over, "points": x, "seconds": seconds, "bytes": sizes,
        "seconds_exponent": exponent(x, seconds), "bytes_exponent": exponent(x, sizes),
    }  # fmt: skip


def table(rows: list[dict[str, Any]], notes: dict[tuple[str, str], str]) -> str:
    """Markdown."""
    lines = [
        "| work | over | from … to | CPU seconds | exponent | memory, MB | exponent |",
        "| :-- | :-- | --: | --: | --: | --: | --: |",
    ]
    remarks = []
    for row in rows:
        first, last = (0, -1)
        spans = [
            f"{row['points'][first]:,} … {row['points'][last]:,}",
            f"{row['seconds'][first]:.3g} … {row['seconds'][last]:.3g}",
            f"**{row['seconds_exponent']:.2f}**",
            f"{row['bytes'][first] / 1e6:.0f} … {row['bytes'][last] / 1e6:.0f}",
            f"**{row['bytes_exponent']:.2f}**",
        ]
        lines.append(f"| {row['work']} | {row['over']} | {' | '.join(spans)} |")
        note = notes.get((row["work"], row["over"]))
        if note and max(row["seconds_exponent"], row["bytes_exponent"]) > 1:
            remarks.append(f"- {row['work']} over {row['over']}: {note}.")
    return "\n".join([*lines, "", *remarks])


def main() -> None:
    """Measures and writes."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if any(os.environ.get(key) != value for key, value in QUIET.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **QUIET})
    rows = []
    for curve in CURVES:
        found = started(lambda curve=curve: measured(curve)).recv()
        rows.append(told(curve.work, curve.over, curve.points, found))
        print(json.dumps(rows[-1]), flush=True)
    found = [shared(count) for count in PROCESSES]
    rows.append(told("adversarial step, of each process", "processes", PROCESSES, found))
    print(json.dumps(rows[-1]), flush=True)
    numbers = {"format": 1, "machine": machine(), "curves": rows}
    NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n")
    notes = {(curve.work, curve.over): curve.note for curve in CURVES}
    write("growth", f"Machine: {numbers['machine']}\n\n{table(rows, notes)}")


if __name__ == "__main__":
    main()
