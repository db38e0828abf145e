"""Datasets that stages make: where their files lie, and what is read of them."""

import numpy as np
import pytest
from dataset_files import random_image, save_image

from segue.datasets.dataset import Dataset, Item, id_table
from segue.datasets.derived import image_paths, label_paths, pseudo_labelled, translated
from segue.errors import SegueError
from segue.label_space import CITYSCAPES, IGNORE
from segue.recipe import build as assembly
from segue.recipe import load


def dataset(root, *names, labels=False):
    """A dataset of these images, whose labels hold the raw id 7."""
    items = []
    for number, name in enumerate(names):
        image = root / name
        label = root.parent / "gt" / f"{number}.png" if labels else None
        save_image(image, random_image(number, (6, 4)))
        if label is not None:
            save_image(label, np.full((4, 6), 7, np.uint8))
        items.append(Item(image, label))
    return Dataset("whole", tuple(items), CITYSCAPES, id_table({7: 0}, CITYSCAPES), "refuse")


def inside(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def fill(paths, value, size=(3, 2)):
    for path in paths:
        save_image(path, np.full(size[::-1], value, np.uint8))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "b.jpg"], ["a.png", "b.png"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg.png", "a.png.png", "b.png"]),
        (
            ["val/x/1.png", "val/y/1.png", "val/y/2.jpg"],
            ["x/1.png", "y/1.png", "y/2.png"],
        ),
        (["deep/er/one.jpeg"], ["one.png"]),
        (["x/1.v2.png", "x/1.v3.png"], ["1.v2.png", "1.v3.png"]),
        (["x/1.png", "1.png"], ["x/1.png", "1.png"]),
        (["straße 1.png", "b c/d.png"], ["straße 1.png", "b c/d.png"]),
    ],
)
def test_files_keep_folders_and_names(tmp_path, names, expected):
    whole = dataset(tmp_path / "in", *names)
    for paths, folder in ((image_paths, "images"), (label_paths, "labels")):
        found = paths(whole, tmp_path / "stage")
        assert inside(found, tmp_path / "stage" / folder) == expected
        assert len(set(found)) == len(names)


def test_translated_images_stand_beside_the_labels_that_there_are(tmp_path):
    whole = dataset(tmp_path / "in", "a.png", "b.png", labels=True)
    for number, path in enumerate(image_paths(whole, tmp_path / "stage")):
        save_image(path, np.full((2, 3, 3), 100 + number, np.uint8))
    made = translated(whole, tmp_path / "stage")
    assert (made.name, len(made), made.labelled) == ("stage", 2, True)
    assert [int(made.image(index)[0, 0, 0]) for index in (0, 1)] == [100, 101], "in order"
    assert [item.label for item in made.items] == [item.label for item in whole.items]
    # The image is of the stage's size, the label of its own.
    assert made.raw_size(0) == (3, 2)
    assert made.label(0).shape == (4, 6)
    assert (made.label(0, (3, 2)) == 0).all(), "raw ids still become train ids"
    assert not translated(dataset(tmp_path / "in", "a.png"), tmp_path / "stage").labelled


def test_pseudo_labels_are_train_ids_beside_the_images_that_there_are(tmp_path):
    whole = dataset(tmp_path / "in", "a.png", "b.png", labels=True)
    paths = label_paths(whole, tmp_path / "stage")
    fill(paths[:1], 7)
    fill(paths[1:], IGNORE)
    made = pseudo_labelled(whole, tmp_path / "stage")
    assert [item.image for item in made.items] == [item.image for item in whole.items]
    assert {int(value) for value in np.unique(made.label(0))} == {7}, "not raw id 7, which is 0"
    assert {int(value) for value in np.unique(made.label(1))} == {IGNORE}
    fill(paths[:1], 19)
    with pytest.raises(SegueError, match=r"labels/a\.png: unknown ids: 19 \(6 pixels\)"):
        made.label(0)


@pytest.mark.parametrize("make", [translated, pseudo_labelled])
def test_a_missing_file_is_told_with_its_path(make, tmp_path):
    whole = dataset(tmp_path / "in", "x/a.png", "x/b.png")
    paths = image_paths if make is translated else label_paths
    fill(paths(whole, tmp_path / "stage")[:1], 0)
    folder = "images" if make is translated else "labels"
    message = rf"stage/{folder}/b\.png: is not there; run the stage that makes it"
    with pytest.raises(SegueError, match=message):
        make(whole, tmp_path / "stage")


RECIPE = """
label_space: cityscapes
data:
  source: {{kind: folder, root: {root}/source, images: "*.png", labels: "gt/{{stem}}.png"}}
  target: {{kind: folder, root: {root}/target, images: "*.png", labels: "gt/{{stem}}.png"}}
stages:
  translate: {{kind: translate, data: source, towards: target, size: [6, 4]}}
  train: &train
    kind: train
    iterations: 1
    source: {{data: translate, size: [6, 4]}}
    networks: {{segmenter: {{kind: deeplab_v2, backbone: test_resnet, optimiser: sgd}}}}
    terms: {{segmentation: {{kind: cross_entropy}}}}
  labels: {{kind: pseudo_label, data: target, size: [6, 4], models: [train], rule: confidence}}
  styled: {{kind: translate, data: labels, towards: source, size: [6, 4]}}
  again:
    <<: *train
    target: {{data: styled, size: [6, 4]}}
"""


@pytest.fixture
def chosen(tmp_path):
    for place in ("source", "target"):
        for name in ("a", "b"):
            save_image(tmp_path / place / f"{name}.png", random_image(1, (6, 4)))
            save_image(tmp_path / place / "gt" / f"{name}.png", np.full((4, 6), 11, np.uint8))
    (tmp_path / "r.yaml").write_text(RECIPE.format(root=tmp_path))
    return load(tmp_path / "r.yaml")


def make_all(chosen, work_dir):
    for name, folder, value in (
        ("translate", "images", 1),
        ("labels", "labels", 5),
        ("styled", "images", 2),
    ):
        for one in ("a", "b"):
            shape = (4, 6, 3) if folder == "images" else (4, 6)
            save_image(work_dir / name / folder / f"{one}.png", np.full(shape, value, np.uint8))


def test_a_stage_is_named_where_a_dataset_is(chosen, tmp_path):
    make_all(chosen, tmp_path / "run")
    roles = assembly.readings(chosen, chosen.stages["again"], tmp_path / "run")
    source, target = roles["source"], roles["target"]
    assert int(source.dataset.image(0)[0, 0, 0]) == 1
    assert source.dataset.items[0].label == tmp_path / "source/gt/a.png"
    # A translation of what was pseudo-labelled has its pseudo-labels, and never the true ones.
    assert target.labels
    assert int(target.dataset.image(0)[0, 0, 0]) == 2
    assert (target.dataset.label(0) == 5).all()
    assert [item.label for item in target.dataset.items] == [
        tmp_path / f"run/labels/labels/{one}.png" for one in ("a", "b")
    ]


def test_a_targets_own_labels_have_no_path_by_any_name(chosen, tmp_path):
    make_all(chosen, tmp_path / "run")
    again = chosen.stages["again"]
    for name in ("target", "translate"):
        role = again.target.model_copy(update={"data": name})
        stage = again.model_copy(update={"target": role})
        target = assembly.readings(chosen, stage, tmp_path / "run")["target"]
        assert not target.labels
        assert all(item.label is None for item in target.dataset.items)
    bare = assembly.dataset(chosen, "labels", labels=False, work_dir=tmp_path / "run")
    assert all(item.label is None for item in bare.items), "not even the pseudo-labels"


def test_what_is_pseudo_labelled(chosen):
    found = {
        name: assembly.pseudo_labelled(chosen, name) for name in (*chosen.data, *chosen.stages)
    }
    assert [name for name, yes in found.items() if yes] == ["labels", "styled"]
