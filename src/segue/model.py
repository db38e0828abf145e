"""A trained model on disk and in use: weights with all that is needed to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from segue.datasets.reading import read_image
from segue.distributed import CPU
from segue.errors import SegueError
from segue.label_space import LabelSpace
from segue.labelling import Vote, labels, labels_and_confidence
from segue.models import MODELS, Segmenter
from segue.models.normalisation import Normalisation
from segue.models.sealed import read_sealed, write_sealed
from segue.notebook import Prediction, model_html
from segue.tables import build

FORMAT = 1
FILE = "model.safetensors"
CONFIG = "config.json"  # of a folder of `segue export`


@dataclass
class Model:
    """A segmenter with its label space and the size at which it looks at images.

    Args:
        segmenter: the network.
        label_space: the classes of its outputs.
        size: width and height to which images are resized; predictions come at the image's own.
        settings: kind and arguments from which the network is built again, without weights.
        heads: how much each head's probabilities count.
        device: where it runs.
    """

    segmenter: Segmenter
    label_space: LabelSpace
    size: tuple[int, int]
    settings: dict[str, Any]
    heads: Mapping[str, float]
    device: torch.device = CPU

    def logits_of(self, image: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Logits [1, C, h, w] by head for an RGB image [H, W, 3], at the network's stride.

        Raises:
            SegueError: the network has no such head.
        """
        resized = Image.fromarray(image)
        if resized.size != self.size:
            # Rows first, whatever a version of Pillow finds faster: the bits are the same then,
            # also those of exported graphs.
            rows = (self.size[0], resized.height)
            resized = resized.resize(rows, Image.Resampling.BICUBIC)
            resized = resized.resize(self.size, Image.Resampling.BICUBIC)
        tensor = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]
        self.segmenter.eval()
        with torch.inference_mode():
            output = self.segmenter(tensor.to(self.device).float() / 255)
        absent = [name for name in self.heads if name not in output.logits]
        if absent:
            fix = f"the network has: {', '.join(output.logits)}"
            raise SegueError(f"no head is called {absent[0]!r}", where="heads", fix=fix)
        return {name: output.logits[name].float() for name in self.heads}

    def votes(self, logits: Mapping[str, Tensor]) -> list[Vote]:
        """What each head says of an image, from what `logits_of` gave."""
        total, aligned = sum(self.heads.values()), self.segmenter.align_corners
        return [
            Vote(values[0], aligned, self.heads[name] / total) for name, values in logits.items()
        ]

    def probabilities(
        self, image: NDArray[np.uint8], size: tuple[int, int] | None = None
    ) -> Tensor:
        """Probabilities [C, H, W] at the image's size, or at `size` (height, width)."""
        size = size or (image.shape[0], image.shape[1])
        return self.probabilities_from(self.logits_of(image), size).cpu()

    def probabilities_from(self, logits: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Probabilities [C, H, W] at `size` (height, width) from what `logits_of` gave."""
        total, summed = sum(self.heads.values()), torch.zeros(())
        for name, values in logits.items():
            share = self.heads[name] / total
            summed = summed + share * self.segmenter.upsample(values, size)[0].softmax(0)
        return summed

    def predict(self, image: str | Path | Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Train ids [H, W] for an image file, a PIL image or an RGB array [H, W, 3].

        Raises:
            SegueError: the file is no image.
        """
        array = as_array(image)
        return labels(self.votes(self.logits_of(array)), array.shape[:2]).cpu().numpy()

    def save(self, path: Path) -> None:
        """Writes weights and description as one safetensors file."""
        space, norm = self.label_space, self.segmenter.normalisation
        description = {
            "format": FORMAT,
            "network": self.settings,
            "normalisation": [norm.name, norm.mean, norm.std, norm.scale, norm.bgr],
            "label_space": [space.name, space.classes, space.colours, dict(space.protocols)],
            "size": self.size,
            "heads": dict(self.heads),
        }
        write_sealed(path, self.segmenter.state_dict(), description)


class Ensemble:
    """Several models as one: the mean of their probabilities (ADVENT's A+E, FDA's three bands).

    Args:
        models: of one label space.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        spaces = {model.label_space.classes for model in models}
        if len(spaces) != 1:
            raise SegueError("models of different label spaces cannot be averaged")
        self.models = list(models)

    @property
    def label_space(self) -> LabelSpace:
        """The classes of its outputs."""
        return self.models[0].label_space

    def logits_of(self, image: NDArray[np.uint8]) -> list[dict[str, Tensor]]:
        """Each model's logits [1, C, h, w] by head for an RGB image [H, W, 3]."""
        return [model.logits_of(image) for model in self.models]

    def predict(self, image: str | Path | Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Train ids [H, W] of the mean probabilities.

        Raises:
            SegueError: the file is no image.
        """
        array = as_array(image)
        if len(self.models) == 1:
            return self.models[0].predict(array)
        return labels(self.votes(self.logits_of(array)), array.shape[:2]).cpu().numpy()

    def predict_with_confidence(
        self, image: str | Path | Image.Image | NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Train ids [H, W] as `predict` gives them, and their mean probabilities.

        Raises:
            SegueError: the file is no image.
        """
        array = as_array(image)
        votes = self.votes(self.logits_of(array))
        label, confidence = labels_and_confidence(votes, array.shape[:2])
        return label.cpu().numpy(), confidence.cpu().numpy()

    def show(self, image: str | Path | Image.Image | NDArray[np.uint8]) -> Prediction:
        """The labels that `predict` gives with image and confidence; notebooks draw them.

        Raises:
            SegueError: the file is no image.
        """
        array = as_array(image)
        return Prediction(array, *self.predict_with_confidence(array), self.label_space)

    def _repr_html_(self) -> str:
        return model_html(self.models)

    def votes(self, logits: Sequence[Mapping[str, Tensor]]) -> list[Vote]:
        """What each head of each model says of an image, from what `logits_of` gave."""
        votes = (
            vote
            for model, values in zip(self.models, logits, strict=True)
            for vote in model.votes(values)
        )
        return [replace(vote, share=vote.share / len(self.models)) for vote in votes]


def as_array(image: str | Path | Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An RGB array [H, W, 3] of an image in any of its forms."""
    if isinstance(image, str | Path):
        image = read_image(Path(image))
    return np.array(image.convert("RGB")) if isinstance(image, Image.Image) else image


def load(path: str | Path, device: str | torch.device = "cpu") -> Ensemble:
    """The model of a work_dir, one of its train stages, an export, or a model.safetensors.

    Args:
        path: of a work_dir, what its last evaluate stage scores, or else its last train stage.
        device: where it is to run.

    Raises:
        SegueError: nothing is there yet, or the file is damaged.
    """
    return Ensemble([read(file, device) for file in files(Path(path))])


def files(path: Path) -> list[Path]:
    """The model files that `load` reads for a path.

    Raises:
        SegueError: nothing is there yet.
    """
    if path.is_file():
        return [path]
    if (path / FILE).is_file():
        return [path / FILE]
    if (path / CONFIG).is_file():
        return _exported(path)
    if not (path / "recipe.yaml").is_file():
        raise SegueError("holds no trained model", where=path, fix="give a work_dir of `segue run`")
    from segue.recipe import EvaluateStage, TrainStage
    from segue.recipe import load as load_recipe

    stages = load_recipe(path / "recipe.yaml").stages
    names = [name for name, stage in stages.items() if isinstance(stage, TrainStage)][-1:]
    for stage in stages.values():
        if isinstance(stage, EvaluateStage):
            names = stage.models
    absent = [name for name in names if not (path / name / FILE).is_file()]
    if absent:
        fix = "finish it: run the same command again"
        raise SegueError(f"stage {absent[0]} is not finished", where=path, fix=fix)
    return [path / name / FILE for name in names]


def _exported(folder: Path) -> list[Path]:
    try:
        told = json.loads((folder / CONFIG).read_text())
        # Names alone: a folder from elsewhere must not lead out of itself.
        found = [folder / Path(model["file"]).name for model in told["models"]]
    except (ValueError, LookupError, TypeError) as error:
        fix = "give a folder of `segue export`"
        raise SegueError("describes no model of Segue", where=folder / CONFIG, fix=fix) from error
    absent = [path for path in found if not path.is_file()]
    if absent or not found:
        raise SegueError("holds no trained model", where=folder, fix="export it again")
    return found


def read(path: Path, device: str | torch.device = "cpu") -> Model:
    """A model from its file.

    Raises:
        SegueError: the file is damaged, no model of Segue, or of a newer format.
    """
    try:
        tensors, description = read_sealed(path)
    except (OSError, SafetensorError) as error:
        raise SegueError(f"cannot be read: {error}", where=path, fix="train it again") from error
    if description is None or "network" not in description:
        raise SegueError("holds weights but no description", where=path, fix="use it as `weights`")
    if description["format"] != FORMAT:
        raise SegueError("is of a newer format", where=path, fix="upgrade Segue")
    try:
        model = _built(tensors, description, path)
    # A description from elsewhere may lack anything, and torch raises RuntimeError for what it has.
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        told = "its description does not fit its weights"
        raise SegueError(told, where=path, fix="train it again") from error
    model.segmenter.to(device).eval()
    return replace(model, device=torch.device(device))


def _built(tensors: Mapping[str, Tensor], description: Mapping[str, Any], path: Path) -> Model:
    name, classes, colours, protocols = description["label_space"]
    space = LabelSpace(
        name,
        tuple(classes),
        tuple((r, g, b) for r, g, b in colours),
        {key: tuple(ids) for key, ids in protocols.items()},
    )
    # A model file brings its weights and must not name others.
    settings = {key: one for key, one in description["network"].items() if key != "weights"}
    segmenter = build(MODELS, settings, where=str(path), what="model", num_classes=len(classes))
    label, mean, std, scale, bgr = description["normalisation"]
    segmenter.normalisation = Normalisation(label, tuple(mean), tuple(std), scale, bgr)
    segmenter.load_state_dict(tensors)
    size = (int(description["size"][0]), int(description["size"][1]))
    return Model(segmenter, space, size, description["network"], description["heads"])
