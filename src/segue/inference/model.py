"""A trained model on disk and in use: weights with all that is needed to use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from segue.datasets.depth import KEY, Range
from segue.errors import SegueError
from segue.inference.inputs import Picture, as_array
from segue.inference.labels import Vote, labels, labels_and_confidence, probability_bands
from segue.inference.prediction import Prediction, model_html, model_line
from segue.inference.sliding_window import averaged, labels_of_bands, window_bands
from segue.label_space import LabelSpace
from segue.models import MODELS, Segmenter
from segue.models.normalisation import Normalisation
from segue.parts import build, suggestion
from segue.runtime.processes import CPU
from segue.storage.tensors import read_sealed, write_sealed

FORMAT = 1
FORMAT_WITH_RANGE = 2  # a Segue that knows of no range must not read images without it
FILE = "model.safetensors"

# Each image resized to the model's size, or windows of that size over the image as it is.
Policy = Literal["scaled", "sliding"]


@dataclass(repr=False)
class Model:
    """A segmenter with its label space and the size at which it looks at images.

    Args:
        segmenter: the network.
        label_space: the classes of its outputs.
        size: width and height to which images are resized, or of the sliding window; predictions
            come at the image's own.
        settings: kind and arguments from which the network is built again, without weights.
        heads: how much each head's probabilities count.
        device: where it runs.
        policy: how `predict` looks at an image: `scaled` to `size` as in training, or at full
            resolution by a `sliding` window of that size.
        range: what is black and white in images of more than 8 bits, as it was in training.
    """

    segmenter: Segmenter
    label_space: LabelSpace
    size: tuple[int, int]
    settings: dict[str, Any]
    heads: Mapping[str, float]
    device: torch.device = CPU
    policy: Policy = "scaled"
    range: Range | None = None

    def __repr__(self) -> str:
        return f"Model({model_line([self])})"

    def logits_of(self, image: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Logits [1, C, h, w] by head for an RGB image [H, W, 3] resized, at the network's stride.

        Raises:
            SegueError: the network has no such head.
        """
        return self.logits_of_all([image])[0]

    def logits_of_all(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Tensor]]:
        """What `logits_of` gives of each image, all through the network at once.

        Raises:
            SegueError: the network has no such head.
        """
        tensor = torch.stack([self._resized(image) for image in images])
        self.segmenter.eval()
        with torch.inference_mode():
            output = self.segmenter(tensor.to(self.device).float() / 255)
        absent = [name for name in self.heads if name not in output.logits]
        if absent:
            fix = f"the network has: {', '.join(output.logits)}"
            raise SegueError(f"no head is called {absent[0]!r}", where="heads", fix=fix)
        return [
            {name: output.logits[name][index : index + 1].float() for name in self.heads}
            for index in range(len(images))
        ]

    def _resized(self, image: NDArray[np.uint8]) -> Tensor:
        """uint8 [3, *size]."""
        resized = Image.fromarray(image)
        if resized.size != self.size:
            # Rows first, whatever a version of Pillow finds faster: the bits are the same then,
            # also those of exported graphs.
            rows = (self.size[0], resized.height)
            resized = resized.resize(rows, Image.Resampling.BICUBIC)
            resized = resized.resize(self.size, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)

    def window_bands(
        self, image: NDArray[np.uint8], *, batch: int = 1
    ) -> Iterator[tuple[slice, Tensor]]:
        """Mean probabilities over windows of `size`, by bands of rows; see `sliding_window`."""

        def votes_of(windows: Sequence[NDArray[np.uint8]]) -> list[list[Vote]]:
            return [self.votes(logits) for logits in self.logits_of_all(windows)]

        return window_bands(votes_of, image, self.size, batch=batch)

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

    @overload
    def predict(self, image: Picture) -> NDArray[np.uint8]: ...
    @overload
    def predict(self, image: list[Picture] | tuple[Picture, ...]) -> list[NDArray[np.uint8]]: ...
    def predict(
        self, image: Picture | list[Picture] | tuple[Picture, ...]
    ) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """Train ids [H, W] of an image, or of each of a list; see `Ensemble.predict`.

        Raises:
            SegueError: it is no image, or one that cannot be read.
        """
        return Ensemble([self]).predict(image)

    def save(self, path: Path) -> None:
        """Writes weights and description as one safetensors file."""
        space, norm = self.label_space, self.segmenter.normalisation
        description = {
            "format": FORMAT if self.range is None else FORMAT_WITH_RANGE,
            "network": self.settings,
            "normalisation": [norm.name, norm.mean, norm.std, norm.scale, norm.bgr],
            "label_space": [space.name, space.classes, space.colours, dict(space.protocols)],
            "size": self.size,
            "heads": dict(self.heads),
            "policy": self.policy,
        }
        if self.range is not None:
            description[KEY] = self.range.settings
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
        if len({model.range for model in models}) != 1:
            told = "models that read images by different ranges cannot be averaged"
            raise SegueError(told, fix="train them on data of one `range`")
        self.models = list(models)

    @property
    def label_space(self) -> LabelSpace:
        """The classes of its outputs."""
        return self.models[0].label_space

    @property
    def range(self) -> Range | None:
        """What is black and white in images of more than 8 bits."""
        return self.models[0].range

    def __repr__(self) -> str:
        return f"Ensemble({model_line(self.models)})"

    def logits_of(self, image: NDArray[np.uint8]) -> list[dict[str, Tensor]]:
        """Each model's logits [1, C, h, w] by head for an RGB image [H, W, 3]."""
        return [model.logits_of(image) for model in self.models]

    def looking(self, policy: str) -> Ensemble:
        """The same models with another policy.

        Raises:
            SegueError: there is no such policy.
        """
        for known in get_args(Policy):
            if known == policy:
                return Ensemble([replace(model, policy=known) for model in self.models])
        fix = suggestion(policy, get_args(Policy))
        raise SegueError(f"no policy is called {policy!r}", where="policy", fix=fix)

    def predict_all(
        self, images: Sequence[NDArray[np.uint8]], *, confident: bool = True, batch: int = 1
    ) -> list[tuple[NDArray[np.uint8], NDArray[np.float32] | None]]:
        """Train ids and mean probabilities of images that go through the networks together.

        Those of one image alone, up to rounding.

        Args:
            images: RGB [H, W, 3], of any sizes.
            confident: without it the probabilities are left out, which is faster.
            batch: how many windows of one image go together, where the policy is `sliding`.
        """
        sliding = any(model.policy == "sliding" for model in self.models)
        scaled = [model for model in self.models if model.policy == "scaled"]
        logits = [model.logits_of_all(images) for model in scaled]
        found: list[tuple[NDArray[np.uint8], NDArray[np.float32] | None]] = []
        for index, image in enumerate(images):
            size = (image.shape[0], image.shape[1])
            votes = Ensemble(scaled).votes([one[index] for one in logits]) if scaled else []
            if not sliding and not confident:
                found.append((labels(votes, size).cpu().numpy(), None))
                continue
            if sliding:
                label, confidence = labels_of_bands(self._bands(image, votes, batch), size)
            else:
                label, confidence = labels_and_confidence(votes, size)
            found.append((label.cpu().numpy(), confidence.cpu().numpy()))
        return found

    def _bands(
        self, image: NDArray[np.uint8], votes: Sequence[Vote], batch: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """Mean probabilities of windows, and of the models that see the whole image by `votes`."""
        sliding = [model for model in self.models if model.policy == "sliding"]
        parts = [model.window_bands(image, batch=batch) for model in sliding]
        shares = [1 / len(self.models)] * len(sliding)
        if votes:
            parts.append(probability_bands(votes, (image.shape[0], image.shape[1])))
            shares.append(1 - len(sliding) / len(self.models))
        return averaged(parts, shares)

    @overload
    def predict(self, image: Picture) -> NDArray[np.uint8]: ...
    @overload
    def predict(self, image: list[Picture] | tuple[Picture, ...]) -> list[NDArray[np.uint8]]: ...
    def predict(
        self, image: Picture | list[Picture] | tuple[Picture, ...]
    ) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """Train ids [H, W] of the mean probabilities, at the image's own size.

        Args:
            image: a path, the bytes of a file, an open file, a Pillow image, an array [H, W],
                [H, W, 1], [H, W, 3] or [H, W, 4], or a tensor [H, W] or [C, H, W], as
                `segue.inference.inputs.as_array` says; or a list of these, of any sizes, which are
                predicted one after the other.

        Returns:
            uint8 [H, W]; of a list a list of these.

        Raises:
            SegueError: it is no image, or one that cannot be read.
        """
        if isinstance(image, list | tuple):
            return [self._labels(one) for one in image]
        return self._labels(image)

    def _labels(self, image: Picture) -> NDArray[np.uint8]:
        return self.predict_all([as_array(image, self.range)], confident=False)[0][0]

    def predict_with_confidence(
        self, image: Picture
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Train ids [H, W] as `predict` gives them, and their mean probabilities.

        Raises:
            SegueError: it is no image, or one that cannot be read.
        """
        label, confidence = self.predict_all([as_array(image, self.range)])[0]
        assert confidence is not None
        return label, confidence

    def show(self, image: Picture) -> Prediction:
        """The labels that `predict` gives with image and confidence; notebooks draw them.

        Raises:
            SegueError: it is no image, or one that cannot be read.
        """
        array = as_array(image, self.range)
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
    if description["format"] not in (FORMAT, FORMAT_WITH_RANGE):
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
    policy = description.get("policy", "scaled")  # files of the first release do not tell
    if policy not in get_args(Policy):
        raise ValueError(policy)
    network, heads = description["network"], description["heads"]
    range_ = Range.from_settings(description.get(KEY), path)
    return Model(segmenter, space, size, network, heads, policy=policy, range=range_)
