"""Images with their colours shaken."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from segue.batch import Batch
from segue.errors import SegueError
from segue.training.step import Step

_CHANGES = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


@dataclass(frozen=True, kw_only=True)
class Jittered:
    """A view with random brightness, contrast, saturation and hue; labels stay as they are.

    Coarse-to-fine (CVPR 2021), section 3.1, the function tau, with the strengths of the work that
    it cites. For each image the factors, and the order in which they act, are drawn anew.

    Args:
        of: the view.
        brightness: factors lie evenly within 1 - brightness and 1 + brightness, from 0 on.
        contrast: as brightness.
        saturation: as brightness.
        hue: turns lie evenly within -hue and hue, 1 being once round; at most 0.5.

    Raises:
        SegueError: a strength is out of its range.

    Example:
        >>> step = Step({"target": Batch(torch.rand(2, 3, 4, 4))}, {}, iteration=3)
        >>> Jittered(of="target")(step).image.shape
        torch.Size([2, 3, 4, 4])
    """

    of: str = "source"
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.2

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "hue"):
            strength, most = getattr(self, name), 0.5 if name == "hue" else float("inf")
            if not 0 <= strength <= most:
                fix = f"use 0 to {most}" if name == "hue" else "use 0 or more"
                raise SegueError(f"{strength} will not do", where=name, fix=fix)

    @property
    def parents(self) -> tuple[str, ...]:
        """None: the result has no graph."""
        return ()

    def __call__(self, step: Step) -> Batch:
        """The jittered batch."""
        batch = step.view(self.of)
        with torch.no_grad():
            jittered = [
                self._jitter(image, step.random(f"jitter {self.of}", image=index))
                for index, image in enumerate(batch.image)
            ]
        return replace(batch, image=torch.stack(jittered))

    def _jitter(self, image: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(len(_CHANGES), generator=generator).tolist()
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        for index in torch.randperm(len(_CHANGES), generator=generator).tolist():
            strength, middle = strengths[index], 0.0 if index == 3 else 1.0
            low = middle - strength if index == 3 else max(0.0, middle - strength)
            factor = low + drawn[index] * (middle + strength - low)
            if strength > 0:
                image = _CHANGES[index](image, factor)
        return image
