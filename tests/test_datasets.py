import os
import typing
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    SIZE,
    WRITERS,
    random_ids,
    random_image,
    save_image,
    save_palette,
    save_synthia,
    write_cityscapes,
    write_folder,
    write_gta5,
    write_synthia,
)
from PIL import Image

from segue.datasets import DATASETS, cityscapes, folder, gta5, synthia
from segue.datasets.dataset import UNKNOWN, Dataset, Item, id_table
from segue.datasets.inspection import inspect
from segue.errors import SegueError
from segue.label_space import CITYSCAPES, CITYSCAPES_16, IGNORE, LabelSpace

# the papers' tables, written out once more
GTA5_IDS = {
    raw: train
    for train, raw in enumerate(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    )
}
SYNTHIA_TABLE = """
3→0 4→1 2→2 21→3 5→4 7→5 15→6 9→7 6→8 16→9 1→10 10→11 17→12 8→13 18→14 19→15 20→16 12→17 11→18
"""
SYNTHIA_IDS = {
    int(raw): int(train) for raw, train in (pair.split("→") for pair in SYNTHIA_TABLE.split())
}


# ------------------------------------------------------------------ every dataset in the table


def test_every_dataset_is_tested():
    assert set(WRITERS) == set(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
class TestEveryDataset:
    def test_reads_images_and_train_ids(self, name, tmp_path):
        WRITERS[name](tmp_path)
        dataset = DATASETS[name](tmp_path)
        assert len(dataset) == 3
        assert dataset.labelled
        for index in range(3):
            image, label = dataset.image(index), dataset.label(index)
            assert (image.dtype, image.shape) == (np.uint8, (SIZE[1], SIZE[0], 3))
            assert (label.dtype, label.shape) == (np.uint8, (SIZE[1], SIZE[0]))
            assert set(np.unique(label)) <= {*range(19), IGNORE}
            assert dataset.raw_size(index) == SIZE

    def test_resizes_exactly_as_pil(self, name, tmp_path):
        WRITERS[name](tmp_path)
        dataset = DATASETS[name](tmp_path)
        for size in ((7, 5), (30, 20)):
            image = Image.open(dataset.items[1].image).convert("RGB")
            wanted = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
            assert (dataset.image(1, size) == wanted).all()
            label = Image.fromarray(dataset.label(1)).resize(size, Image.Resampling.NEAREST)
            assert (dataset.label(1, size) == np.asarray(label)).all()

    def test_a_target_needs_no_labels_on_disk(self, name, tmp_path):
        WRITERS[name](tmp_path)
        for item in DATASETS[name](tmp_path).items:
            item.label.unlink()
        dataset = DATASETS[name](tmp_path, with_labels=False)
        assert [item.label for item in dataset.items] == [None] * 3
        assert not dataset.labelled
        with pytest.raises(SegueError, match="has no label"):
            dataset.label(0)

    def test_without_labels_no_label_path_is_made(self, name, tmp_path, monkeypatch):
        WRITERS[name](tmp_path)
        labels = {str(item.label) for item in DATASETS[name](tmp_path).items}
        asked = []
        real = os.stat

        def stat(path, *args, **kwargs):
            asked.append(os.fspath(path) if not isinstance(path, int) else path)
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, "stat", stat)
        DATASETS[name](tmp_path, with_labels=False)
        assert asked
        assert not labels & set(map(str, asked))

    def test_images_without_label_are_counted_and_named(self, name, tmp_path):
        WRITERS[name](tmp_path, count=6)
        items = DATASETS[name](tmp_path).items
        for item in items[:5]:
            item.label.unlink()
        with pytest.raises(SegueError, match="5 of 6 images have no label") as caught:
            DATASETS[name](tmp_path)
        said = str(caught.value)
        assert [item.image.name in said for item in items] == [True] * 3 + [False] * 3
        assert str(items[0].label) in said

    def test_missing_and_empty_folders(self, name, tmp_path):
        with pytest.raises(SegueError, match="no such folder; set `root`"):
            DATASETS[name](tmp_path / "nowhere")
        with pytest.raises(SegueError, match=r"no image matches \S+\.(png|jpg); check `root`"):
            DATASETS[name](tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(SegueError, match="is a file, not a folder"):
            DATASETS[name](tmp_path / "file")

    def test_first_and_last_choose_a_stretch(self, name, tmp_path):
        WRITERS[name](tmp_path, count=5)
        stems = [item.image.stem for item in DATASETS[name](tmp_path).items]
        assert stems == sorted(stems, key=lambda stem: stem)
        chosen = DATASETS[name](tmp_path, first=stems[1], last=stems[3])
        assert [item.image.stem for item in chosen.items] == stems[1:4]
        with pytest.raises(SegueError, match="no image is called"):
            DATASETS[name](tmp_path, first=stems[0] + "x")
        with pytest.raises(SegueError, match="comes after"):
            DATASETS[name](tmp_path, first=stems[3], last=stems[1])

    def test_ids_can_be_replaced(self, name, tmp_path):
        WRITERS[name](tmp_path)
        space = LabelSpace.from_settings("two", ["low", "rest"])
        ids = {raw: "low" if raw < 10 else 1 for raw in range(64)} | {3: "ignore"}
        dataset = DATASETS[name](tmp_path, ids=ids, label_space=space)
        raw, label = dataset.raw_label(0), dataset.label(0)
        assert (label == np.where(raw == 3, 255, raw >= 10)).all()

    def test_settings_have_types(self, name, tmp_path):
        hints = typing.get_type_hints(DATASETS[name])
        assert hints["root"] is Path
        assert hints["return"] is Dataset

    def test_inspection_finds_nothing_wrong(self, name, tmp_path):
        WRITERS[name](tmp_path)
        dataset = DATASETS[name](tmp_path)
        seen = []
        found = inspect(dataset, progress=lambda done, total: seen.append((done, total)))
        labels = np.stack([dataset.label(index) for index in range(3)])
        assert found.problems == ()
        assert (found.total, found.inspected, found.sizes) == (3, 3, {SIZE: 3})
        assert found.pixels.tolist() == [(labels == c).sum() for c in range(19)]
        assert found.images.tolist() == [(labels == c).any(axis=(1, 2)).sum() for c in range(19)]
        assert found.ignored == (labels == IGNORE).sum()
        assert seen == [(1, 3), (2, 3), (3, 3)]


# ------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("make", "write", "wanted"),
    [
        (gta5, write_gta5, GTA5_IDS),
        (cityscapes, write_cityscapes, GTA5_IDS),
        (synthia, write_synthia, SYNTHIA_IDS),
    ],
    ids=["gta5", "cityscapes", "synthia"],
)
@pytest.mark.parametrize("space", [CITYSCAPES, CITYSCAPES_16], ids=lambda space: space.name)
def test_ids_are_those_of_the_papers_and_all_others_ignored(make, write, wanted, space, tmp_path):
    """For 16 outputs the same classes by name, and terrain, truck and train void."""
    write(tmp_path, count=1)
    dataset = make(tmp_path, label_space=space)
    names = {raw: CITYSCAPES.classes[train] for raw, train in wanted.items()}
    wanted = {raw: space.train_id(name) for raw, name in names.items() if name in space.classes}
    assert len(wanted) == space.num_classes
    path = dataset.items[0].label
    raw = np.arange(256, dtype=np.uint8).reshape(16, 16)
    save_image(dataset.items[0].image, random_image(size=(16, 16)))
    {gta5: save_palette, synthia: save_synthia, cityscapes: save_image}[make](path, raw)
    assert dataset.label(0).ravel().tolist() == [wanted.get(i, 255) for i in range(256)]


def test_gta5_id_34_is_ignored(tmp_path):
    write_gta5(tmp_path, count=1)
    save_palette(tmp_path / "labels/00001.png", np.full(SIZE[::-1], 34, np.uint8))
    assert (gta5(tmp_path).label(0) == IGNORE).all()


def test_own_classes_need_own_ids(tmp_path):
    write_gta5(tmp_path)
    with pytest.raises(SegueError, match="give `ids`"):
        gta5(tmp_path, label_space=LabelSpace.from_settings("own", ["a"]))


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({0: 19}, "raw id 0 becomes train id 19"),
        ({0: -1}, "raw id 0 becomes train id -1"),
        ({70000: 0}, "raw id 70000"),
        ({-1: 0}, "raw id -1"),
        ({0: "raod"}, "did you mean 'road'?"),
    ],
)
def test_ids_that_do_not_fit(ids, said):
    with pytest.raises(SegueError) as caught:
        id_table(ids, CITYSCAPES)
    assert said in str(caught.value)


# ------------------------------------------------------------------------------------- folder


def test_folder_goes_through_folders_and_keeps_the_star(tmp_path):
    for place in ("a", "a/b", ""):
        save_image(tmp_path / "rgb" / place / "7_rgb.png", random_image())
        save_image(tmp_path / "gt" / place / "7_ids.png", random_ids(most=2))
    dataset = folder(tmp_path, images="rgb/**/*_rgb.png", labels="gt/{parent}/{star}_ids.png")
    places = [item.label.relative_to(tmp_path).as_posix() for item in dataset.items]
    assert sorted(places) == ["gt/7_ids.png", "gt/a/7_ids.png", "gt/a/b/7_ids.png"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": "labels/{name}.png"}, "{stem}, {star}, {parent}"),
        ({"labels": "labels/{}.png"}, "cannot fill in"),
        ({"labels": "labels/{stem.png"}, "cannot fill in"),
        ({"images": "/images/*.jpg"}, "no pattern"),
        ({"images": ""}, "no pattern"),
        ({"images": "images/?.jpg", "labels": "labels/{star}.png"}, "needs one *"),
    ],
)
def test_folder_patterns_that_are_wrong(settings, said, tmp_path):
    write_folder(tmp_path)
    with pytest.raises(SegueError) as caught:
        folder(tmp_path, **settings)
    assert said in str(caught.value)


def test_folder_refuses_unknown_ids_by_name_unless_told(tmp_path):
    write_folder(tmp_path, count=1)
    ids = np.zeros(SIZE[::-1], np.uint8)
    ids[0, :3], ids[1, 0], ids[2] = 77, 78, 255
    save_image(tmp_path / "labels/0.png", ids)
    with pytest.raises(
        SegueError, match=r"unknown ids: 77 \(3 pixels\), 78 \(1 pixels\)"
    ) as caught:
        folder(tmp_path).label(0)
    assert "0.png" in str(caught.value)
    assert "`unknown: ignore`" in str(caught.value)
    label = folder(tmp_path, unknown="ignore").label(0)
    assert (label == np.where(ids == 0, 0, 255)).all()
    assert UNKNOWN not in label


def test_folder_without_label_pattern(tmp_path):
    write_folder(tmp_path)
    assert not folder(tmp_path, labels=None).labelled


def test_label_of_another_size_than_its_image(tmp_path):
    write_cityscapes(tmp_path)
    dataset = cityscapes(tmp_path)
    save_image(dataset.items[0].label, random_ids(size=(6, 4)))
    with pytest.raises(SegueError, match=r"the label is 6x4 but its image \S+ is 12x8") as caught:
        dataset.label(0, (12, 8))
    assert str(dataset.items[0].label) in str(caught.value)


# --------------------------------------------------------------------------------- inspection


def test_inspection_does_not_stop_at_the_first_problem(tmp_path):
    write_folder(tmp_path, count=8)
    dataset = folder(tmp_path)
    items = dataset.items
    items[0].image.write_bytes(b"")
    items[1].image.write_text("no image")
    items[2].label.unlink()
    save_image(items[3].label, random_ids(size=(6, 4)))
    save_image(items[4].label, np.full(SIZE[::-1], 99, np.uint8))
    save_image(items[5].image, random_image(size=(24, 16)))
    save_image(items[5].label, random_ids(size=(24, 16), most=19))
    found = inspect(dataset, SIZE)
    assert found.inspected == 8
    assert found.missing == (items[2].label,)
    assert found.unknown == {99: 96}
    assert found.sizes == {SIZE: 5, (24, 16): 1}
    assert len(found.problems) == 5
    text = "\n".join(found.problems)
    for said in ("0 bytes", "not an image", "1 images have no label", "6x4", "99 (96 pixels)"):
        assert said in text
    assert found.pixels.sum() + found.ignored == 4 * SIZE[0] * SIZE[1]


def test_inspection_reports_ignored_unknown_ids_without_complaint(tmp_path):
    write_gta5(tmp_path, count=1)
    save_palette(tmp_path / "labels/00001.png", np.full(SIZE[::-1], 34, np.uint8))
    found = inspect(gta5(tmp_path))
    assert (found.unknown, found.problems, found.ignored) == ({34: 96}, (), 96)


def test_inspection_of_a_sample_and_without_labels(tmp_path):
    write_folder(tmp_path, count=9)
    found = inspect(folder(tmp_path, with_labels=False), sample=3)
    assert (found.total, found.inspected, found.pixels.sum()) == (9, 3, 0)


def test_a_dataset_built_by_hand(tmp_path):
    write_gta5(tmp_path, count=1)
    items = (Item(tmp_path / "images/00001.png", tmp_path / "labels/00001.png"),)
    dataset = Dataset("own", items, CITYSCAPES, id_table(GTA5_IDS, CITYSCAPES))
    assert (dataset.label(0) == gta5(tmp_path).label(0)).all()


# ---------------------------------------------------------------------------------- real pair

REAL = Path(os.environ.get("SEGUE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
CAMVID = LabelSpace.from_settings("camvid", CAMVID_CLASSES)
CARLA_IDS = {0: 0, 1: 1, 2: 7, 3: 255, 4: 9, 5: 2, 6: 3, 7: 3, 8: 4, 9: 5, 10: 8, 11: 1, 12: 6}


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL / "carla").is_dir(), reason="no real pair: set SEGUE_REAL_DATA")
def test_the_real_pair_is_read_as_its_readme_says():
    source = folder(
        REAL / "carla", ids=CARLA_IDS, label_space=CAMVID, first="000_0021", last="000_0420"
    )
    found = inspect(source, (320, 198), sample=12)
    assert found.problems == ()
    assert found.unknown == {}
    assert found.sizes == {(480, 297): 12}
    assert found.pixels[CAMVID.train_id("road")] > 0
    assert found.pixels[CAMVID.train_id("bicyclist")] == 0
    target = folder(REAL / "camvid", images="images/train/*.jpg", labels=None, label_space=CAMVID)
    assert len(target) == 367
    val = folder(
        REAL / "camvid",
        images="images/val/*.jpg",
        labels="labels/val/{stem}.png",
        ids={**{train: train for train in range(11)}, 11: "ignore"},
        label_space=CAMVID,
    )
    assert len(val) == 101
    assert inspect(val, sample=8).problems == ()
