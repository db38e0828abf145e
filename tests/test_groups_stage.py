"""The stage of fixed groupings on tiny data: what it samples, fits, writes and tells."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from segue import recipe
from segue.demo.worlds import write_worlds
from segue.errors import SegueError
from segue.inference import model
from segue.label_space import LABEL_SPACES
from segue.losses.grouping import GroupOrthogonality
from segue.models import MODELS
from segue.models.grouping import dff_grouping, k_means_grouping
from segue.models.grouping_fit import GROUPINGS
from segue.models.weights import load_weights
from segue.recipe import build as assembly
from segue.runtime.processes import World
from segue.stages import groups
from segue.stages.train import weights_file

SIZE = (96, 64)
MODEL = {"kind": "deeplab_v2", "backbone": "test_resnet", "weights": None}
NETWORKS = {"k_means": k_means_grouping, "dff": dff_grouping}
RECIPE = """
name: groups
workers: 0
label_space: cityscapes
data:
  source: {kind: gta5, root: ROOT/source}
  target: {kind: cityscapes, root: ROOT/target, split: train}
stages:
  train:
    kind: train
    iterations: 1
    source: {data: source, size: [96, 64]}
    networks: {segmenter: {kind: deeplab_v2, backbone: test_resnet, optimiser: sgd}}
    terms: {segmentation: {kind: cross_entropy}}
  groups:
    kind: groups
    source: {data: source, size: [96, 64]}
    target: {data: target, size: [96, 64]}
    model: train
    groups: 3
    by: KIND
"""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    write_worlds(root, source=5, target_train=3, target_val=1, size=(64, 32))
    return root


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    """As the train stage leaves it, with a network that was never trained."""
    folder = tmp_path_factory.mktemp("work_dir")
    torch.manual_seed(0)
    settings = {key: value for key, value in MODEL.items() if key != "kind"}
    space = LABEL_SPACES["cityscapes"]
    segmenter = MODELS[MODEL["kind"]](space.num_classes, **settings)
    for parameter in segmenter.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that pixels differ
    path = folder / "train" / model.FILE
    path.parent.mkdir()
    model.Model(segmenter, space, SIZE, MODEL, {"main": 1.0}).save(path)
    return folder


def chosen(worlds, tmp_path, kind="k_means", *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("ROOT", str(worlds)).replace("KIND", kind))
    return recipe.load(path, overrides)


def run(one, work_dir, console=None):
    stage = one.stages["groups"]
    groups.run(one, "groups", stage, work_dir, world=World(), console=console)
    held = load_file(work_dir / "groups/networks/grouping.safetensors")
    return held, json.loads((work_dir / "groups/groups.json").read_text())


def drawn(one, work_dir, seed=0):
    stage = one.stages["groups"]
    roles = {
        name: assembly.reading(one, role, labels=False, work_dir=work_dir)
        for name, role in (("source", stage.source), ("target", stage.target))
    }
    segmenter = model.read(work_dir / "train" / model.FILE).segmenter
    return groups.drawn(
        roles, segmenter, seed=seed, workers=0, world=World(), console=None, title=""
    )


@pytest.mark.parametrize("kind", GROUPINGS)
def test_it_leaves_a_network_that_losses_read(kind, worlds, work_dir, tmp_path):
    one = chosen(worlds, tmp_path, kind)
    held, told = run(one, work_dir)
    network = NETWORKS[kind](19, groups=3)
    path = weights_file("groups", "grouping", work_dir, where="")
    load_weights(network, path, minimum=1.0)
    for name, value in network.state_dict().items():
        assert torch.equal(value, held[name])
        assert torch.isfinite(value).all()
    step = next(drawn(one, work_dir))
    step._networks["grouping"] = network
    value = GroupOrthogonality(learnt=False)(step)
    value.backward()
    assert torch.isfinite(value)
    assert told["pixels"] == {"source": 500, "target": 500}
    for share in told["share"].values():
        assert sum(share) == pytest.approx(1, abs=1e-5)
        assert len(share) == 3
    for mix in told["mix"]:
        assert mix is None or sum(mix) == pytest.approx(1, abs=1e-4)


def test_it_tells_of_the_pixels_that_it_sampled(worlds, work_dir, tmp_path):
    one = chosen(worlds, tmp_path)
    held, told = run(one, work_dir)
    seed = assembly.seed_of(one, "groups")
    samples = groups.sample(drawn(one, work_dir, seed))
    centres = held["centres"].numpy()
    for domain, vectors in samples.items():
        nearest = ((vectors[:, None] - centres) ** 2).sum(2).argmin(1)
        counted = [(nearest == k).mean() for k in range(3)]
        assert told["share"][domain] == pytest.approx(counted, abs=1e-5)
    both = np.concatenate(list(samples.values()))
    nearest = ((both[:, None] - centres) ** 2).sum(2).argmin(1)
    for k in range(3):
        assert told["mix"][k] == pytest.approx(both[nearest == k].mean(0).tolist(), abs=1e-5)
        # K-means has converged: each centre is the mean of what is nearest to it.
        assert told["mix"][k] == pytest.approx(centres[k].tolist(), abs=1e-2)


def test_a_sample_is_bounded_and_follows_from_the_seed(worlds, work_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "PIXELS", 7)
    monkeypatch.setattr(groups, "IMAGES", 4)
    one = chosen(worlds, tmp_path)
    first, again, other = (groups.sample(drawn(one, work_dir, s)) for s in (1, 1, 2))
    assert list(first) == ["source", "target"]
    for domain in first:
        assert first[domain].shape == (4 * 7, 19)
        np.testing.assert_allclose(first[domain].sum(1), 1, atol=1e-5)
        np.testing.assert_array_equal(first[domain], again[domain])
        assert not np.array_equal(first[domain], other[domain])


def test_a_sample_holds_the_probabilities_of_the_model_in_use(worlds, work_dir, tmp_path):
    one = chosen(worlds, tmp_path)
    (step, *_) = drawn(one, work_dir)
    segmenter = model.read(work_dir / "train" / model.FILE).segmenter
    with torch.no_grad():
        logits = segmenter(step.target.image).logits["main"]
    whole = segmenter.upsample(logits, step.target.size).softmax(1)[0].flatten(1).T.numpy()
    found = groups.sample([step])["target"]
    assert len(np.unique(found, axis=0)) > 90
    for vector in found[:10]:
        assert np.abs(whole - vector).max(1).min() < 1e-6


def test_no_label_is_opened(worlds, work_dir, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a label was opened")

    monkeypatch.setattr("segue.datasets.Dataset.label", refuse)
    run(chosen(worlds, tmp_path), work_dir)


def test_it_says_one_line(worlds, work_dir, tmp_path):
    console = Console(width=400, file=io.StringIO())
    _, told = run(chosen(worlds, tmp_path), work_dir, console)
    *_, line = console.file.getvalue().strip().splitlines()
    assert line.startswith("groups: source and target by group: ")
    assert line.count(" %") == 3
    strongest = told["classes"][int(np.argmax(told["mix"][0]))]
    assert f": {strongest} {100 * told['share']['source'][0]:.0f}/" in line


def test_only_the_leading_process_works(worlds, work_dir, tmp_path):
    one = chosen(worlds, tmp_path)
    groups.run(
        one, "groups", one.stages["groups"], tmp_path / "none", world=World(1, 2), console=None
    )
    assert not (tmp_path / "none").exists()


def test_settings_are_refused_before_anything_runs(worlds, tmp_path):
    with pytest.raises(SegueError, match="unknown grouping 'k_mean'; did you mean 'k_means'"):
        chosen(worlds, tmp_path, "k_mean")
    with pytest.raises(SegueError, match="restart"):
        chosen(worlds, tmp_path, "{kind: k_means, restart: 3}")


def test_a_model_that_says_the_same_everywhere_is_told(worlds, work_dir, tmp_path):
    with pytest.raises(SegueError, match="different pixels do not make 4000 groups"):
        run(chosen(worlds, tmp_path, "k_means", "stages.groups.groups=4000"), work_dir)
