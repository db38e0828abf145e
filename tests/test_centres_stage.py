"""The stage of category centres against a plain computation on tiny data."""

import io
import json
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from segue import recipe
from segue.batch import Batch
from segue.demo.worlds import write_worlds
from segue.errors import SegueError
from segue.inference import model
from segue.models import MODELS
from segue.models.centres import centres as centres_network
from segue.models.weights import load_weights
from segue.recipe import build as assembly
from segue.runtime.processes import World
from segue.stages import centres

SIZE = (96, 64)
MODEL = {"kind": "deeplab_v3_plus", "encoder": "test_resnet", "weights": None}
RECIPE = """
name: centres
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
    networks: {segmenter: {kind: deeplab_v3_plus, encoder: test_resnet, optimiser: sgd}}
    terms: {segmentation: {kind: cross_entropy}}
  centres:
    kind: centres
    source: {data: source, size: [96, 64]}
    target: {data: target, size: [96, 64]}
    model: train
"""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    write_worlds(root, source=6, target_train=4, target_val=1, size=(64, 32))
    return root


@pytest.fixture
def chosen(worlds, tmp_path):
    """A recipe with a stage of centres after its train stage."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("ROOT", str(worlds)))
    return recipe.load(path)


@pytest.fixture
def work_dir(chosen, tmp_path):
    """As the train stage leaves it, with a network that was never trained."""
    space = chosen.classes()
    torch.manual_seed(0)
    settings = {key: value for key, value in MODEL.items() if key != "kind"}
    segmenter = MODELS[MODEL["kind"]](space.num_classes, **settings)
    for name, buffer in segmenter.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()  # so that batch statistics would give something else
    path = tmp_path / "train" / model.FILE
    path.parent.mkdir()
    model.Model(segmenter, space, SIZE, MODEL, {"main": 1.0}).save(path)
    return tmp_path


def run(chosen, work_dir, console=None):
    stage = chosen.stages["centres"]
    centres.run(chosen, "centres", stage, work_dir, world=World(), console=console)
    folder = work_dir / "centres"
    told = json.loads((folder / "centres.json").read_text())
    return load_file(folder / "networks/centres.safetensors"), told


def by_hand(chosen, work_dir):
    """Each image, each pixel of the feature's grid: sums, then directions, in float64."""
    segmenter = model.read(work_dir / "train" / model.FILE).segmenter
    classes = chosen.classes().num_classes
    dataset = assembly.dataset(chosen, "source", labels=True)
    sums, counts = None, np.zeros(classes, int)
    for index in range(len(dataset)):
        image = torch.tensor(dataset.image(index, SIZE)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            (feature,) = segmenter(image).features["penultimate"].double().numpy()
        label = dataset.label(index, SIZE)
        sums = np.zeros((classes, len(feature))) if sums is None else sums
        for y, x in np.ndindex(*feature.shape[1:]):
            row = int((y + 0.5) * label.shape[0] / feature.shape[1])
            column = int((x + 0.5) * label.shape[1] / feature.shape[2])
            if label[row, column] != 255:
                sums[label[row, column]] += feature[:, y, x]
                counts[label[row, column]] += 1
    found = np.zeros_like(sums)
    for c in range(classes):
        if counts[c]:
            mean = sums[c] / counts[c]
            found[c] = mean / math.sqrt((mean**2).sum())
    return found, counts


def test_equation_3(chosen, work_dir):
    held, told = run(chosen, work_dir)
    expected, counts = by_hand(chosen, work_dir)
    assert held.keys() == {"value", "count"}
    np.testing.assert_array_equal(held["count"].numpy(), counts)
    assert 0 < counts.astype(bool).sum() < len(counts), "some classes are absent"
    np.testing.assert_allclose(held["value"].numpy(), expected, rtol=0, atol=1e-6)
    lengths = held["value"].double().norm(dim=1).numpy()
    np.testing.assert_allclose(lengths, counts.astype(bool), atol=1e-6)
    assert told["classes"] == list(chosen.classes().classes)
    assert told["pixels"] == counts.tolist()
    for a, b in np.ndindex(len(counts), len(counts)):
        if counts[a] and counts[b]:
            distance = math.sqrt(((expected[a] - expected[b]) ** 2).sum())
            assert told["distances"][a][b] == pytest.approx(distance, abs=1e-5)
        else:
            assert told["distances"][a][b] is None


def test_the_file_fills_the_network_that_losses_read(chosen, work_dir):
    held, _ = run(chosen, work_dir)
    network = centres_network(len(held["count"]))
    load_weights(network, work_dir / "centres/networks/centres.safetensors", minimum=1.0)
    assert torch.equal(network.value, held["value"])
    assert torch.equal(network.present(), held["count"] > 0)


def test_it_says_one_line(chosen, work_dir):
    console = Console(width=400, file=io.StringIO())
    _, told = run(chosen, work_dir, console)
    *_, line = console.file.getvalue().strip().splitlines()
    seen = sum(count > 0 for count in told["pixels"])
    assert line.startswith(f"centres: centres of {seen} classes, nearest ")
    assert line.count("none of") == 1


@dataclass(frozen=True)
class Noisy:
    """Source images changed at random, with something of the target's in them."""

    parents = ()
    names: ClassVar[list] = []

    def __call__(self, step):
        noise = torch.rand(step.source.image.shape, generator=step.random("noise", image=0))
        self.names.append((step.source.names, step.target.names, float(noise.sum())))
        mixed = (step.source.image + noise + step.target.image) / 3
        return Batch(mixed, step.source.label)


def summed(chosen, work_dir, world, size):
    segmenter = model.read(work_dir / "train" / model.FILE).segmenter
    stage = chosen.stages["centres"]
    steps = centres.epoch(
        assembly.readings(chosen, stage, work_dir),
        {"noisy": Noisy()},
        segmenter,
        seed=3,
        workers=0,
        world=World(world, size),
        console=None,
        title="",
    )
    return centres.sum_features(steps, "noisy", "penultimate", where="")


def test_processes_share_the_images_and_draw_what_one_would(chosen, work_dir):
    """Six images over one, two, four and seven processes, a view with random draws."""
    images = len(assembly.dataset(chosen, "source", labels=True))
    found = {}
    for size in (1, 2, 4, images + 1):
        Noisy.names.clear()
        parts = [summed(chosen, work_dir, rank, size) for rank in range(size)]
        found[size] = ([one for one in parts if one is not None], sorted(Noisy.names))
    (((sums, counts),), seen) = found[1]
    assert len({source for source, _, _ in seen}) == len(seen) == images, "each exactly once"
    assert len({noise for _, _, noise in seen}) == images, "each with its own noise"
    for parts, names in found.values():
        assert names == seen
        assert torch.equal(sum(count for _, count in parts), counts)
        torch.testing.assert_close(sum(one for one, _ in parts), sums, rtol=1e-13, atol=1e-10)


def test_every_process_merges_what_all_found(chosen, work_dir, monkeypatch):
    alone, _ = run(chosen, work_dir)
    sums, counts = torch.tensor([[3.0, 4.0]]).double(), torch.tensor([7])
    parts = [(sums, counts), None, (sums * 2, counts + 1)]
    monkeypatch.setattr(centres.distributed, "gather", lambda mine, world: parts)
    monkeypatch.setattr(centres, "summary", lambda held, classes: str(held.count.tolist()))
    centres.run(chosen, "centres", chosen.stages["centres"], work_dir, world=World(), console=None)
    merged = load_file(work_dir / "centres/networks/centres.safetensors")
    assert merged["count"].tolist() == [15]
    torch.testing.assert_close(merged["value"], torch.tensor([[0.6, 0.8]]))
    assert alone["value"].shape != merged["value"].shape


def test_a_view_without_labels_is_told(chosen, work_dir):
    stage = chosen.stages["centres"].model_copy(update={"view": "target"})
    with pytest.raises(SegueError, match=r"stages.centres.view: view 'target' has no labels"):
        centres.run(chosen, "centres", stage, work_dir, world=World(), console=None)


def test_a_share_of_the_source_is_gone_through_once(chosen, work_dir):
    stage = chosen.stages["centres"]
    source = stage.source.model_copy(update={"share": 0.5})
    readings = assembly.readings(chosen, stage.model_copy(update={"source": source}), work_dir)
    segmenter = model.read(work_dir / "train" / model.FILE).segmenter
    steps = list(
        centres.epoch(
            readings, {}, segmenter, seed=0, workers=0, world=World(), console=None, title=""
        )
    )
    names = [step.source.names for step in steps]
    assert len(set(names)) == len(names) == len(readings["source"].dataset) // 2
