"""One confusion matrix over all labelled pixels, and the protocols' means of its IoUs."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segue.errors import SegueError
from segue.label_space import LabelSpace

VALUES = 256  # of a byte
COUNTED_EXACTLY = 2**24  # OpenCV hands its counts out as float32


class ConfusionMatrix:
    """Counts of labelled pixels: rows are labels, columns predictions.

    IoU = TP / (TP + FN + FP) for each class, one matrix for the whole set, as Cityscapes scores.

    Args:
        num_classes: C.

    Example:
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.add(np.array([[0, 0, 1, 255]]), np.array([[0, 1, 1, 0]]))
        >>> matrix.iou().round(3).tolist()
        [0.5, 0.5]
    """

    def __init__(self, num_classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def add(self, label: NDArray[np.integer], prediction: NDArray[np.integer]) -> None:
        """Counts one image: labels [H, W], anything that is no train id being ignored.

        Raises:
            SegueError: the two are not of one size, or the prediction holds what is no class.
        """
        if label.shape != prediction.shape:
            raise SegueError(f"a prediction of {prediction.shape} for a label of {label.shape}")
        classes = len(self.counts)
        if label.dtype == prediction.dtype == np.uint8 and classes <= VALUES:
            pairs = _pairs_of_bytes(label, prediction)[:classes]
            _check(np.flatnonzero(pairs.any(0)), classes)
            self.counts += pairs[:, :classes]
            return
        labelled = (label >= 0) & (label < classes)
        predicted = prediction[labelled]
        _check(predicted, classes)
        pairs = label[labelled].astype(np.int64) * classes + predicted
        self.counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def iou(self) -> NDArray[np.float64]:
        """IoU of each class, NaN where it is neither labelled nor predicted."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        with np.errstate(invalid="ignore"):
            return np.asarray(hits / union, np.float64)

    def miou(self, label_space: LabelSpace, protocol: str) -> float:
        """Mean IoU over the classes of a protocol, absent ones left out; NaN if all are."""
        chosen = self.iou()[list(label_space.protocol(protocol))]
        present = chosen[~np.isnan(chosen)]
        return float(present.mean()) if len(present) else float("nan")


def _check(predicted: NDArray[np.integer], classes: int) -> None:
    if predicted.size and not 0 <= predicted.min() <= predicted.max() < classes:
        raise SegueError(
            f"a prediction of class {predicted.max()} where there are {classes}",
            fix="predict train ids",
        )


def _pairs_of_bytes(
    label: NDArray[np.integer], prediction: NDArray[np.integer]
) -> NDArray[np.int64]:
    """How often each pair of values occurs, [256, 256]: rows are labels, columns predictions."""
    counts = np.zeros((VALUES, VALUES), np.int64)
    labels, predictions = label.reshape(-1), prediction.reshape(-1)
    for start in range(0, labels.size, COUNTED_EXACTLY):
        part = slice(start, start + COUNTED_EXACTLY)
        counts += _histogram(labels[part], predictions[part])
    return counts


def _histogram(labels: NDArray[np.integer], predictions: NDArray[np.integer]) -> NDArray[np.int64]:
    # Neighbours mostly agree, and adding to one count twice in a row stalls a processor: pixels of
    # the two halves take turns.
    halves = 2 - labels.size % 2
    pairs = zip(predictions.reshape(halves, -1), labels.reshape(halves, -1), strict=True)
    # A pair of bytes read as one number is 256 * label + prediction.
    numbers = cv2.merge([half for pair in pairs for half in pair]).view("<u2").reshape(1, -1)
    counts = cv2.calcHist([numbers], [0], None, [VALUES**2], [0, VALUES**2])
    return np.asarray(counts.reshape(VALUES, VALUES), np.int64)
