"""The procedural worlds: real formats on disk, the same pictures every time, all or nothing."""

import hashlib
import json
import re
import time
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue.demo.worlds import SOURCE, TARGET, World, draw_scene, write_worlds, writing
from segue.errors import SegueError

CLASSES = {7, 8, 11, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 33}
VOID = {1, 4}


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "worlds"
    write_worlds(root, source=3, target_train=2, target_val=2, size=(128, 64), seed=5)
    return root


def test_layout_on_disk(worlds: Path) -> None:
    city = "target/leftImg8bit/{}/demo/demo_000000_00000{}_leftImg8bit.png"
    assert set(digest(worlds)) == {
        "world.json",
        *(f"source/{kind}/0000{i}.png" for kind in ("images", "labels") for i in (1, 2, 3)),
        *(city.format(split, i) for split in ("train", "val") for i in (1, 2)),
        *(f"target/gtFine/val/demo/demo_000000_00000{i}_gtFine_labelIds.png" for i in (1, 2)),
    }
    assert [path.name for path in worlds.parent.iterdir()] == ["worlds"]


def test_source_labels_are_palette_images_of_label_ids(worlds: Path) -> None:
    for path in sorted((worlds / "source/labels").iterdir()):
        with Image.open(path) as label:
            assert (label.mode, label.size) == ("P", (128, 64))
            palette = np.array(label.getpalette()).reshape(-1, 3)
            ids = np.array(label)
        assert palette[7].tolist() == [128, 64, 128]
        assert palette[26].tolist() == [0, 0, 142]
        assert set(np.unique(ids).tolist()) <= CLASSES | VOID


def test_palette_is_that_of_cityscapes() -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    for label in labels:
        if label.id >= 0:
            assert writing.PALETTE[label.id] == label.color, label.name
        if label.id in CLASSES:
            assert not label.ignoreInEval, label.name


def test_target_labels_are_grey_label_ids(worlds: Path) -> None:
    for path in sorted((worlds / "target/gtFine/val/demo").iterdir()):
        with Image.open(path) as label:
            assert label.mode == "L"
            ids = np.array(label)
        assert set(np.unique(ids).tolist()) <= CLASSES | VOID
        assert (ids[-1, 32:96] == 1).all(), "the own bonnet is at the bottom"


def test_images_are_rgb(worlds: Path) -> None:
    for path in [*worlds.glob("source/images/*"), *worlds.glob("target/leftImg8bit/*/demo/*")]:
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("RGB", (128, 64))


def test_target_train_labels_only_when_asked(tmp_path: Path) -> None:
    root = tmp_path / "new" / "worlds"
    write_worlds(
        root, source=0, target_train=1, target_val=0, size=(64, 32), target_train_labels=True
    )
    assert len(list((root / "target/gtFine/train/demo").iterdir())) == 1


def test_pictures_depend_on_seed_world_split_and_number_alone(worlds: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    write_worlds(more, source=4, target_train=2, target_val=3, size=(128, 64), seed=5)
    first, second = digest(worlds), digest(more)
    first.pop("world.json"), second.pop("world.json")
    assert first.items() <= second.items()
    assert len(set(second.values())) == len(second), "no two files are the same"
    other = tmp_path / "other"
    write_worlds(other, source=3, target_train=2, target_val=2, size=(128, 64), seed=6)
    third = digest(other)
    assert all(third[name] != value for name, value in first.items())


def test_second_call_does_nothing(worlds: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in worlds.rglob("*")}
    calls: list[tuple[int, int]] = []
    write_worlds(
        worlds,
        source=3,
        target_train=2,
        target_val=2,
        size=(128, 64),
        seed=5,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == []
    assert before == {path: path.stat().st_mtime_ns for path in worlds.rglob("*")}


def test_other_parameters_are_refused(worlds: Path) -> None:
    with pytest.raises(SegueError, match=r"other parameters \(seed, images\); choose another"):
        write_worlds(worlds, source=4, target_train=2, target_val=2, size=(128, 64), seed=6)


def test_folders_with_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for root in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(SegueError, match="choose another folder"):
            write_worlds(root, source=1, target_train=0, target_val=0, size=(64, 32))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_broken_note_is_refused(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(SegueError, match="choose another folder"):
        write_worlds(tmp_path, source=1, target_train=0, target_val=0, size=(64, 32))


@pytest.mark.parametrize(
    "wrong", [{"source": -1}, {"size": (64, 8)}], ids=["negative count", "tiny size"]
)
def test_impossible_worlds_are_refused(tmp_path: Path, wrong: dict) -> None:
    settings = {"source": 1, "target_train": 0, "target_val": 0, "size": (64, 32), **wrong}
    with pytest.raises(SegueError, match="cannot draw"):
        write_worlds(tmp_path / "worlds", **settings)


def test_an_empty_folder_is_filled_and_progress_told(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_worlds(
        tmp_path,
        source=1,
        target_train=1,
        target_val=1,
        size=(64, 32),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert json.loads((tmp_path / "world.json").read_text())["images"]["source"] == 1


def test_nothing_is_left_of_a_broken_run(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_worlds(
            tmp_path / "worlds",
            source=2,
            target_train=0,
            target_val=0,
            size=(64, 32),
            progress=stop,
        )
    assert list(tmp_path.iterdir()) == []


def test_no_space_left_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SegueError, match=r"worlds: cannot write: No space left on device; free"):
        write_worlds(tmp_path / "worlds", source=1, target_train=0, target_val=0, size=(64, 32))
    assert list(tmp_path.iterdir()) == []


def test_scenes_are_repeatable_and_differ() -> None:
    image, ids = draw_scene(SOURCE, (1, 2), size=(96, 48))
    again, same = draw_scene(SOURCE, (1, 2), size=(96, 48))
    other, _ = draw_scene(SOURCE, (1, 3), size=(96, 48))
    assert (image.dtype, image.shape, ids.dtype, ids.shape) == (
        np.uint8,
        (48, 96, 3),
        np.uint8,
        (48, 96),
    )
    assert np.array_equal(image, again)
    assert np.array_equal(ids, same)
    assert not np.array_equal(image, other)


@pytest.fixture(scope="module")
def sample() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    return {
        world.name: [draw_scene(world, (9, index), size=(128, 64)) for index in range(60)]
        for world in (SOURCE, TARGET)
    }


def test_both_worlds_show_the_same_classes(sample: dict) -> None:
    for scenes in sample.values():
        found = [set(np.unique(ids).tolist()) for _, ids in scenes]
        assert min(len(ids - VOID) for ids in found) >= 4
        assert set().union(*found) - VOID == CLASSES


def test_the_worlds_differ_in_look_and_in_layout(sample: dict) -> None:
    saturation, share = {}, {}
    for name, scenes in sample.items():
        images = np.stack([image for image, _ in scenes]).astype(float)
        saturation[name] = (images.max(-1) - images.min(-1)).mean()
        ids = np.stack([ids for _, ids in scenes])
        share[name] = np.array([(ids == label).mean() for label in sorted(CLASSES)])
        rows = np.argwhere(ids == 23)[:, 1]
        share[name + " sky"] = rows.std()
    assert saturation["source"] > 1.5 * saturation["target"]
    assert np.abs(share["source"] - share["target"]).sum() > 0.2
    assert all(np.minimum(share["source"], share["target"]) > 0)


def test_docs_name_every_parameter() -> None:
    page = (Path(__file__).parents[1] / "docs" / "worlds.md").read_text()
    for part in fields(World):
        value = getattr(SOURCE, part.name)
        if is_dataclass(value):
            for parameter in fields(value):
                assert re.search(rf"`{parameter.name}`", page), f"{part.name}.{parameter.name}"


def test_drawing_is_quick() -> None:
    start = time.process_time()
    for index in range(10):
        draw_scene(TARGET, index)
    # About 0.03 s each on one core of 2020; the bound is for slow, busy machines.
    assert (time.process_time() - start) / 10 < 0.3
