"""What each process of test_distributed.py does: runs recipes and keeps what it ends with."""

import json
import math
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from segue import recipe
from segue.errors import SegueError
from segue.running.run import run
from segue.runtime import processes as distributed
from segue.stages import train


def main(out: Path, name: str, variants: dict[str, list[str]]) -> None:
    """Runs a recipe once per variant and saves what it left in this process."""
    world = distributed.join("cpu")
    for variant, overrides in variants.items():
        with float64() if variant.startswith("float64") else mock.MagicMock():
            chosen = recipe.load(name, overrides)
            kept = run_one(out / variant, chosen, world.rank, spoil=variant == "spoilt")
        torch.save(kept, out / f"{variant}.{world.rank}.pt")
    distributed.leave()


def run_one(work_dir: Path, chosen: recipe.Recipe, rank: int, spoil: bool) -> dict:
    """What this process has when a recipe ends: the last stage's networks, the images drawn."""
    kept = {"networks": {}, "drawn": [], "said": ""}
    loop, save = train.train, train.save_networks

    def keeping(training, *args, **kwargs):
        draw = training.draw

        def noting(first, stop):
            for iteration, micro_batches in enumerate(draw(first, stop), first):
                sources = [batches["source"] for batches in micro_batches]
                kept["drawn"].append([source.names for source in sources])
                if spoil and rank == 1 and iteration == 2:
                    sources[0].image.fill_(math.nan)
                yield micro_batches

        training.draw = noting
        loop(training, *args, **kwargs)
        kept["networks"] = {key: one.state_dict() for key, one in training.networks.items()}

    def saving(*args):
        time.sleep(0.5)  # the other process would be far ahead
        save(*args)

    with (
        mock.patch.object(train, "train", keeping),
        mock.patch.object(train, "save_networks", saving),
    ):
        try:
            run(chosen, work_dir)
        except SegueError as error:
            kept["said"] = str(error)
    return kept


@contextmanager
def float64():
    """Lets everything, the losses' own conversions included, compute in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
