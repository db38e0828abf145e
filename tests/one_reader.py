"""What a process of test_loading.py does until it is killed."""

import signal
from pathlib import Path

from segue.datasets import gta5
from segue.datasets.loading import Role, batches


def draw(root: Path) -> None:
    """Has images read by a process of its own, and waits."""
    roles = {"source": Role(gta5(root), (8, 6), True)}
    drawn = batches(roles, batch_size=1, seed=0, start=0, stop=9999, workers=1)
    next(iter(drawn))
    (root / "drawn").touch()
    signal.pause()
