"""What a rule did: pixels proposed and kept per class and, against labels, how many were right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text
from torch import Tensor

from segue.pseudo_labels.rule import Counts

ByClass = dict[str, float | None]


def kept_counts(label: Tensor, kept: Tensor, classes: int) -> Counts:
    """[2, C]: pixels that a rule proposes each class for, and those of them that it keeps.

    Example:
        >>> kept_counts(torch.tensor([[0, 1, 1]]), torch.tensor([[True, True, False]]), 2).tolist()
        [[1, 2], [1, 1]]
    """
    proposed, chosen = (
        torch.bincount(one, minlength=classes) for one in (label.flatten(), label[kept])
    )
    counted: Counts = torch.stack([proposed, chosen]).cpu().numpy()
    return counted


def measured_counts(truth: NDArray[np.uint8], pseudo: NDArray[np.uint8], classes: int) -> Counts:
    """[C, C + 1]: labelled pixels by label (rows) and pseudo-label, the last column those not kept.

    Example:
        >>> truth, pseudo = np.array([0, 0, 1, 255], np.uint8), np.array([0, 255, 0, 1], np.uint8)
        >>> measured_counts(truth, pseudo, 2).tolist()
        [[1, 0, 1], [1, 0, 0]]
    """
    labelled = truth < classes
    pairs = truth[labelled].astype(np.int64) * (classes + 1) + np.minimum(pseudo[labelled], classes)
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


@dataclass(frozen=True)
class Measured:
    """How right a rule is on a labelled dataset, whose labels are for measuring alone.

    Args:
        on: name of the dataset.
        images: how many it has.
        classes: their names.
        counts: as `measured_counts` gives them, summed.
    """

    on: str
    images: int
    classes: tuple[str, ...]
    counts: Counts

    @property
    def precision(self) -> ByClass:
        """Of the labelled pixels kept as a class, the share that is of it."""
        return self._shares(self.counts[:, :-1].sum(0))

    @property
    def recall(self) -> ByClass:
        """Of all pixels of a class, the share kept as that class."""
        return self._shares(self.counts.sum(1))

    @property
    def accuracy_by_class(self) -> ByClass:
        """Of the pixels of a class where anything is kept, the share kept as that class."""
        return self._shares(self.counts[:, :-1].sum(1))

    @property
    def accuracy(self) -> float | None:
        """Of all labelled pixels where anything is kept, the share that is right."""
        return share(int(np.trace(self.counts)), int(self.counts[:, :-1].sum()))

    @property
    def recall_of_all(self) -> float | None:
        """Of all labelled pixels, the share that is kept and right."""
        return share(int(np.trace(self.counts)), int(self.counts.sum()))

    def _shares(self, of: Counts) -> ByClass:
        return shares(self.classes, np.diag(self.counts), of)


@dataclass(frozen=True)
class Outcome:
    """What came of labelling a dataset.

    Args:
        classes: their names.
        thresholds: one for each class, NaN where there is none.
        counts: as `kept_counts` gives them, summed.
        images: how many were labelled.
        measured: the same rule against labels, where that was asked for.
    """

    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    counts: Counts
    images: int
    measured: Measured | None = None

    @property
    def threshold(self) -> ByClass:
        """The rule's number for each class."""
        told = (None if np.isnan(one) else one for one in self.thresholds)
        return dict(zip(self.classes, told, strict=True))

    @property
    def share_kept(self) -> ByClass:
        """Of the pixels proposed for a class, the share that is kept."""
        return shares(self.classes, self.counts[1], self.counts[0])

    @property
    def share_kept_of_all(self) -> float | None:
        """Of all pixels, the share that is kept."""
        proposed, kept = self.counts.sum(1).tolist()
        return share(kept, proposed)

    def told(self) -> dict[str, Any]:
        """For a JSON file."""
        proposed, kept = (dict(zip(self.classes, row, strict=True)) for row in self.counts.tolist())
        found: dict[str, Any] = {
            "images": self.images,
            "threshold": self.threshold,
            "predicted": proposed,
            "kept": kept,
            "share_kept": self.share_kept,
            "total": {
                "predicted": sum(proposed.values()),
                "kept": sum(kept.values()),
                "share_kept": self.share_kept_of_all,
            },
        }
        if self.measured is not None:
            found["measured"] = {
                "on": self.measured.on,
                "images": self.measured.images,
                "accuracy": self.measured.accuracy,
                "recall_of_all": self.measured.recall_of_all,
                "precision": self.measured.precision,
                "recall": self.measured.recall,
                "accuracy_by_class": self.measured.accuracy_by_class,
                "counts": self.measured.counts.tolist(),
            }
        return found

    def row(self) -> dict[str, float]:
        """For metrics.jsonl: shares from 0 to 1, those that do not exist left out."""
        found: dict[str, float | None] = {"kept": self.share_kept_of_all}
        tables = {"kept": self.share_kept, "threshold": self.threshold}
        pixels = self.counts[0].tolist()
        tables["predicted"] = {
            name: share(count, sum(pixels))
            for name, count in zip(self.classes, pixels, strict=True)
        }
        if self.measured is not None:
            found |= {"accuracy": self.measured.accuracy, "recall": self.measured.recall_of_all}
            tables["precision"] = self.measured.precision
            tables["recall"] = self.measured.recall
            tables["accuracy"] = self.measured.accuracy_by_class
        for what, table in tables.items():
            found |= {f"{what}/{name}": value for name, value in table.items()}
        return {key: value for key, value in found.items() if value is not None}

    def table(self) -> Table:
        """For the console, at most 80 columns wide."""
        table = Table(box=None, padding=(0, 2, 0, 0), caption_justify="left")
        table.add_column("class", max_width=22, no_wrap=True, overflow="ellipsis")
        headers = ["% of pixels", "threshold", "% kept"]
        if self.measured is not None:
            headers += ["precision", "recall"]
        for header in headers:
            table.add_column(header, justify="right", no_wrap=True)
        pixels = self.counts[0].tolist()
        for place, name in enumerate(self.classes):
            threshold = self.threshold[name]
            cells = [
                percent(share(pixels[place], sum(pixels))),
                "-" if threshold is None else f"{threshold:.4f}",
                percent(self.share_kept[name]),
            ]
            if self.measured is not None:
                cells += [
                    percent(self.measured.precision[name]),
                    percent(self.measured.recall[name]),
                ]
            # Of a name, brackets are no markup.
            table.add_row(Text(name), *cells)
        last = [percent(share(sum(pixels), sum(pixels))), "", percent(self.share_kept_of_all)]
        if self.measured is not None:
            last += [percent(self.measured.accuracy), percent(self.measured.recall_of_all)]
        table.add_section()
        table.add_row("all", *last, style="bold")
        return table


def share(part: int, whole: int) -> float | None:
    """A part of a whole, nothing where there is no whole."""
    return part / whole if whole else None


def shares(classes: Sequence[str], parts: Counts, wholes: Counts) -> ByClass:
    """The share of each class by its name.

    Example:
        >>> shares(["road", "train"], np.array([1, 0]), np.array([4, 0]))
        {'road': 0.25, 'train': None}
    """
    pairs = zip(parts.tolist(), wholes.tolist(), strict=True)
    return {name: share(*pair) for name, pair in zip(classes, pairs, strict=True)}


def percent(value: float | None) -> str:
    """A share for people.

    Example:
        >>> percent(0.1234), percent(None)
        ('12.3', '-')
    """
    return "-" if value is None else f"{100 * value:.1f}"
