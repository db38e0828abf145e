"""What notebooks show of models and predictions: small pieces of HTML that need nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.label_space import LabelSpace

if TYPE_CHECKING:
    from segue.inference.model import Model

WIDEST = 480  # pixels of a picture, at most
OVERLAY = 0.55  # how much the colours of classes cover the image


@dataclass(frozen=True, eq=False)
class Prediction:
    """A segmented image, which notebooks show beside its classes.

    Args:
        image: RGB uint8 [H, W, 3].
        labels: train ids, uint8 [H, W].
        confidence: the probability of each pixel's label, float32 [H, W].
        label_space: the classes.

    Example:
        >>> from segue.label_space import LabelSpace
        >>> space = LabelSpace.from_settings("toy", ["sky", "road"])
        >>> label = np.array([[0, 0, 0, 1]], np.uint8)
        >>> image = np.zeros((1, 4, 3), np.uint8)
        >>> Prediction(image, label, np.ones((1, 4), np.float32), space).shares
        {'sky': 0.75, 'road': 0.25}
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    label_space: LabelSpace

    @property
    def colours(self) -> NDArray[np.uint8]:
        """The labels in their classes' colours, RGB uint8 [H, W, 3]."""
        return self.label_space.colour(self.labels)

    @property
    def overlay(self) -> NDArray[np.uint8]:
        """The colours laid over the image, RGB uint8 [H, W, 3]."""
        mixed = (1 - OVERLAY) * self.image + OVERLAY * self.colours
        return mixed.round().astype(np.uint8)

    @property
    def shares(self) -> dict[str, float]:
        """The share of pixels by class name, largest first, absent classes left out."""
        counts = np.bincount(self.labels.ravel(), minlength=self.label_space.num_classes)
        order = sorted(range(self.label_space.num_classes), key=lambda one: -counts[one])
        names = self.label_space.classes
        return {names[one]: float(counts[one]) / self.labels.size for one in order if counts[one]}

    def __repr__(self) -> str:
        height, width = self.labels.shape
        most = ", ".join(f"{name} {share:.0%}" for name, share in list(self.shares.items())[:3])
        return f"Prediction({width}x{height}: {most})"

    def _repr_html_(self) -> str:
        space = self.label_space
        pictures = "".join(
            f'<img src="{data_uri(pixels)}" alt="{alt}" style="max-width:100%">'
            for pixels, alt in ((self.image, "image"), (self.overlay, "labels over the image"))
        )
        legend = [
            (name, space.colours[space.train_id(name)], f"{100 * share:.1f} %")
            for name, share in self.shares.items()
        ]
        told = f"mean confidence {float(self.confidence.mean()):.2f}"
        shown = f'<div style="display:flex;flex-wrap:wrap;gap:8px">{pictures}</div>'
        return f"<div>{shown}{swatches(legend)}<div>{told}</div></div>"


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """RGB [H, W, 3] as an address that holds the picture itself, made smaller where it is wide."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((WIDEST, WIDEST))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def swatches(legend: Sequence[tuple[str, tuple[int, int, int], str]]) -> str:
    """Classes with their colours and what is said of each, as HTML; names are escaped."""
    items = "".join(
        '<span style="display:inline-flex;align-items:center;gap:5px;white-space:nowrap">'
        '<span style="width:1em;height:1em;border:1px solid currentColor;'
        f'background:rgb({red},{green},{blue})"></span>{escape(name)}'
        f"{f' {escape(told)}' if told else ''}</span>"
        for name, (red, green, blue), told in legend
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:4px 14px;margin:6px 0">{items}</div>'


def model_line(models: Sequence[Model]) -> str:
    """What models are, in a line."""
    space = models[0].label_space
    parts = [f"{space.num_classes} classes of {space.name}"]
    for model in models:
        width, height = model.size
        window = f"window {width}x{height}" if model.policy == "sliding" else f"{width}x{height}"
        parts.append(f"{model.segmenter.describe()}, looks at {window} on {model.device}")
    if models[0].range is not None:
        parts.append(f"range {models[0].range}")
    return "; ".join(parts)


def model_html(models: Sequence[Model]) -> str:
    """What models are: networks, sizes, heads, classes in their colours."""
    space = models[0].label_space
    rows = "".join(
        f"<tr><td>{escape(model.segmenter.describe())}</td>"
        f"<td>{model.size[0]} x {model.size[1]}{', sliding' * (model.policy == 'sliding')}</td>"
        f"<td>{escape(', '.join(model.heads))}</td><td>{escape(str(model.device))}</td></tr>"
        for model in models
    )
    head = "".join(f"<th>{title}</th>" for title in ("network", "looks at", "heads", "on"))
    title = f"{space.num_classes} classes of {escape(space.name)}"
    averaged = f", mean of {len(models)} models" if len(models) > 1 else ""
    legend = [(name, colour, "") for name, colour in zip(space.classes, space.colours, strict=True)]
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div><strong>{title}</strong>{averaged}{table}{swatches(legend)}</div>"
