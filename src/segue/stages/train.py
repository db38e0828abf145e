"""The stage that trains: from a recipe's settings to the loop and the files it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from segue import assembly
from segue.batch import Batch
from segue.datasets.loading import batches
from segue.distributed import World
from segue.errors import SegueError
from segue.model import FILE, Model, files
from segue.models import Segmenter
from segue.models.weights import load_weights
from segue.networks import Networks
from segue.phases import Weighted
from segue.recipe import Recipe, TrainStage
from segue.tracking import Tracker
from segue.training import Training, train


def run(
    recipe: Recipe,
    name: str,
    stage: TrainStage,
    work_dir: Path,
    *,
    world: World,
    console: Console | None,
) -> None:
    """Trains what the stage describes, going on from its newest checkpoint.

    Leaves `checkpoints/`, `metrics.jsonl`, `timing.jsonl`, `tensorboard/` and `model.safetensors`
    in the stage's folder.

    Raises:
        SegueError: data or weights are not as they should be, or a number is not finite.
    """
    folder = work_dir / name
    if world.leads:
        folder.mkdir(parents=True, exist_ok=True)
    roles = assembly.readings(recipe, stage)

    def draw(first: int, stop: int) -> Iterator[list[dict[str, Batch]]]:
        return batches(
            roles,
            batch_size=stage.batch_size,
            seed=recipe.seed,
            start=first,
            stop=stop,
            accumulate=stage.accumulate,
            rank=world.rank,
            world=world.size,
            workers=recipe.workers,
        )

    networks = assembly.networks(recipe, name, stage)
    load_from(networks, stage, work_dir, where=f"stages.{name}.load_from")
    for network in networks.values():
        network.to(world.device)
    terms = assembly.terms(stage.terms, where=f"stages.{name}.terms")
    check_names(networks, terms_trained(terms), where=f"stages.{name}.terms")
    training = Training(
        networks,
        assembly.phases(terms, stage.phases, {}, where=f"stages.{name}.phases"),
        stage.iterations,
        draw,
        seed=recipe.seed,
        precision=recipe.precision,
        world=world,
        examine_every=stage.log_every,
    )
    tracker = Tracker(
        folder,
        iterations=stage.iterations,
        every=stage.log_every,
        world=world,
        console=console,
        title=f"{recipe.name} {name}" if name != "train" else recipe.name,
    )
    tell(networks, console, world)
    train(training, tracker, folder / "checkpoints", checkpoint_every=stage.checkpoint_every)
    if world.leads:
        save_model(recipe, stage, networks, folder / FILE)


def load_from(networks: Networks, stage: TrainStage, work_dir: Path, *, where: str) -> None:
    """Fills the segmenter, weights only, from an earlier stage by name, a file or a work_dir.

    Raises:
        SegueError: no such stage or file, weights of another network, or of several.
    """
    if stage.load_from is None:
        return
    earlier, given = work_dir / stage.load_from / FILE, Path(stage.load_from)
    if not earlier.is_file() and not given.exists():
        fix = "name an earlier train stage, a weights file or a work_dir"
        raise SegueError(f"nothing is called {stage.load_from}", where=where, fix=fix)
    path, *others = [earlier] if earlier.is_file() else files(given)
    if others:
        fix = f"name one of its stages: {path.parent}"
        raise SegueError(f"{stage.load_from} holds several models", where=where, fix=fix)
    load_weights(networks["segmenter"], path, minimum=1.0)


def terms_trained(terms: list[Weighted]) -> set[str]:
    """Names of the networks that terms train."""
    return {name for weighted in terms for name in weighted.term.trains}


def check_names(networks: Networks, trained: set[str], *, where: str) -> None:
    """Refuses terms that train a network which does not exist or has no optimiser."""
    for name in sorted(trained):
        if name not in networks:
            fix = f"there are: {', '.join(networks)}"
            raise SegueError(f"no network is called {name!r}", where=where, fix=fix)
        if networks.table[name].optimiser is None:
            raise SegueError(f"network {name!r} has no optimiser", where=where, fix="give it one")


def tell(networks: Networks, console: Console | None, world: World) -> None:
    """Says what is trained, batch norm included."""
    if console is None or not world.leads:
        return
    for name, network in networks.items():
        if isinstance(network, Segmenter):
            console.print(f"[bold]{name}[/] {network.describe()}", highlight=False)


def save_model(recipe: Recipe, stage: TrainStage, networks: Networks, path: Path) -> None:
    """Writes the segmenter with all that is needed to use it."""
    segmenter = networks["segmenter"]
    assert isinstance(segmenter, Segmenter)
    described = stage.networks["segmenter"]
    settings = {"kind": described.kind, **described.arguments, "weights": None}
    size = (stage.target or stage.source).size
    Model(segmenter, recipe.classes(), size, settings, {"main": 1.0}).save(path)
