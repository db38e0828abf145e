"""Shipped recipes made small enough to run whole in a second, on data written for the tests."""

import inspect
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from dataset_files import random_image, save_image, save_synthia
from PIL import Image

from segue import recipe
from segue.demo.worlds import write_worlds
from segue.models.table import NETWORKS
from segue.recipe import files as recipe_files
from segue.recipe.recipe import (
    CentresStage,
    GroupsStage,
    NetworkSettings,
    Recipe,
    TrainStage,
    TranslateStage,
)
from segue.recipe.schema import Drawn, Stage

FILES = (64, 32)  # width, height of the files
SIZE = [96, 48]  # what recipes resize them to
PATCH = 32  # the smallest that five strides of 2 leave something of
ITERATIONS = 2
ROUNDS = 2  # of self-training: the second goes on from the first
WIDTH, GROUPS = 8, 2
RATE = 2.5e-3
CHANNELS = {"deeplab_v2": 96}  # of test_resnet's last stage, which that decoder reads itself


@dataclass(frozen=True)
class Data:
    """Folders in the layouts that shipped recipes read."""

    root: Path

    def folder(self, settings: dict) -> str:
        """Where the dataset of these settings lies."""
        if settings["kind"] == "folder":
            return str(self.root / Path(settings["root"]).name)
        return str(self.root / {"cityscapes": "worlds/target", "gta5": "worlds/source"}.get(
            settings["kind"], settings["kind"]
        ))  # fmt: skip

    @property
    def target(self) -> Path:
        """The unlabelled world, in Cityscapes' layout."""
        return self.root / "worlds" / "target"


def write_data(root: Path) -> Data:
    """Writes a handful of images of every kind."""
    write_worlds(root / "worlds", source=6, target_train=6, target_val=4, size=FILES)
    for index in range(6):
        save_image(root / f"synthia/RGB/{index:07}.png", random_image(index, FILES))
        save_synthia(root / f"synthia/GT/LABELS/{index:07}.png", blocks(index, 23))
    for number, stem in enumerate(stems("carla")):
        _write_pair(root / "carla", "", stem, number, 13)
    for split in ("train", "val"):
        # Not the source's images: one in the style of itself stays as it is.
        for number, stem in enumerate(stems("camvid"), 100):
            _write_pair(root / "camvid", split, stem, number, 12)
    return Data(root)


def stems(folder: str) -> list[str]:
    """Names of images, those among them at which a shipped recipe begins or ends."""
    named = {
        settings[end]
        for settings in _described()
        if Path(settings["root"]).name == folder
        for end in ("first", "last")
        if end in settings
    }
    # docs/results.md scores on what comes after those that recipes name.
    return ["000_0000", "000_0001", *sorted(named), "000_0440", "zzz_0000", "zzz_0001"]


@cache
def _described() -> list[dict]:
    """How shipped recipes describe each of their datasets."""
    resolved = [recipe_files.resolve(name) for name in recipe_files.shipped()]
    return [settings for one in resolved for settings in one["data"].values()]


def blocks(seed: int, ids: int) -> np.ndarray:
    """Random ids in squares of 8 pixels."""
    width, height = FILES
    coarse = np.random.default_rng(seed).integers(0, ids, (height // 8, width // 8))
    return coarse.astype(np.uint8).repeat(8, 0).repeat(8, 1)


def _write_pair(root: Path, split: str, stem: str, seed: int, ids: int) -> None:
    image = root / "images" / split / f"{stem}.jpg"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image(seed, FILES)).save(image)
    save_image(root / "labels" / split / f"{stem}.png", blocks(seed, ids))


def overrides(name: str, data: Data, *more: str, on: str | None = None) -> list[str]:
    """`key=value`s that shrink a shipped recipe and keep its structure, and more laid over them.

    Stages, views, heads, losses, their weights, rules and optimisers stay as they are; SGD's rates
    are raised to where float32 sees two steps, of rounds there are two at most. `more` may change
    which stages there are.
    """
    fewer = fewer_rounds(name)
    return [*fewer, *shrunk(recipe.load(name, [*fewer, *more], on=on), data), *more]


def shrunk(whole: Recipe, data: Data) -> list[str]:
    """`key=value`s that shrink everything in a recipe but its number of rounds."""
    set_to: dict[str, object] = {"device": "cpu", "workers": 0}
    for key, settings in whole.data.items():
        set_to[f"data.{key}.root"] = data.folder(settings)
    for key, stage in whole.stages.items():
        set_to |= {f"stages.{key}.{inner}": value for inner, value in _stage(whole, stage).items()}
    return [f"{key}={json.dumps(value)}" for key, value in set_to.items()]


def fewer_rounds(name: str) -> list[str]:
    """Of self-training: `ROUNDS` at most."""
    stages = recipe_files.unexpanded(name)["stages"]
    repeated = {key: stage["repeat"] for key, stage in stages.items() if "repeat" in stage}
    return [f"stages.{key}.repeat={min(count, ROUNDS)}" for key, count in repeated.items()]


def _stage(whole: Recipe, stage: Stage) -> dict[str, object]:
    match stage:
        case TrainStage():
            return _roles(stage) | _train(stage)
        case CentresStage() | GroupsStage():
            few = {"groups": min(stage.groups, GROUPS)} if isinstance(stage, GroupsStage) else {}
            return _roles(stage) | few
        case TranslateStage(by={"kind": "generator", "load_from": source, "network": network}):
            made = _network(whole.stages[source].networks[network], centres=None)
            return {"size": SIZE} | {f"by.{key}": made[key] for key in ("width", "blocks")}
    return {"size": SIZE}


def _roles(stage: Drawn) -> dict[str, object]:
    set_to: dict[str, object] = {}
    for key, role in (("source", stage.source), ("target", stage.target)):
        if role is None:
            continue
        set_to[f"{key}.size"] = SIZE
        if role.augment:
            set_to[f"{key}.augment"] = [_smaller(part) for part in role.augment]
    return set_to


def _train(stage: TrainStage) -> dict[str, object]:
    set_to: dict[str, object] = {
        "iterations": ITERATIONS,
        "batch_size": min(stage.batch_size, 2),
        "log_every": 1,
    }
    segmenter = stage.networks.get("segmenter")
    of_segmenter = CHANNELS.get(segmenter.kind) if segmenter is not None else None
    for key, network in stage.networks.items():
        small = _network(network, centres=of_segmenter)
        set_to |= {f"networks.{key}.{argument}": value for argument, value in small.items()}
    for key, term in stage.terms.items():
        if term.arguments.get("patch") is not None:
            set_to[f"terms.{key}.patch"] = PATCH
    return set_to


def _network(network: NetworkSettings, *, centres: int | None) -> dict[str, object]:
    """Arguments that make a network small and leave what it is made of."""
    told = network.arguments
    small: dict[str, object] = {}
    for argument in ("backbone", "encoder"):
        if argument in told:
            small[argument] = "test_resnet"
    if told.get("weights") is not None:
        small["weights"] = None
    known = inspect.signature(NETWORKS[network.kind]).parameters
    match network.optimiser:
        case {"kind": "sgd", "lr": rate}:
            small["optimiser.lr"] = max(rate, RATE)
    if "widths" in known:
        widths = told.get("widths", known["widths"].default)
        small["widths"] = [WIDTH] * len(widths)
    if "width" in known:
        small["width"] = WIDTH
    if "blocks" in known:
        small["blocks"] = 1
    if "groups" in known:
        small["groups"] = min(told.get("groups", GROUPS), GROUPS)
    if network.kind == "centres" and centres is not None:
        small["channels"] = centres
    return small


def _smaller(part):
    cropped = isinstance(part, dict) and part["kind"] == "random_crop"
    return {**part, "size": [PATCH, PATCH]} if cropped else part
