"""FDA's robust entropy against its formula written out."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from segue.batch import Batch
from segue.losses.entropy import RobustEntropy
from segue.models.segmenter import Output
from segue.training.step import Step

CLASSES, SIZE = 4, (6, 7)


class Stated(nn.Module):
    """A segmenter with stated logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits).float())

    def forward(self, image):
        return Output({"main": self.logits, "layer3": 2 * self.logits}, {})

    def upsample(self, logits, size):
        return functional.interpolate(logits, size, mode="bilinear", align_corners=True)


def step_of(logits):
    batch = Batch(torch.zeros(len(logits), 3, *SIZE))
    return Step({"target": batch}, {"segmenter": Stated(logits)}, iteration=0)


def by_hand(logits, eta):
    grown = functional.interpolate(
        torch.as_tensor(logits).double(), SIZE, mode="bilinear", align_corners=True
    ).numpy()
    images = []
    for image in grown:
        total = 0.0
        for y, x in np.ndindex(*SIZE):
            powers = [math.exp(v - image[:, y, x].max()) for v in image[:, y, x]]
            p = [v / sum(powers) for v in powers]
            entropy = -sum(v * math.log(v) for v in p) / math.log(CLASSES)
            total += (entropy**2 + 1e-8) ** eta
        images.append(total / (SIZE[0] * SIZE[1]))
    return sum(images) / len(images)


@pytest.mark.parametrize("eta", [2.0, 0.5, 1.0])
@pytest.mark.parametrize(("head", "factor"), [("main", 1), ("layer3", 2)])
def test_formula(eta, head, factor):
    logits = np.random.default_rng(0).normal(size=(2, CLASSES, 3, 4)) * 3
    step = step_of(logits)
    found = RobustEntropy(eta=eta, head=head)(step)
    assert float(found.detach()) == pytest.approx(by_hand(factor * logits, eta), abs=1e-6)
    found.backward()
    assert step.network("segmenter").logits.grad.any()


def test_it_lies_between_certain_and_uniform():
    certain = np.zeros((1, CLASSES, 2, 2))
    certain[:, 0] = 1e4
    step = step_of(certain)
    found = RobustEntropy()(step)
    assert float(found.detach()) == pytest.approx(1e-16, abs=1e-17)
    found.backward()
    assert torch.isfinite(step.network("segmenter").logits.grad).all()
    uniform = RobustEntropy()(step_of(np.zeros((1, CLASSES, 2, 2))))
    assert float(uniform.detach()) == pytest.approx(1)


def test_uncertain_pixels_are_pushed_more_than_by_the_entropy_itself():
    step = step_of(np.array([1.0, 0, 0, 0]).reshape(1, CLASSES, 1, 1))
    (robust, plain) = (RobustEntropy(eta=eta)(step) for eta in (2.0, 0.5))
    logits = step.network("segmenter").logits
    pulls = [
        torch.autograd.grad(one, logits, retain_graph=True)[0].norm() for one in (robust, plain)
    ]
    assert pulls[0] > 2 * pulls[1]
