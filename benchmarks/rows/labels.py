"""Rows of the topic labels: from logits to labels, and how right they are."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from row import Row, Sides
from torch import Tensor
from torch.nn import functional

from segue.inference.confusion_matrix import ConfusionMatrix
from segue.inference.labels import Vote, labels

CLASSES, HEIGHT, WIDTH, BLOCK = 19, 1024, 2048, 16
Labels = NDArray[np.uint8]


def pixels(random: np.random.Generator) -> tuple[Labels, Labels]:
    """Labels, a tenth of them ignored, and predictions, each pixel for itself."""
    label, prediction = random.integers(0, CLASSES, (2, HEIGHT, WIDTH)).astype(np.uint8)
    label[random.random(label.shape) < 0.1] = 255
    return label, prediction


def blocks(random: np.random.Generator) -> tuple[Labels, Labels]:
    """Labels of one class in each block, and predictions that are wrong in a fifth of pixels."""
    coarse = random.integers(0, CLASSES, (HEIGHT // BLOCK, WIDTH // BLOCK)).astype(np.uint8)
    truth = coarse.repeat(BLOCK, 0).repeat(BLOCK, 1)
    coarse[random.random(coarse.shape) < 0.1] = 255
    guess = random.integers(0, CLASSES, truth.shape).astype(np.uint8)
    right = random.random(truth.shape) < 0.8
    return coarse.repeat(BLOCK, 0).repeat(BLOCK, 1), np.where(right, truth, guess)


def confusion(make: Callable[[np.random.Generator], tuple[Labels, Labels]]) -> Sides:
    label, prediction = make(np.random.default_rng(0))

    def ours() -> NDArray[np.int64]:
        matrix = ConfusionMatrix(CLASSES)
        matrix.add(label, prediction)
        return matrix.counts

    def plain() -> NDArray[np.int64]:
        labelled = (label >= 0) & (label < CLASSES)
        pairs = CLASSES * label[labelled].astype(int) + prediction[labelled]
        return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)

    return Sides(ours, plain, lambda one, other: float(np.abs(one - other).max()))


def upsampled() -> Sides:
    torch.manual_seed(0)
    logits = 3 * torch.randn(1, CLASSES, 65, 129)

    @torch.no_grad()
    def plain() -> Tensor:
        whole = functional.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear", align_corners=True)
        return whole.argmax(1)[0].to(torch.uint8)

    return Sides(
        ours=lambda: labels([Vote(logits[0], align_corners=True)], (HEIGHT, WIDTH)),
        plain=plain,
        difference=lambda one, other: float((one != other).float().mean()),
    )


ROWS: tuple[Row, ...] = (
    Row(
        name="confusion matrix 2048x1024, 19 classes",
        against="mask, cast and `numpy.bincount`",
        make=lambda: confusion(pixels),
        faster=6.0,
        within=0.0,
        repeats=25,
        note="Classes drawn for each pixel. Below a hundredth of an image's evaluation on a CPU; "
        "with a network on a GPU it is what the evaluation would wait for.",
    ),
    Row(
        name="confusion matrix 2048x1024, 19 classes, in blocks",
        against="mask, cast and `numpy.bincount`",
        make=lambda: confusion(blocks),
        within=0.0,
        repeats=25,
        note="One class in each 16x16 block, a fifth of the pixels wrong: what is added to the "
        "same count again and again waits for itself, on both sides.",
    ),
    Row(
        name="logits to labels, 65x129 to 2048x1024, 19 classes",
        against="`interpolate`, then `argmax(1)`",
        make=upsampled,
        faster=1.8,
        memory=0.15,
        within=0.0,
        repeats=7,
        note="The difference is the share of pixels whose label is another.",
    ),
)
