"""The stage that labels a dataset by what models say of it, where a rule finds that sure enough.

The network runs once for each image. Where a rule has to see all images before it decides, logits
at the network's own stride are kept on disk until the end, in float32: 65 x 129 x 19 x 4 bytes or
0.64 MB an image at paper scale, for each model and head. Later passes upsample them again, which
gives the same bits as running the network again would. Probabilities are made by bands of rows:
memory grows neither with images nor with what an image's classes would take at full size.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from segue.datasets import Dataset
from segue.datasets.derived import label_paths
from segue.errors import SegueError
from segue.inference import model
from segue.inference.labels import Vote, probability_bands
from segue.inference.model import Ensemble
from segue.models.folding import fold_batch_norms
from segue.parts import build
from segue.pseudo_labels import RULES, Rule, Settled, total
from segue.pseudo_labels.outcome import Measured, Outcome, kept_counts, measured_counts
from segue.pseudo_labels.rule import Counts, as_label
from segue.pseudo_labels.spill import Logits, Spill, digest
from segue.recipe import build as assembly
from segue.recipe.recipe import PseudoLabelStage, Recipe
from segue.runtime.prefetch import ahead
from segue.runtime.processes import World, gather
from segue.runtime.progress import Meter
from segue.stages.evaluate import load_models
from segue.storage.whole import write_whole

FILE = "pseudo_labels.json"
METRICS = "metrics.jsonl"
PICTURE = "share_kept"
SPILL = "spill"


def run(
    recipe: Recipe,
    name: str,
    stage: PseudoLabelStage,
    work_dir: Path,
    *,
    world: World,
    console: Console | None,
) -> None:
    """Writes a label for every image of the stage's dataset, whose own labels are never opened.

    Leaves `labels/` (8-bit PNG of train ids, 255 where nothing is kept, at the stage's size),
    `pseudo_labels.json`, `metrics.jsonl` and `share_kept.png` and `.svg` in the stage's folder.
    Started again after an interruption it does not run the network again for images whose logits
    are on disk, and ends with the same bits.

    The recipe's `precision` is also that of the networks here: with `bfloat16` they run under
    autocast. Of models of the demo that moved thresholds by up to 0.005 and so 0.4 to 0.6 % of the
    pixels between kept and not kept, none to another class. Logits are kept, and probabilities and
    thresholds made, in float32.

    Differs: probabilities are the softmax of the upsampled logits, as in training; BDL's and FDA's
    code upsamples probabilities.

    Raises:
        SegueError: the models are of other classes, or what they say of an image is not finite.
    """
    folder = work_dir / name
    if stage.measure_on == stage.data:
        fix = "name another labelled dataset, such as validation"
        where = f"stages.{name}.measure_on"
        raise SegueError("the labels of what is labelled stay closed", where=where, fix=fix)
    rule = build(RULES, stage.rule, where=f"stages.{name}.rule", what="rule")
    dataset = assembly.dataset(recipe, stage.data, labels=False, work_dir=work_dir)
    files = [work_dir / one / model.FILE for one in stage.models]
    made_by = f"{digest(files)} {recipe.precision}"
    spill = Spill(folder / SPILL, made_by) if rule.passes else None
    shown = console if world.leads else None
    models = load_models(stage, work_dir, device=str(world.device))
    for one in models.models:
        fold_batch_norms(one.segmenter)
    looking = Looking(models, dataset, stage.size, world, spill, shown, recipe.precision)
    settled = settle(rule, looking, title=name)
    counts = label(settled, looking, folder, title=f"{name}, written")
    measured = None
    if stage.measure_on is not None:
        on = assembly.dataset(recipe, stage.measure_on, labels=True, work_dir=work_dir)
        there = replace(looking, dataset=on, spill=None)
        measured = measure(settled, there, title=f"{name}, measured")
    classes = dataset.label_space.classes
    outcome = Outcome(classes, settled.thresholds, counts, len(dataset), measured)
    if world.leads:
        leave(outcome, stage, folder, dataset, looking.spilled_bytes)
        tell(outcome, folder, console)
        # Last of all: until then an interruption costs no run of the network.
        shutil.rmtree(folder / SPILL, ignore_errors=True)


@dataclass
class Looking:
    """What models say of the images of a dataset that are this process's share.

    Args:
        models: whose mean probability it is.
        dataset: the images; labels are not touched.
        size: width and height of probabilities.
        world: process r of n takes images r, r + n, r + 2 n, ...
        spill: where logits are kept for later passes; None for images that are looked at once.
        console: where progress is shown.
        precision: of the networks.

    Raises:
        SegueError: dataset and models have other classes.
    """

    models: Ensemble
    dataset: Dataset
    size: tuple[int, int]
    world: World
    spill: Spill | None
    console: Console | None
    precision: Literal["float32", "bfloat16"] = "float32"
    spilled_bytes: int = 0

    def __post_init__(self) -> None:
        if self.dataset.label_space.classes != self.models.label_space.classes:
            fix = "label data of its own label space"
            raise SegueError(
                "the model was trained for other classes", where=self.dataset.name, fix=fix
            )
        self.dataset = self.dataset.read_by(self.models.range)

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.dataset.label_space.num_classes

    def votes(self, title: str) -> Iterator[tuple[int, list[Vote]]]:
        """Place in the dataset and what the models say, of one image after another."""
        mine = range(self.world.rank, len(self.dataset), self.world.size)
        meter = Meter(self.console, title, len(mine), "img")
        meter.start()
        try:
            for done, (index, found) in enumerate(ahead(self._read, mine), 1):
                yield index, self.models.votes(self._logits(index, found))
                meter.advance(done)
        finally:
            meter.stop()

    def _read(self, index: int) -> tuple[int, Logits | NDArray[np.uint8]]:
        """The logits where they are on disk, else the image."""
        logits = self.spill.read(index, self.world.device) if self.spill is not None else None
        return index, self.dataset.image(index, self.size) if logits is None else logits

    def _logits(self, index: int, found: Logits | NDArray[np.uint8]) -> Logits:
        """What the models say of an image, kept on disk if anyone will ask again."""
        logits = self._run(found) if isinstance(found, np.ndarray) else found
        if not all(values.isfinite().all() for heads in logits for values in heads.values()):
            where = self.dataset.items[index].image
            raise SegueError("logits are not finite", where=where, fix="train the model again")
        if self.spill is None:
            return logits
        if isinstance(found, np.ndarray):
            self.spill.write(index, logits)
        if not self.spilled_bytes:
            self.spilled_bytes = sum(one.nbytes for heads in logits for one in heads.values())
            self._tell_room()
        return logits

    def _run(self, image: NDArray[np.uint8]) -> Logits:
        half = self.precision == "bfloat16"
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=half):
            return self.models.logits_of(image)

    def _tell_room(self) -> None:
        if self.console is not None:
            one, every = self.spilled_bytes / 1e6, self.spilled_bytes * len(self.dataset) / 1e6
            text = f"logits on disk until the end: {one:.2f} MB an image, {every:,.0f} MB in all"
            self.console.print(text, style="dim", highlight=False)


def settle(rule: Rule, looking: Looking, *, title: str) -> Settled:
    """The rule's thresholds, the same in every process."""
    counts: list[Counts] = []
    for number in range(rule.passes):
        seen = (
            probabilities
            for _, votes in looking.votes(f"{title}, pass {number + 1}")
            for _, probabilities in probability_bands(votes, looking.size[::-1])
        )
        mine = total(rule, seen, counts)
        counts.append(summed(mine, looking.world))
    return rule.settle(counts, looking.classes)


def label(settled: Settled, looking: Looking, folder: Path, *, title: str) -> Counts:
    """Writes the pseudo-labels and returns how many pixels were proposed and kept by class."""
    paths, space = label_paths(looking.dataset, folder), looking.dataset.label_space
    counts = np.zeros((2, looking.classes), np.int64)
    for index, votes in looking.votes(title):
        decided, found = decided_by(settled, votes, looking)
        counts += found
        picture = space.palette_png(decided)
        write_whole(paths[index], lambda file, picture=picture: picture.save(file, "PNG"))  # type: ignore[misc]
    return summed(counts, looking.world)


def decided_by(
    settled: Settled, votes: list[Vote], looking: Looking
) -> tuple[NDArray[np.uint8], Counts]:
    """An image's pseudo-label [H, W], and the pixels proposed and kept by class."""
    size = looking.size[::-1]
    decided, counts = np.empty(size, np.uint8), np.zeros((2, looking.classes), np.int64)
    for rows, probabilities in probability_bands(votes, size):
        proposed, kept = settled.propose(probabilities)
        counts += kept_counts(proposed, kept, looking.classes)
        decided[rows] = as_label(proposed, kept)
    return decided, counts


def measure(settled: Settled, looking: Looking, *, title: str) -> Measured:
    """How right the settled rule is on a labelled dataset; labels resized to the stage's size."""
    dataset = looking.dataset
    counts = np.zeros((looking.classes, looking.classes + 1), np.int64)
    for index, votes in looking.votes(title):
        truth = dataset.label(index, looking.size)
        pseudo, _ = decided_by(settled, votes, looking)
        counts += measured_counts(truth, pseudo, looking.classes)
    counts = summed(counts, looking.world)
    return Measured(dataset.name, len(dataset), dataset.label_space.classes, counts)


def summed(counts: Counts, world: World) -> Counts:
    """Counts of all processes together."""
    return sum(gather(counts, world), np.zeros((), np.int64))


def leave(
    outcome: Outcome, stage: PseudoLabelStage, folder: Path, dataset: Dataset, spilled_bytes: int
) -> None:
    """Writes the numbers and the picture."""
    # matplotlib takes long to import
    from segue.figures import figure
    from segue.figures import share_kept as kept

    settings = {"rule": stage.rule, "size": stage.size, "spilled_bytes_per_image": spilled_bytes}
    text = json.dumps({"format": 1, **settings, **outcome.told()}, indent=1)
    write_whole(folder / FILE, lambda file: file.write(text.encode()))
    row = json.dumps(outcome.row()) + "\n"
    write_whole(folder / METRICS, lambda file: file.write(row.encode()))
    measured = outcome.measured
    drawn = kept.draw(
        outcome.share_kept,
        dataset.label_space.colours,
        total=outcome.share_kept_of_all,
        title=f"{folder.name}: share kept per class, {outcome.images:,} images",
        precision=None if measured is None else measured.precision,
    )
    figure.save(drawn, folder / PICTURE)


def tell(outcome: Outcome, folder: Path, console: Console | None) -> None:
    """Shows the share kept by class."""
    if console is None:
        return
    console.print(outcome.table())
    measured = outcome.measured
    if measured is not None:
        text = f"precision and recall in % on {measured.on}, {measured.images} images"
        console.print(text, style="dim", highlight=False)
    console.print(f"{outcome.images} images; {folder / FILE}", style="dim", soft_wrap=True)
