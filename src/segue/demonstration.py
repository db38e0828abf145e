"""`segue demo`: two worlds on disk, source only against local alignment, a table and a page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from segue import assembly, model
from segue.datasets.procedural import write_worlds
from segue.datasets.workers import available_cores
from segue.recipe import EvaluateStage, Recipe, TrainStage, load
from segue.report.page import Panel, write_page
from segue.report.tables import Table
from segue.running import run as run_recipe
from segue.showing import compare, evaluations, versions
from segue.stages.evaluate import Evaluation
from segue.tracking import Meter, read_rows

METHODS = {"source only": "source-only-demo", "local alignment": "local-alignment-demo"}
SOURCE_IMAGES, TARGET_IMAGES, VALIDATION_IMAGES = 300, 200, 60
PANELS = 8


def run(
    work_dir: Path, *, seeds: int = 1, iterations: int | None = None, console: Console
) -> dict[str, list[Evaluation]]:
    """Makes the worlds, trains both methods with every seed, prints the table, writes the page.

    Args:
        work_dir: everything is written below it; the same call again continues.
        seeds: 0 to `seeds` - 1 for each method.
        iterations: training length in place of the recipes'.
        console: where to show it.
    """
    begun = time.monotonic()
    worlds = work_dir / "worlds"
    make_worlds(worlds, console)
    overrides = [
        f"data.source.root={worlds / 'source'}",
        f"data.target.root={worlds / 'target'}",
        f"data.validation.root={worlds / 'target'}",
    ]
    if iterations is not None:
        overrides.append(f"stages.train.iterations={iterations}")
    folders: dict[str, list[Path]] = {}
    for method, name in METHODS.items():
        for seed in range(seeds):
            recipe = load(name, [*overrides, f"seed={seed}"])
            folder = work_dir / name / f"seed_{seed}"
            folders.setdefault(method, []).append(run_recipe(recipe, folder, console=console))
    results = {
        method: [next(iter(evaluations(folder).values())) for folder in of_method]
        for method, of_method in folders.items()
    }
    table = compare(results)
    console.print(table.to_rich(min(console.width, 80)))
    minutes = (time.monotonic() - begun) / 60
    page = work_dir / "demo.html"
    make_page(page, recipe, table, {m: f[0] for m, f in folders.items()}, seeds)
    (work_dir / "demo.md").write_text(table.to_markdown())
    console.print(f"{minutes:.1f} minutes. Look at [bold]{page}[/]", highlight=False)
    return results


def make_worlds(root: Path, console: Console | None) -> None:
    """Writes both worlds, once."""
    total = SOURCE_IMAGES + TARGET_IMAGES + VALIDATION_IMAGES
    meter = Meter(console, "draw two worlds", total, "img")
    meter.start()
    write_worlds(
        root,
        source=SOURCE_IMAGES,
        target_train=TARGET_IMAGES,
        target_val=VALIDATION_IMAGES,
        progress=lambda done, _: meter.advance(done),
    )
    meter.stop()


def make_page(
    path: Path,
    recipe: Recipe,
    table: Table,
    folders: Mapping[str, Path],
    seeds: int,
) -> None:
    """Writes the page: what was run, the table, curves, and panels of the first seed's models."""
    train, evaluate = recipe.stages["train"], recipe.stages["evaluate"]
    assert isinstance(train, TrainStage)
    assert isinstance(evaluate, EvaluateStage)
    space = recipe.classes()
    occurring = {line.name for line in table.lines if not line.cells[0].absent}
    trained = ", ".join(f"{minutes_of(of):.1f} minutes ({name})" for name, of in folders.items())
    facts = {
        "recipes": ", ".join(METHODS.values()),
        "training": f"{train.iterations} iterations of {train.batch_size} images",
        "seeds": ", ".join(str(seed) for seed in range(seeds)),
        "checkpoint": "the last; nothing was chosen by target labels",
        "data": f"{SOURCE_IMAGES} labelled source, {TARGET_IMAGES} unlabelled target and "
        f"{VALIDATION_IMAGES} validation images, drawn by Segue",
        "versions": versions(),
        "time": f"{trained} of training per seed on {available_cores()} cores",
    }
    curves = {
        method: [
            (row["iteration"], row["loss/segmentation"])
            for row in read_rows(folder / "train" / "metrics.jsonl")
        ]
        for method, folder in folders.items()
    }
    write_page(
        path,
        title="Segue demo: a street world adapted to another",
        lead="A small network learns to label streets in one drawn world and is used in another "
        "that looks different and is seen from another height. Local alignment trains it with the "
        "other world's images too, without their labels.",
        table=table,
        panels=panels(recipe, evaluate, folders),
        legend=[
            (name, colour)
            for name, colour in zip(space.classes, space.colours, strict=True)
            if name in occurring
        ],
        facts=facts,
        curves=curves,
        curve_axes=("iteration", "cross-entropy on the source"),
        notes=[
            f"Panels are every {VALIDATION_IMAGES // PANELS}th validation image, seed 0.",
            "The worlds and how they differ: docs/worlds.md. They were not tuned for a method.",
        ],
    )


def minutes_of(work_dir: Path) -> float:
    """How long training took, from the rates that it left."""
    seconds, before = 0.0, 0.0
    for row in read_rows(work_dir / "train" / "timing.jsonl"):
        seconds += (row["iteration"] - before) / row["iterations_per_second"]
        before = row["iteration"]
    return seconds / 60


def panels(recipe: Recipe, stage: EvaluateStage, folders: Mapping[str, Path]) -> list[Panel]:
    """Image, ground truth and each method's prediction for evenly spaced validation images."""
    dataset = assembly.dataset(recipe, stage.data, labels=True)
    space = recipe.classes()
    models = {method: model.load(folder) for method, folder in folders.items()}
    shown = []
    for index in range(0, len(dataset), max(1, len(dataset) // PANELS))[:PANELS]:
        image = dataset.image(index)
        pictures: dict[str, NDArray[np.uint8]] = {
            "image": image,
            "ground truth": space.colour(dataset.label(index)),
        }
        for method, trained in models.items():
            pictures[method] = space.colour(trained.predict(image))
        shown.append(Panel(dataset.items[index].image.stem, pictures))
    return shown
