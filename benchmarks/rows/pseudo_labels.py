"""Rows of the topic pseudo_labels: from an image to its label, network included."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from row import Row, Sides
from torch.nn import functional

from segue.datasets import Dataset
from segue.datasets.dataset import Item
from segue.inference.model import Ensemble, Model
from segue.label_space import LABEL_SPACES
from segue.models import MODELS, Segmenter
from segue.models.folding import fold_batch_norms
from segue.pseudo_labels.confidence import Confidence
from segue.pseudo_labels.spill import Spill
from segue.runtime.processes import World
from segue.stages.pseudo_label import Looking, decided_by, settle

CLASSES, SIZE = 19, (1024, 512)
Labels = tuple[NDArray[np.uint8], NDArray[np.float64]]


def no_bfloat16() -> str | None:
    """Why bfloat16 cannot be fast here."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.exists() else []
    if {"avx512_bf16", "amx_bf16", "bf16"} & set(flags):
        return None
    return "this processor has no bfloat16 instructions"


def network() -> Segmenter:
    """Random, but as sure of some pixels as a trained one is."""
    torch.manual_seed(0)
    segmenter = MODELS["deeplab_v2"](CLASSES).eval()
    with torch.no_grad():
        logits = segmenter(torch.rand(1, 3, 128, 256)).logits["main"]
        for parameter in segmenter.heads.parameters():
            parameter.mul_(4 / logits.std())
        for branch in segmenter.heads["main"].branches:
            branch.bias -= logits.mean((0, 2, 3)) / logits.std()
    return segmenter


def picture(folder: Path) -> Path:
    """An image file of smooth colours."""
    coarse = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    smooth = functional.interpolate(coarse, SIZE[::-1], mode="bicubic").clamp(0, 1)
    array = smooth[0].permute(1, 2, 0).mul(255).byte().numpy()
    path = folder / "image.png"
    Image.fromarray(array).save(path)
    return path


def as_bdl(segmenter: Segmenter, path: Path) -> Labels:
    """BDL's script for one image: everything at full size, sorted, a graph that nobody needs."""
    image = np.asarray(Image.open(path).convert("RGB").resize(SIZE, Image.Resampling.BICUBIC))
    tensor = torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1)[None] / 255)
    feature = segmenter.encoder(segmenter.normalisation(tensor))[-1]
    logits = sum(branch(feature) for branch in segmenter.heads["main"].branches)
    resized = functional.interpolate(logits, SIZE[::-1], mode="bilinear", align_corners=True)
    output = functional.softmax(resized, 1).cpu().data[0].numpy().transpose(1, 2, 0)
    predicted_label, predicted_prob = np.zeros((1, *SIZE[::-1])), np.zeros((1, *SIZE[::-1]))
    predicted_label[0], predicted_prob[0] = np.argmax(output, axis=2), np.max(output, axis=2)
    thresholds = np.full(CLASSES, 0.9)
    for c in range(CLASSES):
        x = np.sort(predicted_prob[predicted_label == c])
        if len(x):
            thresholds[c] = min(0.9, x[min(round(len(x) * 0.5), len(x) - 1)])
    label = predicted_label[0]
    for c in range(CLASSES):
        label[(predicted_prob[0] <= thresholds[c]) * (label == c)] = 255
    decided = np.asarray(label, dtype=np.uint8)
    Image.fromarray(decided).save(io.BytesIO(), "PNG")
    return decided, thresholds


def as_segue(models: Ensemble, dataset: Dataset, precision: str, folder: Path) -> Labels:
    """The stage's own way: the network once, its logits kept, two passes of counts, a third."""
    spill = Spill(folder, str(np.random.default_rng().random()))
    looking = Looking(models, dataset, SIZE, World(), spill, None, precision)  # type: ignore[arg-type]
    settled = settle(Confidence(), looking, title="row")
    ((_, votes),) = looking.votes("row")
    decided, _ = decided_by(settled, votes, looking)
    dataset.label_space.palette_png(decided).save(io.BytesIO(), "PNG")
    return decided, np.array(settled.thresholds)


def differ(ours: Labels, plain: Labels) -> float:
    """The share of pixels with another label."""
    return float((ours[0] != plain[0]).mean())


def image(precision: str) -> Callable[[], Sides]:
    """Both ways for one image file."""

    def make() -> Sides:
        folder = Path(tempfile.mkdtemp())
        space, path = LABEL_SPACES["cityscapes"], picture(folder)
        plain = network()
        folded = copy.deepcopy(plain)
        fold_batch_norms(folded)
        models = Ensemble([Model(folded, space, SIZE, {}, {"main": 1.0})])
        ids = np.full(65536, 255, np.uint8)
        dataset = Dataset("target", (Item(path, None),), space, ids)
        return Sides(
            lambda: as_segue(models, dataset, precision, folder),
            lambda: as_bdl(plain, path),
            differ,
        )

    return make


AGAINST = "BDL's script: gradients on, four dilated convolutions, full size, sorted"
ROWS: tuple[Row, ...] = (
    Row(
        "pseudo-labels of an image, DeepLab-v2 R-101, 1024x512, network included",
        AGAINST,
        image("float32"),
        faster=1.8,
        within=1e-4,
        repeats=3,
        note="The difference is the share of pixels whose label is another. BDL's script does not "
        "switch gradients off, which costs it the memory of the whole graph. By a profile on a "
        "Xeon with AVX-512, four fifths of our time are the network's convolutions, as fast as the "
        "processor multiplies and alike on both sides: what is left to gain lies with torch.",
    ),
    Row(
        "pseudo-labels of an image, DeepLab-v2 R-101, 1024x512, network in bfloat16",
        AGAINST,
        image("bfloat16"),
        faster=4,
        repeats=3,
        refuses=no_bfloat16,
    ),
)
