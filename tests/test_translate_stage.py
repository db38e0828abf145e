"""The stage that translates: what it writes, how it goes on, what it never opens."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import random_ids, random_image, save_image
from PIL import Image
from rich.console import Console

from segue import recipe
from segue.datasets import Dataset
from segue.datasets.derived import image_paths
from segue.errors import SegueError
from segue.recipe import build as assembly
from segue.runtime.processes import World
from segue.stages import translate
from segue.translation.photometric import Photometric

SIZE = (40, 24)
COUNT = 7
SETTINGS = """
name: aligned
device: cpu
label_space: {{classes: [road, sky, car]}}
data:
  source:
    kind: folder
    root: {root}/source
    images: "images/**/*.png"
    labels: "labels/{{parent}}/{{stem}}.png"
  target: {{kind: folder, root: {root}/target, images: "images/*.png"}}
stages:
  aligned: {{kind: translate, data: source, towards: target, size: [40, 24], by: {by}}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two folders of pictures of different sizes; the source has labels of its own."""
    root = tmp_path_factory.mktemp("data")
    for index in range(COUNT):
        place = f"{'a' if index % 2 else 'b'}/{index}.png"
        smooth = random_image(index, (6, 4)).repeat(9, 0).repeat(9, 1)
        save_image(root / "source/images" / place, smooth)
        save_image(root / "source/labels" / place, random_ids(index, (54, 36), 3))
    for index in range(4):
        save_image(root / f"target/images/{index}.png", random_image(index + 50, (30, 20)) // 2)
    return root


def load(root, tmp_path, by="photometric", *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(SETTINGS.format(root=root, by=by))
    return recipe.load(path, overrides)


def run(loaded, work_dir, world=World(), console=None):  # noqa: B008
    stage = loaded.stages["aligned"]
    translate.run(loaded, "aligned", stage, work_dir, world=world, console=console)


def written(work_dir):
    folder = work_dir / "aligned"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_image_is_written_in_the_style_of_its_reference(root, tmp_path):
    loaded = load(root, tmp_path)
    run(loaded, tmp_path)
    source, target = (assembly.dataset(loaded, one, labels=False) for one in ("source", "target"))
    jobs = translate.plan(source, target, tmp_path / "aligned", seed=loaded.seed)
    assert [job.path for job in jobs] == image_paths(source, tmp_path / "aligned")
    for job in jobs:
        images = [source.image(job.index, SIZE), target.image(job.reference, SIZE)]
        tensors = [torch.from_numpy(one).permute(2, 0, 1)[None] / 255 for one in images]
        expected = (Photometric()(*tensors)[0] * 255).round().byte().permute(1, 2, 0).numpy()
        with Image.open(job.path) as image:
            assert (image.mode, image.size) == ("RGB", SIZE)
            assert np.array_equal(np.array(image), expected)


def test_the_stage_is_a_dataset_with_its_labels(root, tmp_path):
    loaded = load(root, tmp_path)
    run(loaded, tmp_path)
    made = assembly.dataset(loaded, "aligned", labels=True, work_dir=tmp_path)
    assert len(made) == COUNT
    assert made.image(0).shape == (24, 40, 3)
    assert made.label(0, SIZE).shape == (24, 40)


def test_nothing_else_is_left(root, tmp_path):
    run(load(root, tmp_path), tmp_path)
    names = sorted(written(tmp_path))
    expected = [f"images/{'a' if index % 2 else 'b'}/{index}.png" for index in range(COUNT)]
    assert names == sorted(expected)


def test_references_follow_from_seed_stage_and_index(root, tmp_path):
    loaded = load(root, tmp_path)
    source, target = (assembly.dataset(loaded, one, labels=False) for one in ("source", "target"))

    def drawn(name, seed):
        return [job.reference for job in translate.plan(source, target, Path(name), seed=seed)]

    assert drawn("one", 0) == drawn("elsewhere/one", 0)
    assert len({tuple(drawn(*which)) for which in (("one", 0), ("two", 0), ("one", 1))}) == 3
    every = {one for seed in range(20) for one in drawn("one", seed)}
    assert every == set(range(4))


@pytest.mark.parametrize("left", [0, 3, COUNT])
def test_going_on_gives_the_same_and_keeps_what_is_there(root, tmp_path, left):
    loaded = load(root, tmp_path)
    run(loaded, tmp_path / "whole")
    run(loaded, tmp_path / "again")
    for name in sorted(written(tmp_path / "again"))[left:]:
        (tmp_path / "again/aligned" / name).unlink()
    kept = [path for path in (tmp_path / "again/aligned").rglob("*.png")]
    for path in kept:
        path.write_bytes(path.read_bytes() + b"kept")
    run(loaded, tmp_path / "again")
    for path in kept:
        path.write_bytes(path.read_bytes().removesuffix(b"kept"))
    assert len(kept) == left
    assert written(tmp_path / "again") == written(tmp_path / "whole")


def test_a_run_that_breaks_leaves_whole_files_and_goes_on(root, tmp_path, monkeypatch):
    loaded, read = load(root, tmp_path), Dataset.image
    damaged = assembly.dataset(loaded, "source", labels=False).items[5].image

    def image(self, index, size=None):
        if self.items[index].image == damaged:
            raise SegueError("is damaged", where=damaged)
        return read(self, index, size)

    run(loaded, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "image", image)
        with pytest.raises(SegueError, match="is damaged"):
            run(loaded, tmp_path / "again")
    whole, part = written(tmp_path / "whole"), written(tmp_path / "again")
    assert 0 < len(part) < COUNT
    assert part.items() <= whole.items()
    run(loaded, tmp_path / "again")
    assert written(tmp_path / "again") == whole


@pytest.mark.parametrize("size", [2, 3, 10])
def test_processes_share_the_work(root, tmp_path, monkeypatch, size):
    monkeypatch.setattr(translate.distributed, "meet", lambda world: None)
    loaded = load(root, tmp_path)
    run(loaded, tmp_path / "one")
    parts = []
    for rank in range(size):
        before = set(written(tmp_path / "many"))
        run(loaded, tmp_path / "many", World(rank, size))
        parts.append(len(set(written(tmp_path / "many")) - before))
    assert max(parts) - min(parts) <= 1
    assert written(tmp_path / "many") == written(tmp_path / "one")


def test_no_label_is_opened(root, tmp_path, monkeypatch):
    def refused(*args):
        raise AssertionError("a label was opened")

    for name in ("label", "raw_label"):
        monkeypatch.setattr(Dataset, name, refused)
    run(load(root, tmp_path), tmp_path)


@pytest.mark.parametrize("by", ["{kind: photometric, scheme: gamma}", "{kind: fourier, beta: 0.1}"])
def test_translations_are_interchangeable(root, tmp_path, by):
    run(load(root, tmp_path), tmp_path / "usual")
    run(load(root, tmp_path, by), tmp_path / "other")
    usual, other = written(tmp_path / "usual"), written(tmp_path / "other")
    assert usual.keys() == other.keys()
    assert all(usual[name] != other[name] for name in usual)


def test_none_writes_the_images_as_they_are_read(root, tmp_path):
    loaded = load(root, tmp_path, "none")
    run(loaded, tmp_path)
    source = assembly.dataset(loaded, "source", labels=False)
    made = assembly.dataset(loaded, "aligned", labels=False, work_dir=tmp_path)
    for index in range(COUNT):
        assert np.array_equal(made.image(index), source.image(index, SIZE))


def test_progress_is_shown(root, tmp_path):
    said = io.StringIO()
    run(load(root, tmp_path), tmp_path, console=Console(file=said, width=120))
    assert f"aligned: {COUNT}/{COUNT}" in said.getvalue()


def test_it_runs_from_a_recipe_once(root, tmp_path):
    from segue.running.run import run as run_all

    loaded = load(root, tmp_path)
    run_all(loaded, tmp_path / "run")
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/aligned").rglob("*.png")}
    run_all(loaded, tmp_path / "run")
    assert len(first) == COUNT
    assert all(path.stat().st_mtime_ns == since for path, since in first.items())
