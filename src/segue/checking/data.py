"""Looks at every dataset of a recipe in the roles that its stages give it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal

from segue.checking.depth import depth_of
from segue.checking.report import Report, share, told
from segue.datasets import Dataset
from segue.datasets.inspection import Inspection, inspect
from segue.errors import SegueError
from segue.recipe import build as assembly
from segue.recipe.fill_cache import room, wanted
from segue.recipe.recipe import (
    CentresStage,
    EvaluateStage,
    GroupsStage,
    PseudoLabelStage,
    Recipe,
    TrainStage,
    TranslateStage,
)
from segue.recipe.schema import Stage
from segue.runtime.progress import Meter

STRETCH = 0.05  # change of the aspect ratio that is worth a warning


@dataclass(frozen=True)
class Use:
    """One way of reading a dataset.

    Args:
        data: its name.
        labels: whether labels are read.
        size: width and height of what the network sees.
        scored: labels are used at their own size, not resized with the images.
    """

    data: str
    labels: bool
    size: tuple[int, int]
    scored: bool


def uses_of(recipe: Recipe) -> dict[Use, list[str]]:
    """Every way in which the stages read datasets, with who does."""
    uses: dict[Use, list[str]] = {}
    for name, stage in recipe.stages.items():
        for role, use in _uses(recipe, stage):
            uses.setdefault(use, []).append(f"{role} of {name}" if role else name)
    return uses


def _uses(recipe: Recipe, stage: Stage) -> Iterator[tuple[str, Use]]:
    """A stage's ways of reading the recipe's own datasets, by what it reads them for."""
    match stage:
        case EvaluateStage():
            yield "", Use(_origin(recipe, stage.data), True, stage.size, True)
        case TranslateStage():
            yield "images", Use(_origin(recipe, stage.data), False, stage.size, False)
            yield "style", Use(_origin(recipe, stage.towards), False, stage.size, False)
        case PseudoLabelStage():
            yield "images", Use(_origin(recipe, stage.data), False, stage.size, False)
            if stage.measure_on is not None:
                yield "measure", Use(_origin(recipe, stage.measure_on), True, stage.size, False)
        case TrainStage() | CentresStage() | GroupsStage():
            source = stage.source
            yield "source", Use(_origin(recipe, source.data), True, source.size, False)
            if stage.target is not None:
                target = stage.target
                yield "target", Use(_origin(recipe, target.data), False, target.size, False)


def _origin(recipe: Recipe, name: str) -> str:
    """The recipe's own dataset that a name stands for, also where a stage makes another of it."""
    stage = recipe.stages.get(name)
    if isinstance(stage, TranslateStage | PseudoLabelStage):
        return _origin(recipe, stage.data)
    return name


def check_data(
    recipe: Recipe,
    use: Use,
    roles: list[str],
    report: Report,
    sample: int | None,
    console: Console | None,
) -> Inspection | None:
    """Decodes what a dataset holds and reports on it; None where it cannot be opened."""
    where = f"data.{use.data}"
    dataset = _open(recipe, use, where, report)
    if dataset is None:
        return None
    total = len(dataset) if sample is None else min(sample, len(dataset))
    meter = Meter(console, where, total, "img")
    meter.start()
    try:
        inspection = inspect(
            dataset,
            None if use.scored else use.size,
            sample=sample,
            progress=lambda done, _: meter.advance(done),
        )
    finally:
        meter.stop()
    report.problems += [told(where, problem) for problem in inspection.problems]
    rows = [("as", ", ".join(roles)), ("images", _count(inspection, use, dataset))]
    rows += _sizes(inspection, use, where, report)
    rows += depth_of(inspection, dataset.range, where, report)
    if use.labels and dataset.labelled:
        rows += _labels(inspection, dataset, where, report)
        title = f"{use.data} {use.size[0]}x{use.size[1]}"
        report.histograms[use.data if use.data not in report.histograms else title] = inspection
    report.sections.append((where, tuple(rows)))
    return inspection


def check_cache(recipe: Recipe, report: Report) -> None:
    """How much the cache of the recipe's data would grow, and whether there is room for it."""
    if recipe.cache is None:
        return
    folder = Path(recipe.cache)
    try:
        needed, free = room(folder, wanted(recipe, recipe.stages))
    except SegueError as error:
        # Of files that are not as they should be, their datasets have told.
        if error.where == folder:
            report.problems.append(told("data.cache", error))
        return
    rows = (("folder", str(folder)), ("to write", f"{decimal(needed)}, {decimal(free)} free"))
    report.sections.append(("data.cache", rows))


def _open(recipe: Recipe, use: Use, where: str, report: Report) -> Dataset | None:
    """The dataset; without labels where those are the problem, to look at the images at least."""
    try:
        dataset = assembly.dataset(recipe, use.data, labels=use.labels)
        if use.labels and not dataset.labelled:
            error = SegueError(
                "labels are wanted, but there are none", fix="describe where they lie"
            )
            report.problems.append(told(where, error))
    except SegueError as error:
        report.problems.append(told(where, error))
        if not use.labels:
            return None
        try:
            return assembly.dataset(recipe, use.data, labels=False)
        except SegueError:
            return None
    return dataset


def _count(inspection: Inspection, use: Use, dataset: Dataset) -> str:
    labels = "labels not opened"
    if use.labels:
        labels = "each with a label" if dataset.labelled else "labels missing"
    looked = f", {inspection.inspected} looked at" * (inspection.inspected < inspection.total)
    return f"{inspection.total}, {labels}{looked}"


def _sizes(
    inspection: Inspection, use: Use, where: str, report: Report
) -> Iterator[tuple[str, str]]:
    if not inspection.sizes:
        return
    width, height = use.size
    seen = sorted(inspection.sizes.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{w}x{h} ({count})" for (w, h), count in seen[:3])
    more = f" and {len(seen) - 3} other sizes" if len(seen) > 3 else ""
    (w, h), change = max(
        ((size, width * size[1] / (height * size[0]) - 1) for size in inspection.sizes),
        key=lambda item: abs(item[1]),
    )
    yield "sizes", shown + more
    scored = ", labels scored as they are" if use.scored else ""
    yield "resized to", f"{width}x{height}, aspect ratio {100 * change:+.1f} %{scored}"
    if abs(change) > STRETCH:
        report.warnings.append(
            f"{where}: resizing {w}x{h} to {width}x{height} changes the aspect ratio by "
            f"{100 * change:+.0f} %; unless meant so, use size [{width}, {round(width * h / w)}]"
        )


def _labels(
    inspection: Inspection, dataset: Dataset, where: str, report: Report
) -> Iterator[tuple[str, str]]:
    labelled = int(inspection.pixels.sum())
    ignored = share(inspection.ignored, inspection.ignored + labelled)
    among = ", other ids among them" if inspection.unknown else ""
    yield "ignored", f"{ignored:.1f} % of pixels{among}"
    if inspection.unknown:
        ids = ", ".join(f"{raw} ({count} pixels)" for raw, count in inspection.unknown.items())
        yield ("other ids" if dataset.unknown == "ignore" else "unknown ids"), ids
    if not labelled and not inspection.problems:
        error = SegueError("no pixel is of any class", where=where, fix="check `ids`")
        report.problems.append(str(error))
