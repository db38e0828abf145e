"""The stage that trains: from a recipe's settings to the loop and the files it leaves."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from rich.console import Console

from segue.batch import Batch
from segue.datasets.loading import batches
from segue.errors import SegueError
from segue.inference.model import FILE, Model
from segue.models import Segmenter
from segue.models.weights import load_weights, save_weights
from segue.recipe import build as assembly
from segue.recipe.recipe import Recipe, TrainStage
from segue.runtime import signals as stopping
from segue.runtime.processes import World
from segue.training.guard import Guard
from segue.training.loop import train
from segue.training.networks import Networks
from segue.training.phases import Weighted
from segue.training.state import Draw, Follower, Training
from segue.training.tracker import Tracker
from segue.work_dir import files

NETWORKS = "networks"


def run(
    recipe: Recipe,
    name: str,
    stage: TrainStage,
    work_dir: Path,
    *,
    world: World,
    console: Console | None,
    until: int | None = None,
) -> None:
    """Trains what the stage describes, going on from its newest checkpoint.

    With `until` it ends after so many iterations, with rates as if it went on.
    Leaves `checkpoints/`, `metrics.jsonl`, `timing.jsonl`, `tensorboard/`, `model.safetensors` (the
    segmenter) and `networks/` (the other trained ones) in the stage's folder.

    Raises:
        SegueError: data or weights are not as they should be, or a number is not finite.
    """
    folder = work_dir / name
    if world.leads:
        folder.mkdir(parents=True, exist_ok=True)
    roles = assembly.readings(recipe, stage, work_dir)
    seed = assembly.seed_of(recipe, name)
    iterations = stage.iterations if until is None else min(until, stage.iterations)

    def draw(first: int, stop: int) -> Generator[list[dict[str, Batch]], None, None]:
        return batches(
            roles,
            batch_size=stage.batch_size,
            seed=seed,
            start=first,
            stop=stop,
            accumulate=stage.accumulate,
            rank=world.rank,
            world=world.size,
            workers=recipe.workers,
            device=world.device,
        )

    networks = assembly.networks(recipe, name, stage)
    load_from(networks, stage, work_dir, where=f"stages.{name}.networks")
    training = training_of(recipe, name, stage, networks, draw, world=world, iterations=iterations)
    tracker = Tracker(
        folder,
        iterations=iterations,
        every=stage.log_every,
        world=world,
        console=console,
        title=f"{recipe.name} {name}" if name != "train" else recipe.name,
    )
    tell(networks, console, world)
    with stopping.postponed():
        train(training, tracker, folder / "checkpoints", checkpoint_every=stage.checkpoint_every)
    if world.leads:
        save_networks(recipe, stage, networks, folder)


def training_of(
    recipe: Recipe,
    name: str,
    stage: TrainStage,
    networks: Networks,
    draw: Draw,
    *,
    world: World,
    iterations: int,
) -> Training:
    """All that the loop needs for a stage, its networks on the process's device.

    Raises:
        SegueError: a term trains a network that is not there or has no optimiser.
    """
    networks.to(world.device)
    if recipe.compile:
        networks.compile()
    where = f"stages.{name}"
    terms = assembly.terms(stage.terms, where=f"{where}.terms")
    check_names(networks, terms_trained(terms), where=f"{where}.terms")
    views = assembly.views(stage.views, where=f"{where}.views")
    return Training(
        networks,
        assembly.phases(terms, stage.phases, views, where=f"{where}.phases"),
        iterations,
        draw,
        views=views,
        followers={key: view for key, view in views.items() if isinstance(view, Follower)},
        seed=assembly.seed_of(recipe, name),
        precision=recipe.precision,
        world=world,
        examine_every=stage.log_every,
        guard=Guard(stage.on_non_finite),
        classes=recipe.classes().classes,
    )


def load_from(networks: Networks, stage: TrainStage, work_dir: Path, *, where: str) -> None:
    """Fills networks, weights only, from earlier stages by name, files or work_dirs.

    Raises:
        SegueError: no such stage or file, weights of another network, or of several.
    """
    for name, settings in stage.networks.items():
        if settings.load_from is not None:
            path = weights_file(
                settings.load_from, name, work_dir, where=f"{where}.{name}.load_from"
            )
            load_weights(networks[name], path, minimum=1.0)


def weights_file(source: str, network: str, work_dir: Path, *, where: str) -> Path:
    """The file that `load_from` names: `STAGE`, `STAGE/NETWORK`, a file, or a run's work_dir.

    Raises:
        SegueError: there is none, or a work_dir holds several models.
    """
    stage, _, other = source.partition("/")
    wanted = other or network
    inside = FILE if wanted == "segmenter" else f"{NETWORKS}/{wanted}.safetensors"
    left = work_dir / stage / inside
    if left.is_file():
        return left
    given = Path(source)
    if not given.exists():
        fix = "name an earlier stage that leaves one, a weights file or a work_dir"
        raise SegueError(f"{source} has no network {network!r}", where=where, fix=fix)
    if given.is_file():
        return given
    path, *others = files(given)
    if others:
        fix = f"name one of its stages: {path.parent}"
        raise SegueError(f"{source} holds several models", where=where, fix=fix)
    return path


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
            console.print(f"{name} {network.describe()}", highlight=False, markup=False)


def save_networks(recipe: Recipe, stage: TrainStage, networks: Networks, folder: Path) -> None:
    """Writes the trained segmenter with all that is needed to use it, and the other networks."""
    for name, network in networks.items():
        if networks.table[name].optimiser is None:
            continue
        if not isinstance(network, Segmenter):
            save_weights(network, folder / NETWORKS / f"{name}.safetensors")
            continue
        described = stage.networks[name]
        settings = {"kind": described.kind, **described.arguments, "weights": None}
        role = stage.target or stage.source
        model = Model(
            network,
            recipe.classes(),
            role.size,
            settings,
            {"main": 1.0},
            policy=stage.policy,
            range=assembly.image_range(recipe, role.data),
        )
        model.save(folder / FILE)
