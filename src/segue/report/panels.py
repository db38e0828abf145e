"""Which scenes a page shows, by a rule that it states, and their pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from segue.analysis.samples import spread
from segue.datasets import Dataset
from segue.errors import SegueError
from segue.inference.confusion_matrix import ConfusionMatrix
from segue.inference.model import Ensemble
from segue.label_space import LabelSpace
from segue.parts import choose
from segue.report.page import Panel
from segue.report.pictures import coloured, shown_size, smaller
from segue.runtime.progress import Meter
from segue.work_dir import Run

LOOKED_AT = 500  # images that a rule compares at most, evenly spread: each costs every model a run
Label = NDArray[np.uint8]


@dataclass(frozen=True)
class Scenes:
    """What panels are made from.

    Args:
        data: what the recipe calls the images.
        dataset: the images, and labels where they are known.
        seen: runs by the order in which they are shown, the one before first.
        before: whether the first is what the last is compared with.
        protocol: whose mean orders images by how well they are labelled.
    """

    data: str
    dataset: Dataset
    seen: Sequence[Run]
    before: bool
    protocol: str

    @property
    def space(self) -> LabelSpace:
        """The classes."""
        return self.seen[0].classes

    def models(self) -> list[Ensemble]:
        """The models of all that is shown.

        Raises:
            SegueError: one is not there, or knows other classes.
        """
        found = [run.models() for run in self.seen]
        for run, models in zip(self.seen, found, strict=True):
            if models.label_space.classes != self.space.classes:
                fix = "compare models of one label space"
                raise SegueError("knows other classes", where=run.work_dir, fix=fix)
        return found

    def right(self, index: int, label: Label) -> float:
        """Mean IoU of one image's prediction over the protocol, NaN where nothing is labelled."""
        matrix = ConfusionMatrix(self.space.num_classes)
        matrix.add(self.dataset.label(index), label)
        return matrix.miou(self.space, self.protocol)


Rule = Callable[[Scenes, int, int, Console | None], tuple[list[int], str]]


def at_random(
    scenes: Scenes, count: int, seed: int, _: Console | None = None
) -> tuple[list[int], str]:
    """Images drawn by a seed."""
    every = len(scenes.dataset)
    count = min(count, every)
    chosen = sorted(Random(seed).sample(range(every), count))
    return chosen, f"{count} of {every} images of {scenes.data}, drawn at random with seed {seed}"


def worst(scenes: Scenes, count: int, _: int, console: Console | None) -> tuple[list[int], str]:
    """Images on which the last run's mean IoU is lowest.

    Raises:
        SegueError: there are no labels.
    """
    if not scenes.dataset.labelled:
        fix = "choose random or most-changed: nothing says what is wrong"
        raise SegueError("`worst` needs target labels", where="--rule", fix=fix)
    models = scenes.models()[-1]

    def badness(index: int, image: Label) -> float:
        return -scenes.right(index, models.predict(image))

    chosen, of = _most(scenes, count, badness, console)
    told = f"on which {scenes.seen[-1].name} has the lowest mean IoU, the lowest first"
    return chosen, f"The {len(chosen)} of {of} {told}; labels chose here what is shown, no more"


def most_changed(
    scenes: Scenes, count: int, _: int, console: Console | None
) -> tuple[list[int], str]:
    """Images on which the first and the last prediction differ in most pixels.

    Raises:
        SegueError: there is nothing to compare.
    """
    if not scenes.before:
        fix = "give two runs, or --before with a model"
        raise SegueError("`most-changed` needs a prediction before", where="--rule", fix=fix)
    first, *_rest, last = scenes.models()

    def changed(_: int, image: Label) -> float:
        return float((first.predict(image) != last.predict(image)).mean())

    chosen, of = _most(scenes, count, changed, console)
    names = f"{scenes.seen[0].name} and {scenes.seen[-1].name}"
    return chosen, (
        f"The {len(chosen)} of {of} on which {names} differ in most pixels, the most changed "
        "first; no label had a say"
    )


RULES: Mapping[str, Rule] = {"random": at_random, "worst": worst, "most-changed": most_changed}


def chosen_panels(
    scenes: Scenes, *, rule: str, count: int, seed: int, console: Console | None
) -> tuple[list[Panel], str]:
    """The panels and the sentence that says how they were chosen.

    Raises:
        SegueError: there is no such rule, or it needs what is not there.
    """
    choice = choose(RULES, rule, where="--rule", what="rule")
    indices, told = choice(scenes, count, seed, console)
    models = scenes.models()
    meter = Meter(console, "pictures", len(indices), "img")
    meter.start()
    found = []
    for done, index in enumerate(indices, 1):
        found.append(_panel(scenes, models, index))
        meter.advance(done)
    meter.stop()
    return found, f"{told}."


def _panel(scenes: Scenes, models: Sequence[Ensemble], index: int) -> Panel:
    image = scenes.dataset.read_by(models[-1].range).image(index)
    size, space = shown_size(image), scenes.space
    pictures = {"image": smaller(image, size)}
    predicted = [one.predict(image) for one in models]
    if scenes.dataset.labelled:
        pictures["ground truth"] = coloured(scenes.dataset.label(index), space, size)
    for run, label in zip(scenes.seen, predicted, strict=True):
        pictures[run.name] = coloured(label, space, size)
    name = scenes.dataset.items[index].image.stem
    return Panel(name, pictures, _note(scenes, index, predicted))


def _note(scenes: Scenes, index: int, predicted: Sequence[Label]) -> str:
    told = []
    if scenes.dataset.labelled:
        values = [scenes.right(index, label) for label in predicted]
        shown = [f"{100 * value:.1f}" for value in values if not math.isnan(value)]
        told += [f"mean IoU {' → '.join(shown)}"] if shown else []
    if scenes.before:
        share = 100 * float((predicted[0] != predicted[-1]).mean())
        ends = " from first to last" if len(predicted) > 2 else ""
        told.append(f"{share:.1f} % of pixels changed{ends}")
    return ", ".join(told)


def _most(
    scenes: Scenes,
    count: int,
    score: Callable[[int, Label], float],
    console: Console | None,
) -> tuple[list[int], str]:
    """The images of the highest scores, and of how many."""
    dataset = scenes.dataset
    compared = spread(len(dataset), LOOKED_AT)
    meter = Meter(console, "choose pictures", len(compared), "img")
    meter.start()
    scores = {}
    for done, index in enumerate(compared, 1):
        scores[index] = score(index, dataset.image(index))
        meter.advance(done)
    meter.stop()
    known = [index for index in compared if not math.isnan(scores[index])]
    chosen = sorted(known, key=lambda index: (-scores[index], index))[:count]
    few = f", evenly spread over {len(dataset):,}" if len(compared) < len(dataset) else ""
    return chosen, f"{len(compared)} images of {scenes.data}{few}"
