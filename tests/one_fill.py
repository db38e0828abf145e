"""What processes of test_cache.py do."""

import time
from pathlib import Path
from unittest import mock

from test_no_target_labels import SITECUSTOMIZE

from segue import recipe
from segue.datasets import dataset
from segue.recipe import fill_cache as caching
from segue.running import run as running
from segue.runtime import processes as distributed


def fill(settings: Path, out: Path, seconds: float) -> None:
    """Fills a recipe's cache from slow files, and leaves how many of them it read."""
    seen, read = [], dataset.read_image

    def slow(path, *more):
        seen.append(path)
        time.sleep(seconds)
        return read(path, *more)

    with mock.patch.object(dataset, "read_image", slow):
        world = distributed.join("cpu")
        one = recipe.load(settings)
        caching.fill_cache(one, one.stages, world=world, console=None)
    Path(f"{out}.{world.rank}").write_text(str(len(seen)))
    distributed.leave()


def watched(overrides: list[str], work_dir: Path) -> None:
    """Runs a recipe and leaves what was opened, listed and looked for."""
    exec(SITECUSTOMIZE, {})
    running.run(recipe.load("local-alignment-demo", overrides), work_dir)
