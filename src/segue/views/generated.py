"""Images that a network of the run redraws."""

from __future__ import annotations

from dataclasses import dataclass, replace

from segue.batch import Batch
from segue.training.step import Step

DRAWN = ("source", "target")


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A view as a generator redraws it; labels, weights and boxes stay as they are.

    Args:
        of: the view that is redrawn.
        network: the generator.

    Example:
        >>> Generated(of="as_target", network="to_source").parents
        ('as_target',)
        >>> Generated(of="source", network="to_target").parents
        ()
    """

    of: str
    network: str

    @property
    def parents(self) -> tuple[str, ...]:
        """The view that is redrawn, unless it was read from files and so has no graph to share."""
        return () if self.of in DRAWN else (self.of,)

    def __call__(self, step: Step) -> Batch:
        """The redrawn batch, with the generator's graph."""
        batch = step.view(self.of)
        return replace(batch, image=step.network(self.network)(batch.image))
