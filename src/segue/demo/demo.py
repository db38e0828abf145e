"""`segue demo`: two worlds on disk, source only against a system, a table and a page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from segue import work_dir
from segue.demo.worlds import write_worlds
from segue.inference.evaluation import Evaluation
from segue.parts import choose
from segue.recipe import build as assembly
from segue.recipe import load
from segue.recipe.recipe import EvaluateStage, Recipe, TrainStage
from segue.report.iou_table import Table, compare
from segue.report.page import Panel, write_page
from segue.running.run import run as run_recipe
from segue.running.run import versions
from segue.runtime.cores import available_cores
from segue.runtime.progress import Meter
from segue.storage.whole import write_whole
from segue.work_dir import curve, evaluations, minutes_of, trained, warnings_of

# What each does, in a sentence for the page's reader.
SYSTEMS = {
    "local-alignment": "an adversary makes random patches of its predictions look alike",
    "grouping": "groups of its predictions, which a network finds, are made to look alike",
    "coarse-to-fine": "source images are shown in the other world's colours, and what it is sure "
    "of there becomes labels, round after round",
    "category-adaptive": "the style of its features is made alike, and what it is sure of there, "
    "by each class's own measure, becomes labels",
}
DEFAULT = "coarse-to-fine"
WHY = (
    f"Of the four systems {DEFAULT} gains most for its minutes on these worlds (docs/results.md); "
    "--system NAME shows another."
)
# Of all stages together. With the recipes' own 420 slow cores need more than five minutes.
ITERATIONS = 280
SOURCE_IMAGES, TARGET_IMAGES, VALIDATION_IMAGES = 300, 200, 60
PANELS = 8


def run(
    work_dir: Path,
    *,
    system: str | None = None,
    seeds: int = 1,
    iterations: int = ITERATIONS,
    console: Console,
) -> dict[str, list[Evaluation]]:
    """Makes the worlds, trains with and without a system, prints the table, writes the page.

    Args:
        work_dir: everything is written below it; the same call again continues.
        system: one of `SYSTEMS`; None takes `DEFAULT` and says why.
        seeds: 0 to `seeds` - 1 for each method.
        iterations: training length, of all stages together; the recipes' own is 420.
        console: where to show it.

    Raises:
        SegueError: there is no such system.
    """
    begun = time.monotonic()
    why = [] if system else [WHY]
    system = system or DEFAULT
    choose(SYSTEMS, system, where="--system", what="system")
    methods = {"source only": "source-only-demo", system: f"{system}-demo"}
    worlds = work_dir / "worlds"
    make_worlds(worlds, console)
    overrides = [
        f"data.source.root={worlds / 'source'}",
        f"data.target.root={worlds / 'target'}",
        f"data.validation.root={worlds / 'target'}",
    ]
    folders: dict[str, list[Path]] = {}
    for method, name in methods.items():
        lengths = shortened(load(name), iterations)
        for seed in range(seeds):
            recipe = load(name, [*overrides, *lengths, f"seed={seed}"])
            folder = work_dir / name / f"seed_{seed}"
            folders.setdefault(method, []).append(run_recipe(recipe, folder, console=console))
    results = {
        method: [list(evaluations(folder).values())[-1] for folder in of_method]
        for method, of_method in folders.items()
    }
    table = compare(results)
    console.print(table.to_rich(min(console.width, 80)))
    page = work_dir / "demo.html"
    make_page(page, system, recipe, table, {m: f[0] for m, f in folders.items()}, seeds, why)
    text = table.to_markdown().encode()
    write_whole(work_dir / "demo.md", lambda file: file.write(text))
    for sentence in why:
        console.print(sentence, highlight=False)
    minutes = (time.monotonic() - begun) / 60
    console.print(f"{minutes:.1f} minutes. Look at {page}", highlight=False)
    return results


def shortened(recipe: Recipe, iterations: int) -> list[str]:
    """Overrides that share a total length among a recipe's train stages as the recipe does."""
    lengths = trained(recipe)
    whole = sum(lengths.values())
    return [
        f"stages.{name}.iterations={max(1, round(iterations * length / whole))}"
        for name, length in lengths.items()
    ]


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
    system: str,
    recipe: Recipe,
    table: Table,
    folders: Mapping[str, Path],
    seeds: int,
    why: Sequence[str],
) -> None:
    """Writes the page: what was run, the table, curves, and panels of the first seed's models."""
    evaluate = recipe.stages["evaluate"]
    assert isinstance(evaluate, EvaluateStage)
    lengths = trained(recipe)
    batch = next(s.batch_size for s in recipe.stages.values() if isinstance(s, TrainStage))
    space = recipe.classes()
    occurring = {line.name for line in table.lines if not line.cells[0].absent}
    minutes = ", ".join(f"{minutes_of(of):.1f} minutes ({name})" for name, of in folders.items())
    facts = {
        "recipes": f"source-only-demo, {system}-demo",
        "training": f"{sum(lengths.values())} iterations of {batch} images, each; {system}: "
        + ", ".join(f"{length} ({name})" for name, length in lengths.items()),
        "seeds": ", ".join(str(seed) for seed in range(seeds)),
        "checkpoint": "the last; nothing was chosen by target labels",
        "data": f"{SOURCE_IMAGES} labelled source, {TARGET_IMAGES} unlabelled target and "
        f"{VALIDATION_IMAGES} validation images, drawn by Segue",
        "versions": versions(),
        "time": f"{minutes} of training per seed on {available_cores()} cores",
    }
    curves = {method: curve(folder, "loss/segmentation") for method, folder in folders.items()}
    write_page(
        path,
        title="Segue demo: a street world adapted to another",
        lead="A small network learns to label streets in one drawn world and is used in another "
        f"that looks different and is seen from another height. With {system} it "
        f"is trained with the other world's images too, without their labels: {SYSTEMS[system]}.",
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
            *why,
            f"Panels are every {VALIDATION_IMAGES // PANELS}th validation image, seed 0.",
            "The worlds and how they differ: docs/worlds.md. They were not tuned for a method.",
            *(f"{method}, {text}" for method, of in folders.items() for text in warnings_of(of)),
        ],
    )


def panels(recipe: Recipe, stage: EvaluateStage, folders: Mapping[str, Path]) -> list[Panel]:
    """Image, ground truth and each method's prediction for evenly spaced validation images."""
    dataset = assembly.dataset(recipe, stage.data, labels=True)
    space = recipe.classes()
    models = {method: work_dir.load(folder) for method, folder in folders.items()}
    shown = []
    for index in range(0, len(dataset), max(1, len(dataset) // PANELS))[:PANELS]:
        image = dataset.image(index)
        pictures: dict[str, NDArray[np.uint8]] = {
            "image": image,
            "ground truth": space.colour(dataset.label(index)),
        }
        for method, model_of in models.items():
            pictures[method] = space.colour(model_of.predict(image))
        shown.append(Panel(dataset.items[index].image.stem, pictures))
    return shown
