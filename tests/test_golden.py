"""Every shipped recipe runs two steps: a new one is tested by being there."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from segue.datasets.derived import image_paths, label_paths
from segue.datasets.reading import read_image, read_raw_label
from segue.figures import figure
from segue.inference.evaluation import Evaluation
from segue.label_space import IGNORE
from segue.recipe import build as assembly
from segue.recipe.files import shipped, unexpanded
from segue.recipe.recipe import (
    CentresStage,
    EvaluateStage,
    GroupsStage,
    PseudoLabelStage,
    Recipe,
    TrainStage,
    TranslateStage,
)
from segue.running.run import run
from segue.stages.train import load_from
from segue.storage import checkpoint
from segue.storage.whole import read_rows
from segue.training.networks import Networks
from segue.work_dir import load as load_model


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Half of a second for each; test_pseudo_label_stage.py looks at them."""
    monkeypatch.setattr(figure, "save", lambda *_: None)


def once_at_paper_scale(name: str) -> list[str]:
    """One round where the same rounds are run twice at another scale."""
    rounds = "rounds" in unexpanded(name)["stages"] and name.endswith(("-gta5", "-synthia"))
    return ["stages.rounds.repeat=1"] if rounds else []


@pytest.mark.parametrize("name", shipped())
def test_two_steps(name, tiny_recipe, tmp_path):
    recipe = tiny_recipe(name, *once_at_paper_scale(name))
    run(recipe, tmp_path)
    for key, stage in recipe.stages.items():
        match stage:
            case TrainStage():
                check_trained(recipe, key, stage, tmp_path)
            case TranslateStage():
                check_translated(recipe, key, stage, tmp_path)
            case PseudoLabelStage():
                check_pseudo_labelled(recipe, key, stage, tmp_path)
            case CentresStage():
                check_centres(recipe, key, stage, tmp_path)
            case GroupsStage():
                check_groups(key, tmp_path)
            case EvaluateStage():
                check_evaluated(recipe, key, stage, tmp_path)
    assert load_model(tmp_path).label_space == recipe.classes()
    before = stamps(recipe, tmp_path)
    run(recipe, tmp_path)
    assert stamps(recipe, tmp_path) == before, "a finished stage is not touched again"


def test_networks_that_nothing_trains_stay_as_they_are(tiny_recipe, tmp_path):
    idle = (
        "stages.train.networks.idle={kind: discriminator}",
        "stages.train.networks.waiting={kind: discriminator, optimiser: {kind: adam, lr: 1.0}}",
        "stages.train.networks.teacher={kind: deeplab_v2, backbone: test_resnet}",
    )
    recipe = tiny_recipe("advent-demo", *idle)
    run(recipe, tmp_path)
    stage = recipe.stages["train"]
    assert check_trained(recipe, "train", stage, tmp_path) == {
        *("segmenter", "discriminator", "discriminator_layer3")
    }


def check_trained(recipe: Recipe, key: str, stage: TrainStage, work_dir: Path) -> set[str]:
    """Losses are finite; what a phase trains has changed, all else not by a bit."""
    rows = read_rows(work_dir / key / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    terms = assembly.terms(stage.terms, where="")
    assert {f"loss/{term.name}" for term in terms} <= rows[0].keys()

    networks = assembly.networks(recipe, key, stage)
    load_from(networks, stage, work_dir, where="")
    path = checkpoint.path_of(work_dir / key / "checkpoints", tiny.ITERATIONS)
    after = checkpoint.load(path)["networks"]
    phases = assembly.phases(terms, stage.phases, {}, where="")
    trained = {name for phase in phases for name in phase.trains}
    assert changed(networks, after) == trained
    for name in trained:
        trainable = {id(parameter) for parameter in networks.table[name].trainable()}
        moved = [
            not torch.equal(parameter, after[name]["module"][inside])
            for inside, parameter in networks[name].named_parameters()
            if id(parameter) in trainable
        ]
        # A second head without a term of its own may rest.
        assert sum(moved) >= 0.9 * len(moved), name
    return trained


def changed(networks: Networks, after: dict) -> set[str]:
    """Names of networks of which any parameter or buffer differs."""
    return {
        name
        for name, module in networks.items()
        for key, value in module.state_dict().items()
        if not torch.equal(value, after[name]["module"][key])
    }


def check_evaluated(recipe: Recipe, key: str, stage: EvaluateStage, work_dir: Path) -> None:
    result = Evaluation.read(work_dir / key / "evaluation.json")
    assert list(result.miou) == recipe.shown_protocols()
    if recipe.protocols:
        assert list(result.miou) == recipe.protocols
    assert result.classes == recipe.classes().classes
    assert result.images == len(assembly.dataset(recipe, stage.data, labels=True)) > 1
    assert 0 < result.confusion.sum() <= result.images * math.prod(tiny.FILES)
    told = json.loads((work_dir / key / "evaluation.json").read_text())
    assert told["miou"].keys() == set(recipe.shown_protocols())


def check_translated(recipe: Recipe, key: str, stage: TranslateStage, work_dir: Path) -> None:
    """An image of the stage's size for each of the dataset's, none of them what it was."""
    dataset = assembly.dataset(recipe, stage.data, labels=False)
    paths = image_paths(dataset, work_dir / key)
    assert set((work_dir / key / "images").rglob("*.*")) == set(paths)
    for index, path in enumerate(paths):
        image = read_image(path)
        assert image.size == tuple(tiny.SIZE)
        assert not np.array_equal(np.array(image), dataset.image(index, stage.size))


def check_pseudo_labelled(recipe: Recipe, key: str, stage: PseudoLabelStage, work_dir: Path):
    """A label of train ids for each image, and numbers that are told of them."""
    dataset = assembly.dataset(recipe, stage.data, labels=False)
    paths = label_paths(dataset, work_dir / key)
    assert set((work_dir / key / "labels").rglob("*.*")) == set(paths)
    known = {*range(recipe.classes().num_classes), IGNORE}
    labels = [read_raw_label(path) for path in paths]
    assert all(label.shape == tuple(tiny.SIZE[::-1]) for label in labels)
    assert {int(value) for label in labels for value in np.unique(label)} <= known
    told = json.loads((work_dir / key / "pseudo_labels.json").read_text())
    assert told["images"] == len(paths) > 1


def check_centres(recipe: Recipe, key: str, stage: CentresStage, work_dir: Path) -> None:
    """A centre of length 1 for each class that the source shows, none for any other."""
    centres = load_file(work_dir / key / "networks/centres.safetensors")
    assert centres["value"].shape[0] == recipe.classes().num_classes
    seen = centres["count"] > 0
    assert seen.any()
    torch.testing.assert_close(centres["value"].norm(dim=1), seen.float())
    source = assembly.dataset(recipe, stage.source.data, labels=True, work_dir=work_dir)
    shown = {int(value) for i in range(len(source)) for value in np.unique(source.label(i))}
    assert set(seen.nonzero().flatten().tolist()) <= shown


def check_groups(key: str, work_dir: Path) -> None:
    """A network that a train stage can load."""
    (path,) = (work_dir / key / "networks").glob("*.safetensors")
    assert all(value.isfinite().all() for value in load_file(path).values())


def stamps(recipe: Recipe, work_dir: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of each file that a stage has left."""
    files = [path for name in recipe.stages for path in sorted((work_dir / name).rglob("*"))]
    assert files
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
