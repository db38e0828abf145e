"""`segue report`: one page on one run, or on several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from segue import work_dir
from segue.analysis import confusion
from segue.analysis.entropy import Sureness, measure
from segue.errors import SegueError
from segue.inference.evaluation import Evaluation
from segue.label_space import LabelSpace
from segue.recipe.recipe import EvaluateStage, PseudoLabelStage
from segue.report import facts, sections
from segue.report.blocks import Colour, Section
from segue.report.iou_table import compare
from segue.report.page import Headline, Panel, write_page
from segue.report.panels import Scenes, chosen_panels
from segue.runtime.progress import Meter
from segue.work_dir import Run, runs_of, trained

MAPS = 4  # images whose entropy is drawn


@dataclass(frozen=True)
class Shown:
    """What pictures are asked for.

    Args:
        panels: how many; none leaves out all that needs images.
        rule: how they are chosen, one of `segue.report.panels.RULES`.
        seed: of the rule `random`.
        before: a model to compare with, as a work_dir, one of its stages, or a file.
    """

    panels: int = 20
    rule: str = "random"
    seed: int = 0
    before: Path | None = None


def report(
    work_dirs: Sequence[Path], output: Path, shown: Shown, *, console: Console | None = None
) -> None:
    """Writes the page.

    Images are those that the first run is scored on, else those of its target. Labels are opened
    only where a run is scored, and never choose unless the rule is `worst`.

    Args:
        work_dirs: finished runs of one label space; the first is what others are compared with.
        output: the file to write.
        shown: what pictures it holds.
        console: where progress is shown.

    Raises:
        SegueError: a folder holds no finished run, runs know different classes, an option does not
            fit, or the page cannot be written.
    """
    runs = runs_of(work_dirs)
    found = scores(runs)
    table = None
    if found:
        papers = {run.name: run.recipe.paper for run in runs}
        table = compare({name: [one] for name, one in found.items()}, papers)
    scenes = scenes_of(runs, shown.before) if shown.panels else None
    panels: list[Panel] = []
    rule, unsure = "", []
    if scenes is not None:
        panels, rule = chosen_panels(
            scenes, rule=shown.rule, count=shown.panels, seed=shown.seed, console=console
        )
        unsure = sureness(scenes, console)
    parts = [
        sections.protocols(runs, found),
        sections.confusions(runs, found),
        sections.sureness(unsure, scenes.dataset, scenes.data, scenes.seen) if scenes else None,
        sections.pseudo_labels(runs, pictures=scenes is not None),
        sections.curves(runs),
        sections.warned(runs),
        Section("run", "What was run", "", [facts.table(runs)]),
    ]
    write_page(
        output,
        title=_title(runs),
        lead=_lead(runs, found),
        table=table,
        panels=panels,
        rule=rule,
        wiped=wiped(scenes, panels),
        headlines=[Headline(one.run, f"{one.overall:.3f}") for one in unsure],
        measure="mean entropy of predictions: 0 is sure, 1 a guess among all classes",
        legend=_legend(runs[0].classes, found, unsure),
        facts={},
        sections=[part for part in parts if part is not None],
    )


def scores(runs: Sequence[Run]) -> dict[str, Evaluation]:
    """What each scored run reached, by the protocols of the first of them.

    Raises:
        SegueError: a run's evaluate stage is not finished.
    """
    scored = [
        run
        for run in runs
        if any(isinstance(stage, EvaluateStage) for stage in run.recipe.stages.values())
    ]
    found = {run.name: confusion.measure(run) for run in scored}
    first = next(iter(found.values()), None)
    if first is None:
        return {}
    return {name: replace(one, protocols=first.protocols) for name, one in found.items()}


def scenes_of(runs: Sequence[Run], before: Path | None) -> Scenes:
    """Images, labels where a run is scored on them, and the models to show.

    What is before is a model that is asked for, else the first of several runs, else what a lone
    run's first stage left that trained a segmenter; with one such stage nothing is.
    """
    first = runs[0]
    data, stages = first.looked_at, first.recipe.stages
    labelled = any(isinstance(one, EvaluateStage) and one.data == data for one in stages.values())
    # What a stage labelled is looked at without these labels, by its own name.
    while isinstance(stage := stages.get(data), PseudoLabelStage):
        data = stage.data
    dataset = first.dataset(data, labels=labelled)
    seen = _seen(runs, before)
    protocol = first.recipe.shown_protocols()[0]
    return Scenes(data, dataset, seen, before=len(seen) > 1, protocol=protocol)


def _seen(runs: Sequence[Run], before: Path | None) -> list[Run]:
    if before is not None:
        if not before.exists():
            raise SegueError("is not there", where=before, fix="give --before a work_dir")
        same = [run for run in runs if run.work_dir.resolve() == before.resolve()]
        others = [run for run in runs if run not in same]
        named = same or [Run(_name_of(before, runs), before, runs[0].recipe)]
        return [*named, *others]
    if len(runs) > 1:
        return list(runs)
    (run,) = runs
    earliest = next(iter(trained(run.recipe)), None)
    last = [path.parent.name for path in work_dir.files(run.work_dir)]
    if earliest is None or last == [earliest]:
        return [run]
    stage = Run(f"after {earliest}", run.work_dir / earliest, run.recipe)
    return [stage, replace(run, name=f"after {', '.join(last)}")]


def _name_of(path: Path, runs: Sequence[Run]) -> str:
    """What the page calls a model that is none of the runs."""
    told = "/".join(path.resolve().parts[-2:])
    return f"before: {told}" if told in {run.name for run in runs} else told


def sureness(scenes: Scenes, console: Console | None) -> list[Sureness]:
    """The entropy of each model's predictions on images spread over all."""
    found = []
    for run in scenes.seen:
        count = min(sections.COUNTED, len(scenes.dataset))
        meter = Meter(console, f"entropy, {run.name}", count, "img")
        meter.start()
        wanted = sections.COUNTED
        found.append(measure(run, scenes.dataset, count=wanted, shown=MAPS, meter=meter))
        meter.stop()
    return found


def wiped(scenes: Scenes | None, panels: Sequence[Panel]) -> tuple[int, int]:
    """Places of the pictures between which sliders begin: before and after, or image and after."""
    if scenes is None or not panels:
        return -2, -1
    return (-len(scenes.seen), -1) if scenes.before else (0, -1)


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].recipe.title or runs[0].recipe.name
    return " · ".join(run.name for run in runs)


def _lead(runs: Sequence[Run], found: Mapping[str, Evaluation]) -> str:
    told = [f"{run.recipe.name}, seed {run.recipe.seed}" for run in runs]
    if len(runs) > 1:
        told = [f"{run.name}: {run.recipe.title or run.recipe.name}" for run in runs]
    sentences = [f"{'; '.join(told)}."]
    if found:
        images = {one.images for one in found.values()}
        many = f"{images.pop():,} labelled images" if len(images) == 1 else "labelled images"
        data = " and ".join(dict.fromkeys(run.looked_at for run in runs if run.name in found))
        sentences.append(f"Scored on {many} of {data}.")
    else:
        sentences.append(
            "No label of the target is known here, so nothing says how right predictions are: "
            "pictures and entropy tell what they are and how they changed."
        )
    return " ".join(sentences)


def _legend(
    space: LabelSpace, found: Mapping[str, Evaluation], unsure: Sequence[Sureness]
) -> list[tuple[str, Colour]]:
    """The classes that occur in labels or predictions; all where neither was looked at."""
    counts = [one.confusion.sum(0) + one.confusion.sum(1) for one in found.values()]
    seen = sum([*counts, *(one.pixels for one in unsure)], np.zeros(space.num_classes, np.int64))
    pairs = zip(space.classes, space.colours, strict=True)
    return [pair for pair, pixels in zip(pairs, seen, strict=True) if pixels or not seen.any()]
