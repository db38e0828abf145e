"""Shipped recipes made small enough to run whole in a second, on data written for the tests."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dataset_files import random_image, save_image, save_synthia
from PIL import Image

from segue import recipe, recipe_files
from segue.datasets.procedural import write_worlds
from segue.recipe import TrainStage

FILES = (64, 32)  # width, height of the files
SIZE = [96, 48]  # what recipes resize them to
PATCH = 32  # the smallest that five strides of 2 leave something of
ITERATIONS = 2


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
        for number, stem in enumerate(stems("camvid")):
            _write_pair(root / "camvid", split, stem, number, 12)
    return Data(root)


def stems(folder: str) -> list[str]:
    """Names of images, those among them at which a shipped recipe begins or ends."""
    loaded = (recipe.load(name) for name in recipe_files.shipped())
    described = [settings for one in loaded for settings in one.data.values()]
    named = {
        settings[end]
        for settings in described
        if Path(settings["root"]).name == folder
        for end in ("first", "last")
        if end in settings
    }
    return ["000_0000", "000_0001", *sorted(named), "zzz_0000", "zzz_0001"]


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


def overrides(name: str, data: Data) -> list[str]:
    """`key=value`s that shrink a shipped recipe and keep its structure.

    Heads, discriminators, losses, their weights and all optimisers stay as they are.
    """
    whole = recipe.load(name)
    set_to: dict[str, object] = {"device": "cpu", "workers": 0}
    for key, settings in whole.data.items():
        set_to[f"data.{key}.root"] = data.folder(settings)
    for key, stage in whole.stages.items():
        at = f"stages.{key}"
        if isinstance(stage, TrainStage):
            set_to |= {f"{at}.{inner}": value for inner, value in _train(stage).items()}
        else:
            set_to[f"{at}.size"] = SIZE
    return [f"{key}={json.dumps(value)}" for key, value in set_to.items()]


def _train(stage: TrainStage) -> dict[str, object]:
    set_to: dict[str, object] = {
        "iterations": ITERATIONS,
        "batch_size": min(stage.batch_size, 2),
        "log_every": 1,
    }
    for key, role in (("source", stage.source), ("target", stage.target)):
        if role is None:
            continue
        set_to[f"{key}.size"] = SIZE
        if role.augment:
            set_to[f"{key}.augment"] = [_smaller(part) for part in role.augment]
    for key, network in stage.networks.items():
        for argument, value in network.arguments.items():
            if argument in ("backbone", "encoder"):
                set_to[f"networks.{key}.{argument}"] = "test_resnet"
            elif argument == "weights" and value is not None:
                set_to[f"networks.{key}.weights"] = None
    for key, term in stage.terms.items():
        if term.arguments.get("patch") is not None:
            set_to[f"terms.{key}.patch"] = PATCH
    return set_to


def _smaller(part):
    cropped = isinstance(part, dict) and part["kind"] == "random_crop"
    return {**part, "size": [PATCH, PATCH]} if cropped else part
