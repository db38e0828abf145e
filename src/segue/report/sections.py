"""The sections of a report: numbers that the analyses measure, laid out for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from segue.analysis import confusion
from segue.analysis import pseudo_labels as kept
from segue.analysis.entropy import Sureness
from segue.analysis.samples import spread
from segue.datasets import Dataset
from segue.datasets.dataset import resize_label
from segue.inference.evaluation import Evaluation
from segue.label_space import IGNORE
from segue.recipe.recipe import EvaluateStage, PseudoLabelStage
from segue.report.blocks import (
    Bar,
    Bars,
    Block,
    Charts,
    Gallery,
    Grid,
    Lines,
    Matrix,
    Section,
    Source,
    Words,
)
from segue.report.curves import chart
from segue.report.pictures import glow, laid_over, shown_size, smaller
from segue.work_dir import Run, curve, metrics, warnings_of

NONE = "\u2013"
SCENES = 3  # of each round's pseudo-labels
_FIRST = ("loss/segmentation", "target/entropy")
_TITLES = {"loss/segmentation": "cross-entropy on the source", "target/entropy": "target entropy"}


def protocols(runs: Sequence[Run], found: Mapping[str, Evaluation]) -> Section | None:
    """Every protocol's mean, and in a column of its own what a paper reported on its own data."""
    rows: list[tuple[Lines, ...]] = []
    for run in runs:
        if run.name not in found:
            continue
        paper, result = run.recipe.paper, found[run.name]
        for protocol, value in result.miou.items():
            reported = paper.reported.get(protocol) if paper else None
            on = () if paper is None or reported is None else (
                run.recipe.title, f"{paper.title}, {paper.venue}, {paper.where}".strip(", ")
            )  # fmt: skip
            rows.append(
                (
                    (f"{run.name}, protocol {protocol}",),
                    (f"{100 * value:.1f}",),
                    (f"{_scored_on(run)}, {result.images:,} images",),
                    (NONE if reported is None else f"{reported:g}",),
                    on or (NONE,),
                )
            )
    told = any(row[3] != (NONE,) for row in rows)
    if not rows or (len(rows) == len(found) and not told):
        return None
    head = ("run, protocol", "ours, mIoU %", "scored on", "paper, mIoU %", "reported on")
    few = 5 if told else 3
    title = "Paper and ours" if told else "Ours"
    grid = Grid(title, head[:few], tuple(row[:few] for row in rows))
    text = "The paper's numbers are of its own data, hardware and code." if told else ""
    return Section("protocols", "Mean IoU by protocol", text, [grid])


def confusions(runs: Sequence[Run], found: Mapping[str, Evaluation]) -> Section | None:
    """A matrix for each scored run."""
    if not found:
        return None
    space = runs[0].classes
    seen = sum(one.confusion.sum(0) + one.confusion.sum(1) for one in found.values())
    members = [k for k in range(space.num_classes) if np.asarray(seen)[k]]
    classes = tuple((space.classes[k], space.colours[k]) for k in members)
    blocks = [
        Matrix(name, classes, confusion.shares(one.confusion)[np.ix_(members, members)])
        for name, one in found.items()
    ]
    text = (
        "Labels down, predictions across, in per cent of the label's pixels; colours are in log "
        "scale. Classes that are neither labelled nor predicted are left out."
    )
    return Section("confusion", "Confusion", text, blocks, abreast=len(blocks) > 1)


def sureness(
    found: Sequence[Sureness], dataset: Dataset, data: str, seen: Sequence[Run]
) -> Section:
    """Where each model is unsure, and the mean for each class that it predicts."""
    space = seen[0].classes
    size = seen[0].models().models[0].size
    few = len(found[0].maps)
    measured = spread(len(dataset), COUNTED)
    chosen = [measured[place] for place in spread(len(measured), few)]
    rows = []
    for place, index in enumerate(chosen):
        image = dataset.image(index, size)
        shown = shown_size(image)
        pictures = [Source.of("image", smaller(image, shown))]
        for one in found:
            caption = f"{one.run}, mean {float(one.maps[place].mean()):.2f}"
            pictures.append(Source.of(caption, smaller(glow(one.maps[place]), shown)))
        rows.append((dataset.items[index].image.stem, tuple(pictures)))
    lines = [(("all",), *((f"{one.overall:.3f}",) for one in found))]
    for member, name in enumerate(space.classes):
        values = [one.of(member) for one in found]
        if any(value is not None for value in values):
            cells = ((NONE if value is None else f"{value:.3f}",) for value in values)
            lines.append(((name,), *cells))
    head = ("pixels predicted as", *(one.run for one in found))
    text = (
        "Entropy of the predicted probabilities, from 0 (dark: sure) to 1 (bright: a guess among "
        f"all classes). Means are of {len(measured)} images of {data}, evenly spread; no label is "
        "needed."
    )
    blocks: list[Block] = [Gallery("", tuple(rows)), Grid("Mean entropy", head, tuple(lines))]
    return Section("entropy", "Entropy", text, blocks)


def pseudo_labels(runs: Sequence[Run], *, pictures: bool) -> Section | None:
    """What each round kept of each class, and some of its labels over their images."""
    blocks: list[Block] = []
    for run in runs:
        names = [n for n, s in run.recipe.stages.items() if isinstance(s, PseudoLabelStage)]
        if not names:
            continue
        if pictures:
            blocks.append(Gallery(f"{run.name}, pseudo-labels", _labelled(run, names)))
        blocks.append(_kept(run))
    if not blocks:
        return None
    text = (
        "The labels that each round wrote, laid over their images; what it left unlabelled is "
        "dark grey. Images are evenly spread and the same in every round. Bars are of the pixels "
        "predicted as a class, the share that is kept; where that was measured on other labelled "
        "images, the share of the kept that is right is drawn in full."
    )
    return Section("pseudo-labels", "Pseudo-labels", text, blocks)


def _labelled(run: Run, names: Sequence[str]) -> tuple[tuple[str, tuple[Source, ...]], ...]:
    datasets = {name: run.dataset(name, labels=True) for name in names}
    first = next(iter(datasets.values()))
    rows = []
    for index in spread(len(first), SCENES):
        whole = first.image(index)
        pictures = [Source.of("image", smaller(whole, shown_size(whole)))]
        for name, dataset in datasets.items():
            image, label = dataset.image(index), dataset.label(index)
            size = shown_size(label)
            label = resize_label(label, size)
            share = 100 * float((label != IGNORE).mean())
            drawn = laid_over(smaller(image, size), label, run.classes)
            pictures.append(Source.of(f"{name}, {share:.0f} % kept", drawn))
        rows.append((first.items[index].image.stem, tuple(pictures)))
    return tuple(rows)


def _kept(run: Run) -> Bars:
    rounds, space = kept.measure(run), run.classes
    head = tuple(f"round {one.number}, {one.rule.replace('_', ' ')}, % kept" for one in rounds)
    every = tuple(Bar(one.share, one.precision) for one in rounds)
    rows = [
        (
            name,
            colour,
            tuple(
                Bar(one.share_by_class[name], one.precision_by_class.get(name)) for one in rounds
            ),
        )
        for name, colour in zip(space.classes, space.colours, strict=True)
        if any(one.share_by_class[name] is not None for one in rounds)
    ]
    return Bars(f"{run.name}, share kept", head, (("all", None, every), *rows))


def curves(runs: Sequence[Run]) -> Section | None:
    """What was measured over the iterations, all runs on the same axes."""
    names = {name for run in runs for name in metrics(run.work_dir)}
    losses = sorted(name for name in names if name.startswith("loss/"))
    ordered = [*(name for name in _FIRST if name in names), *(set(losses) - set(_FIRST))]
    ordered.sort(key=lambda name: (name not in _FIRST, name))
    charts = []
    for name in ordered:
        title = _TITLES.get(name) or name.removeprefix("loss/").replace("_", " ")
        drawn = chart(
            {run.name: curve(run.work_dir, name) for run in runs}, axes=("iteration", title)
        )
        if drawn is not None:
            charts.append((title, drawn))
    if not charts:
        return None
    text = "Each loss before its weight; iterations of all stages, one after the other."
    return Section("curves", "Learning curves", text, [Charts(tuple(charts))])


def warned(runs: Sequence[Run]) -> Section:
    """What training warned of."""
    blocks = [
        Words(run.name if len(runs) > 1 else "", tuple(told))
        for run in runs
        if (told := warnings_of(run.work_dir))
    ]
    text = "" if blocks else "Training warned of nothing."
    return Section("warnings", "Warnings", text, blocks)


COUNTED = 50  # images whose entropy is measured


def _scored_on(run: Run) -> str:
    stages = run.recipe.stages.values()
    return next(stage.data for stage in reversed(stages) if isinstance(stage, EvaluateStage))
