"""Earlier fakes among the new ones, so that a discriminator does not forget them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from segue.batch import Batch
from segue.errors import SegueError
from segue.runtime import processes as distributed
from segue.runtime.processes import World
from segue.training.step import Step

Change = tuple[int, int, Tensor]  # position in the joint batch, place in the pool, image


class ImagePool:
    """A view detached, half of its images exchanged for ones that it held in earlier iterations.

    CycleGAN (ICCV 2017), section 4, after Shrivastava et al. (CVPR 2017): while the pool is not
    full, each image is kept and shown; then, with probability 1/2, a random image of the pool is
    shown and the new one takes its place, else the new one is shown and not kept.
    Differs: what is shown comes from the pool as the iteration found it, so that a larger joint
    batch may be spread over micro batches and processes; for one image it is the same.

    The view only reads the pool, `after` changes it. All processes hold the same pool, in the main
    memory: 2.3 MiB for an image of 452x452.

    Args:
        of: the view.
        size: how many images are held.

    Example:
        >>> pool = ImagePool(of="source", size=1)
        >>> for iteration in range(3):
        ...     batch = Batch(torch.full((1, 3, 2, 2), float(iteration)))
        ...     step = Step({"source": batch}, {}, iteration=iteration)
        ...     shown = pool(step).image
        ...     pool.after([step])
        >>> len(pool.images), bool(torch.equal(shown, pool(step).image))
        (1, True)
    """

    parents: tuple[str, ...] = ()

    def __init__(self, *, of: str, size: int = 50) -> None:
        if size < 1:
            raise SegueError(f"a pool of {size}", where="image_pool", fix="use 1 or more")
        self.of, self.size = of, size
        self.images: list[Tensor] = []
        self._pending: dict[int, list[Change]] = {}

    def __call__(self, step: Step) -> Batch:
        """New and earlier images without graph, without labels; the same whenever it is asked."""
        batch = step.view(self.of)
        shown: list[Tensor] = []
        changes: list[Change] = []
        for index, image in enumerate(batch.image.detach()):
            position = step.slot + index
            place, earlier = self._decide(step, index)
            shown.append(image if earlier is None else earlier.to(image))
            if place is not None:
                changes.append((position, place, image.cpu().clone()))
        self._pending[step.slot] = changes
        return replace(batch, image=torch.stack(shown), label=None, weight=None, box=None)

    def _decide(self, step: Step, index: int) -> tuple[int | None, Tensor | None]:
        """Where the new image is to be kept, and the earlier one that is shown in its stead."""
        held, free = len(self.images), len(self.images) + step.slot + index
        if free < self.size:
            return free, None
        generator = step.random(f"pool {self.of}", image=index)
        exchanged = bool(torch.rand((), generator=generator) < 0.5)
        if not exchanged or not held:
            return None, None
        place = int(torch.randint(held, (), generator=generator))
        return place, self.images[place]

    def after(self, steps: Sequence[Step]) -> None:
        """Keeps what this iteration's views decided to keep, of all processes in order."""
        mine = [change for step in steps for change in self._pending.get(step.slot, ())]
        self._pending.clear()
        every = [one for rank in distributed.gather(mine, _processes()) for one in rank]
        for _, place, image in sorted(every, key=lambda change: change[:2]):
            self.images[place : place + 1] = [image]

    def state_dict(self) -> dict[str, Any]:
        """The images, in order."""
        return {"images": list(self.images)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores them."""
        self.images = list(state["images"])
        self._pending.clear()


def _processes() -> World:
    """How many processes hold a pool; which of them this is does not matter."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return World(size=torch.distributed.get_world_size()) if together else World()
