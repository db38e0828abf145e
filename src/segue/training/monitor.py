"""Looks at what is predicted on the target while training runs, and says what looks wrong.

No label is needed: a class that is no longer predicted anywhere and an entropy that rises are how
adaptation goes wrong. All is a function of the rows of metrics.jsonl, so that a run that was
interrupted warns as one that was not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from segue.training.step import Prediction

SHARE, ENTROPY = "target/share/", "target/entropy"
ENOUGH = 10  # looks at which a class was predicted before it can be missed
CHANCE = 1e-6  # of an absence so long, by how often the class was predicted until then
WINDOW = 20  # looks whose mean entropy is compared
RISE, MARGIN = 1.5, 0.05  # entropy that is told: so many times the lowest and so much more


def said_of_target(prediction: Prediction, classes: Sequence[str]) -> dict[str, Tensor]:
    """Share of each class and mean entropy of a prediction, at the logits' own size.

    Shares are of the most probable classes, between 0 and 1; the entropy is a share of ln C.

    Example:
        >>> from segue.models.segmenter import Output
        >>> logits = torch.tensor([0.0, 50.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
        >>> prediction = Prediction(Output({"main": logits}, {}), lambda logits, _: logits, (4, 4))
        >>> said = said_of_target(prediction, ("road", "sky"))
        >>> {name: round(float(value), 6) for name, value in said.items()}
        {'target/share/road': 0.0, 'target/share/sky': 1.0, 'target/entropy': 0.0}
    """
    logits = prediction.logits().detach().float()
    counts = torch.bincount(logits.argmax(1).flatten(), minlength=len(classes))
    shares = counts / counts.sum()
    told = {f"{SHARE}{name}": share for name, share in zip(classes, shares, strict=True)}
    logarithm = logits.log_softmax(1)
    entropy = -(logarithm.exp() * logarithm).sum(1).mean() / math.log(max(len(classes), 2))
    # The smallest of roundings below 0 is 0.
    return {**told, ENTROPY: entropy.clamp(min=0) + 0.0}


@dataclass
class _Seen:
    """A class: how often it was predicted, and for how long it was not."""

    looks: int = 0
    seen: int = 0
    absent: int = 0
    last: int = 0
    told: bool = False


@dataclass
class Watch:
    """Warns of collapsed classes and rising entropy, each time it begins.

    A class has collapsed when it was predicted at 10 looks or more and then at none for so long
    that it would happen by chance once in a million times.

    Example:
        >>> watch = Watch()
        >>> rows = [{"iteration": i, "target/share/sky": float(i < 30)} for i in range(60)]
        >>> [text for row in rows for text in watch.look(row)]
        ['sky is predicted nowhere on the target after iteration 29 (before: at 30 of 30 looks)']
    """

    _classes: dict[str, _Seen] = field(default_factory=dict)
    _entropies: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _lowest: float = math.inf
    _rising: bool = False

    def look(self, row: Mapping[str, float]) -> list[str]:
        """What there is to say of one more row of metrics."""
        iteration = int(row["iteration"])
        told = [
            self._class(name.removeprefix(SHARE), share, iteration)
            for name, share in row.items()
            if name.startswith(SHARE)
        ]
        if ENTROPY in row:
            told.append(self._entropy(row[ENTROPY]))
        return [text for text in told if text]

    def _class(self, name: str, share: float, iteration: int) -> str:
        one = self._classes.setdefault(name, _Seen())
        if share > 0:
            one.looks, one.seen = one.looks + one.absent + 1, one.seen + 1
            one.absent, one.last, one.told = 0, iteration, False
            return ""
        one.absent += 1
        missed = math.log1p(-one.seen / (one.looks + 1)) * one.absent
        if one.told or one.seen < ENOUGH or missed > math.log(CHANCE):
            return ""
        one.told = True
        return (
            f"{name} is predicted nowhere on the target after iteration {one.last} "
            f"(before: at {one.seen} of {one.looks} looks)"
        )

    def _entropy(self, value: float) -> str:
        self._entropies.append(value)
        if len(self._entropies) < WINDOW:
            return ""
        mean = math.fsum(self._entropies) / WINDOW
        self._lowest = min(self._lowest, mean)
        was, self._rising = self._rising, mean > RISE * self._lowest + MARGIN
        if was or not self._rising:
            return ""
        return (
            f"the entropy of predictions on the target rises: {mean:.3f} of ln C, where it was "
            f"{self._lowest:.3f}"
        )
