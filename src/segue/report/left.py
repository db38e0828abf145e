"""What a run has left to read: its curves, its warnings, how long it took."""

from __future__ import annotations

from pathlib import Path

from segue.recipe import Recipe, TrainStage
from segue.report.curves import Point
from segue.running import SECONDS, read_json
from segue.showing import recipe_of
from segue.tracking import METRICS, TIMING, WARNINGS, read_rows


def trained(recipe: Recipe) -> dict[str, int]:
    """Iterations of each stage that trains a segmenter."""
    stages = {n: s for n, s in recipe.stages.items() if isinstance(s, TrainStage)}
    return {name: stage.iterations for name, stage in stages.items() if trains_segmenter(stage)}


def trains_segmenter(stage: TrainStage) -> bool:
    """Whether a stage trains a segmenter, and not what translates images alone."""
    segmenter = stage.networks.get("segmenter")
    return segmenter is not None and segmenter.optimiser is not None


def curve(work_dir: Path, metric: str) -> list[Point]:
    """A metric over the iterations of all stages that train a segmenter, one after the other."""
    points: list[Point] = []
    before = 0
    for name, length in trained(recipe_of(work_dir)).items():
        points += [
            (before + row["iteration"], row[metric])
            for row in _rows(work_dir / name / METRICS)
            if metric in row
        ]
        before += length
    return points


def metrics(work_dir: Path) -> list[str]:
    """The names of all that was measured while a segmenter was trained, sorted."""
    stages = trained(recipe_of(work_dir))
    return sorted({key for name in stages for row in _rows(work_dir / name / METRICS)
                   for key in row})  # fmt: skip


def warnings_of(work_dir: Path) -> list[str]:
    """What training warned of, stage by stage."""
    return [
        f"{name}, iteration {row['iteration']}: {row['warning']}"
        for name in trained(recipe_of(work_dir))
        for row in _rows(work_dir / name / WARNINGS)
    ]


def minutes_of(work_dir: Path) -> float:
    """How long training took, from the rates that it left."""
    seconds = 0.0
    for name in trained(recipe_of(work_dir)):
        before = 0.0
        for row in _rows(work_dir / name / TIMING):
            seconds += (row["iteration"] - before) / row["iterations_per_second"]
            before = row["iteration"]
    return seconds / 60


def cost_of(work_dir: Path, stage: str) -> dict[str, float]:
    """Seconds that a stage took when last begun, and `peak_bytes` of memory where it was noted."""
    told = read_json(work_dir / stage / SECONDS, fix="delete it: the page then says less of cost")
    return {key: told[key] for key in ("seconds", "peak_bytes") if key in told}


def _rows(path: Path) -> list[dict[str, float]]:
    return read_rows(path) if path.is_file() else []
