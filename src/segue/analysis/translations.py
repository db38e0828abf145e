"""What do source images look like in the style of the target, by each translation?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from segue.analysis.samples import Image, spread
from segue.errors import SegueError
from segue.figures.figure import STYLE, WIDTH, leave, tell
from segue.figures.tiles import height_of, tile
from segue.parts import split_kind
from segue.recipe.recipe import TranslateStage
from segue.stages.translate import plan
from segue.translation import Translation
from segue.translation.fourier import Fourier
from segue.translation.lab import VALUES, to_lab
from segue.translation.photometric import Photometric
from segue.work_dir import Run, runs_of

NAME = "translations"


@dataclass(frozen=True)
class Strip:
    """A source image, the target image that gives the style, and what was made of both.

    Args:
        name: of the source image's file.
        pictures: [H, W, 3] by heading: `source`, `target`, then the translations.
    """

    name: str
    pictures: dict[str, Image]

    def colour(self, heading: str) -> list[float]:
        """Mean L, a and b of a picture."""
        image = self.pictures[heading].transpose(2, 0, 1)
        lab = to_lab(np.ascontiguousarray(image / np.float32(255), np.float32))
        return [float(value) for value in VALUES[lab].mean((1, 2), np.float64)]

    def apart(self, heading: str, other: str) -> float:
        """Distance of two pictures' mean colours in Lab."""
        pair = (np.array(self.colour(one)) for one in (heading, other))
        return float(np.linalg.norm(np.subtract(*pair)))

    def changed(self, heading: str) -> float:
        """Mean absolute difference from the source image, of 255."""
        source, other = (self.pictures[one].astype(float) for one in ("source", heading))
        return float(np.abs(source - other).mean())


def measure(run: Run, *, source: str, target: str, count: int) -> list[Strip]:
    """Some source images by photometry, by Fourier and as the run's own stages translated them.

    A source image goes with the target image that the run's first translate stage gave it.

    Raises:
        SegueError: no such dataset, or the run's translations are not there.
    """
    stages = {
        name: stage
        for name, stage in run.recipe.stages.items()
        if isinstance(stage, TranslateStage) and stage.data == source
    }
    images, styles = run.dataset(source), run.dataset(target)
    size = next((stage.size for stage in stages.values()), _size(run))
    own = {_heading(name, stage): run.dataset(name) for name, stage in stages.items()}
    folder = run.work_dir / next(iter(stages), "translate")
    jobs = plan(images, styles, folder, seed=run.recipe.seed)
    by: dict[str, Translation] = {"photometric": Photometric(), "Fourier": Fourier()}
    strips = []
    for index in spread(len(images), count):
        image, style = images.image(index, size), styles.image(jobs[index].reference, size)
        pictures = {"source": image, "target": style}
        pictures |= {name: _translated(made, image, style) for name, made in by.items()}
        pictures |= {name: made.image(index, size) for name, made in own.items()}
        strips.append(Strip(images.items[index].image.name, pictures))
    return strips


def _size(run: Run) -> tuple[int, int]:
    trained = list(run.trainings().values())
    if not trained:
        fix = "give the work_dir of a run that trains"
        raise SegueError("has no train stage", where=run.work_dir, fix=fix)
    return trained[-1].source.size


def _heading(name: str, stage: TranslateStage) -> str:
    kind, _ = split_kind(stage.by, where=f"stages.{name}.by")
    return "CycleGAN" if kind == "generator" else f"{name} ({kind})"


def _translated(by: Callable[[Tensor, Tensor], Tensor], image: Image, style: Image) -> Image:
    pair = (torch.from_numpy(one).permute(2, 0, 1)[None].float() / 255 for one in (image, style))
    with torch.no_grad():
        result = by(*pair)[0].mul(255).round().clamp(0, 255).byte()
    made: Image = result.permute(1, 2, 0).numpy()
    return made


def draw(strips: Sequence[Strip]) -> Figure:
    """A column for each source image, a row for each picture of it."""
    with mpl.rc_context(STYLE):
        names = list(strips[0].pictures)
        width = WIDTH - 0.4
        height = height_of(strips[0].pictures["source"], len(strips), width)
        size = (WIDTH, 0.1 + len(names) * (height + 0.06))
        figure = Figure(figsize=size, layout="constrained")
        tile(figure, [[strip.pictures[name] for strip in strips] for name in names], rows=names)
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.set(w_pad=0.03, h_pad=0.02, hspace=0, wspace=0)  # type: ignore[call-arg]
    return figure


def run(
    work_dir: Path, output: Path, *, source: str, target: str, count: int, console: Console
) -> list[Strip]:
    """Draws strips of a run's source images, and measures how near their colours come.

    Coarse-to-fine (CVPR 2021), figure 5. No label is opened.

    Raises:
        SegueError: as `measure` does.
    """
    strips = measure(runs_of([work_dir])[0], source=source, target=target, count=count)
    rows: list[dict[str, object]] = []
    for strip in strips:
        for heading in strip.pictures:
            lightness, a, b = strip.colour(heading)
            rows.append(
                {
                    "image": strip.name, "picture": heading, "mean_l": lightness, "mean_a": a,
                    "mean_b": b, "colour_to_target": strip.apart(heading, "target"),
                    "change_of_255": None if heading == "target" else strip.changed(heading),
                }
            )  # fmt: skip
    tell(leave(output, NAME, draw(strips), rows), console)
    return strips
