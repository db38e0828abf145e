"""Every shipped recipe runs two steps: a new one is tested by being there."""

import json
import math
from pathlib import Path

import pytest
import tiny
import torch

from segue import assembly, checkpoint
from segue.model import load as load_model
from segue.networks import Networks
from segue.recipe import EvaluateStage, Recipe, TrainStage
from segue.recipe_files import shipped
from segue.running import run
from segue.stages.evaluate import Evaluation
from segue.stages.train import load_from
from segue.tracking import read_rows


@pytest.mark.parametrize("name", shipped())
def test_two_steps(name, tiny_recipe, tmp_path):
    recipe = tiny_recipe(name)
    run(recipe, tmp_path)
    for key, stage in recipe.stages.items():
        if isinstance(stage, TrainStage):
            check_trained(recipe, key, stage, tmp_path)
        else:
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


def stamps(recipe: Recipe, work_dir: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of each file that a stage has left."""
    files = [path for name in recipe.stages for path in sorted((work_dir / name).rglob("*"))]
    assert files
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
