"""Images in another domain's style, without a network of the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from segue.batch import Batch
from segue.parts import build
from segue.training.step import Step
from segue.translation import TRANSLATIONS, Translation


@dataclass(frozen=True)
class Translated:
    """A view in the style of another; labels, weights and boxes stay as they are.

    Args:
        of: the view that is translated.
        towards: the view whose images give the style: to image i of B, image i modulo B.
        translation: how.
    """

    of: str
    towards: str
    translation: Translation

    @property
    def parents(self) -> tuple[str, ...]:
        """None: the result has no graph."""
        return ()

    def __call__(self, step: Step) -> Batch:
        """The translated batch."""
        batch, reference = step.view(self.of), step.view(self.towards)
        chosen = torch.arange(len(batch)) % len(reference)
        with torch.no_grad():
            image = self.translation(batch.image, reference.image[chosen])
        return replace(batch, image=image)


def translated(
    *, of: str = "source", towards: str = "target", by: str | dict[str, Any] = "photometric"
) -> Translated:
    """A view in the style of another, translated anew at each step.

    Coarse-to-fine (CVPR 2021), step 0: each source image is aligned with a random target image,
    the one that was drawn beside it.

    Args:
        of: the view that is translated.
        towards: the view whose images give the style.
        by: a translation by name, or a mapping with its `kind` and arguments.

    Raises:
        SegueError: there is no such translation, or its arguments will not do.

    Example:
        >>> translated(by={"kind": "fourier", "beta": 0.05}).translation
        Fourier(beta=0.05)
    """
    return Translated(of, towards, build(TRANSLATIONS, by, where="by", what="translation"))
