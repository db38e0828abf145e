"""What is written of a prediction: one writer for each kind of file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.errors import SegueError
from segue.inference.prediction import OVERLAY
from segue.label_space import CITYSCAPES, CITYSCAPES_IDS, LabelSpace, of_cityscapes
from segue.parts import suggestion

_SCENE = re.compile(r"([^_]+_\d+_\d+)(_.*)?")
_RAW_IDS = {train: raw for raw, train in CITYSCAPES_IDS.items()}
_TRAIN_IDS = {train: train for train in _RAW_IDS}


@dataclass(frozen=True, eq=False)
class Predicted:
    """An image with what was predicted of it.

    Args:
        image: RGB uint8 [H, W, 3].
        labels: train ids, uint8 [H, W].
        confidence: the mean probability of each pixel's label, float32 [H, W]; None where nobody
            asked for it.
        label_space: the classes.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None
    label_space: LabelSpace

    @property
    def overlay(self) -> NDArray[np.uint8]:
        """The classes' colours laid over the image, RGB uint8 [H, W, 3]."""
        colours = self.label_space.colour(self.labels)
        mixed = cv2.addWeighted(self.image, 1 - OVERLAY, colours, OVERLAY, 0)
        return np.asarray(mixed, np.uint8)


@dataclass(frozen=True)
class Writer:
    """One kind of file.

    Args:
        place: where it lies below the output, from the image's place there without ending and the
            name of its file without ending.
        picture: what is in it.
        confident: whether that needs probabilities.
        submission: whether a benchmark reads it, which has rules for names and classes.
    """

    place: Callable[[Path, str], Path]
    picture: Callable[[Predicted], Image.Image]
    confident: bool = False
    submission: bool = False


def beside(kind: str) -> Callable[[Path, str], Path]:
    """Names a file `<name>_<kind>.png`.

    Example:
        >>> beside("label")(Path("day/a"), "a").as_posix()
        'day/a_label.png'
    """
    return lambda name, _: name.with_name(f"{name.name}_{kind}.png")


def cityscapes_place(name: Path, stem: str) -> Path:
    """Where the prediction of an image of Cityscapes lies in a submission.

    The benchmark's own script (cityscapesScripts, evalPixelLevelSemanticLabeling.getPrediction)
    searches a folder through and through for the one `<city>_<sequence>_<frame>*.png`.

    Raises:
        SegueError: the image is not called as those of Cityscapes are.

    Example:
        >>> cityscapes_place(Path(), "berlin_000001_000019_leftImg8bit").as_posix()
        'cityscapes/berlin_000001_000019_pred_labelIds.png'
    """
    scene = _SCENE.fullmatch(stem)
    if scene is None:
        fix = "its images are called as berlin_000000_000019_leftImg8bit.png"
        raise SegueError("is no name of a Cityscapes image", where=name, fix=fix)
    return Path("cityscapes", f"{scene[1]}_pred_labelIds.png")


def of_the_19(one: Predicted, values: Mapping[int, int]) -> Image.Image:
    """What benchmarks read: a value for each of Cityscapes' 19 train ids, also of fewer classes."""
    table = np.full(256, 255, np.uint8)
    for place, name in enumerate(one.label_space.classes):
        table[place] = values[CITYSCAPES.train_id(name)]
    return Image.fromarray(table[one.labels])


def acdc_place(name: Path, stem: str) -> Path:
    """Where the prediction of an image of ACDC lies in a submission.

    Files of train ids in one folder, called as the image: what the published command of HRDA
    (Hoyer et al., ECCV 2022) writes for ACDC's server, `imgfile_prefix=labelTrainIds
    to_label_id=False`.

    Raises:
        SegueError: the image is not called as those of ACDC are.

    Example:
        >>> acdc_place(Path(), "GOPR0475_frame_000247_rgb_anon").as_posix()
        'acdc/labelTrainIds/GOPR0475_frame_000247_rgb_anon.png'
    """
    if not stem.endswith("_rgb_anon"):
        fix = "its images are called as GOPR0475_frame_000247_rgb_anon.png"
        raise SegueError("is no name of an ACDC image", where=name, fix=fix)
    return Path("acdc", "labelTrainIds", f"{stem}.png")


def grey(confidence: NDArray[np.float32] | None) -> Image.Image:
    """Probabilities as 8 bits: 255 times the value, rounded."""
    assert confidence is not None, "its writer says that it needs them"
    return Image.fromarray((confidence * 255).round().astype(np.uint8))


# The order of the files of one image.
WRITERS = {
    "label": Writer(beside("label"), lambda one: Image.fromarray(one.labels)),
    "colour": Writer(beside("colour"), lambda one: one.label_space.palette_png(one.labels)),
    "overlay": Writer(beside("overlay"), lambda one: Image.fromarray(one.overlay)),
    "confidence": Writer(beside("confidence"), lambda one: grey(one.confidence), confident=True),
    "cityscapes": Writer(cityscapes_place, lambda one: of_the_19(one, _RAW_IDS), submission=True),
    "acdc": Writer(acdc_place, lambda one: of_the_19(one, _TRAIN_IDS), submission=True),
}
DEFAULT = ("label", "colour")
SUBMISSIONS = tuple(name for name, writer in WRITERS.items() if writer.submission)


def kinds(
    *, overlay: bool = False, confidence: bool = False, submission: str | None = None
) -> list[str]:
    """Names of writers: label and colour, or a submission in their place, and what is asked for.

    Raises:
        SegueError: there is no such submission.

    Example:
        >>> kinds(overlay=True), kinds(submission="acdc", confidence=True)
        (['label', 'colour', 'overlay'], ['confidence', 'acdc'])
    """
    if submission is not None and submission not in SUBMISSIONS:
        fix = suggestion(submission, SUBMISSIONS)
        raise SegueError(f"no submission is called {submission!r}", where="submission", fix=fix)
    extra = [name for name, asked in (("overlay", overlay), ("confidence", confidence)) if asked]
    return [*extra, submission] if submission is not None else [*DEFAULT, *extra]


def refuse_unfit(names: Sequence[str], space: LabelSpace) -> None:
    """Refuses writers that there are not, and submissions of other classes than the benchmark's.

    Raises:
        SegueError: it does.
    """
    for name in names:
        if name not in WRITERS:
            fix = suggestion(name, WRITERS)
            raise SegueError(f"nothing called {name!r} is written", where="write", fix=fix)
        if WRITERS[name].submission and not of_cityscapes(space):
            raise SegueError(
                f"{name} scores the {CITYSCAPES.num_classes} classes of Cityscapes, "
                f"and the model has {space.num_classes} of its own ({space.name})",
                where="submission",
                fix="predict with a model that was trained for those",
            )
