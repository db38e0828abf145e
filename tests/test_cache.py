"""The cache of resized data gives the bits that the files give, or nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import forked
import numpy as np
import one_fill
import pytest
import tiny
import yaml
from dataset_files import WRITERS, random_image, save_image, write_gta5

from segue import recipe
from segue.checking import check
from segue.datasets import DATASETS, cache, gta5
from segue.datasets.cache import cached, fill, locked
from segue.datasets.files import state
from segue.errors import SegueError
from segue.recipe import build as assembly
from segue.recipe import fill_cache as caching
from segue.recipe.fill_cache import fill_cache, wanted
from segue.running.run import run
from segue.runtime.processes import World

SIZE = (10, 6)


def keep(dataset, folder, size=SIZE, halves=("images", "labels")):
    """The dataset with stores of its own, and the stores."""
    kept = cached(dataset, folder)
    folder.mkdir(exist_ok=True)
    stores = [kept.cache.store(half, size) for half in halves]
    for half, store in zip(halves, stores, strict=True):
        read = dataset.image if half == "images" else dataset.label
        fill(store, lambda i, read=read: read(i, size), threads=2, progress=lambda _: None)
    return kept, stores


@pytest.mark.parametrize("name", DATASETS)
def test_the_same_bits_for_every_dataset(name, tmp_path, monkeypatch):
    WRITERS[name](tmp_path / "data", count=5)
    dataset = DATASETS[name](tmp_path / "data")
    kept, stores = keep(dataset, tmp_path / "cache")
    wanted = [(dataset.image(i, SIZE), dataset.label(i, SIZE)) for i in range(5)]
    other = dataset.image(1, (9, 9)), dataset.label(1, (9, 9)), dataset.image(1)
    assert [store.path.stat().st_size for store in stores] == [5 * 180, 5 * 60]
    # Not only the same: the files are not read.
    for item in dataset.items:
        item.image.write_bytes(b"")
        item.label.write_bytes(b"")
    for index, (image, label) in enumerate(wanted):
        found = kept.image(index, SIZE), kept.label(index, SIZE)
        assert [one.dtype for one in found] == [np.uint8, np.uint8]
        assert all(one.flags.writeable and one.flags.c_contiguous for one in found)
        assert (found[0] == image).all()
        assert (found[1] == label).all()
    for read in (lambda: kept.image(1, (9, 9)), lambda: kept.label(1, (9, 9)),
                 lambda: kept.image(1)):  # fmt: skip
        with pytest.raises(SegueError, match="0 bytes"):
            read()
    assert other[0].shape == (9, 9, 3)


def test_a_fingerprint_follows_all_that_decides_the_bits(tmp_path, monkeypatch):
    write_gta5(tmp_path)
    dataset = gta5(tmp_path)
    item = dataset.items[1]

    def told(of=dataset):
        found = cached(of, tmp_path / "cache").cache
        return found.images, found.labels

    before = told()
    assert told(gta5(tmp_path)) == before
    bare = told(gta5(tmp_path, with_labels=False))
    assert bare == (before[0], None)
    others = dataset.ids.copy()
    others[7] = 3
    for changed in (replace(dataset, ids=others), replace(dataset, unknown="refuse")):
        images, labels = told(changed)
        assert images == before[0]
        assert labels != before[1]
    fewer = told(gta5(tmp_path, first="00002"))
    assert fewer[0] != before[0]
    os.utime(item.label, ns=(1, 1))
    assert told()[0] == before[0]
    assert told()[1] != before[1]
    os.utime(item.image, ns=(1, 1))
    assert told()[0] != before[0]
    seen = told()
    save_image(item.image, random_image(9, (14, 8)))
    os.utime(item.image, ns=(1, 1))
    assert told()[0] != seen[0], "another size in bytes"
    monkeypatch.setattr(cache.PIL, "__version__", "0.0")
    assert told()[0] != seen[0]
    assert state(item.image)[1] == 1


def test_labels_that_may_not_be_read_are_not_even_looked_for(tmp_path, monkeypatch):
    write_gta5(tmp_path)
    asked, real = [], os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, *a, **k: asked.append(str(path)) or real(path, *a, **k)
    )
    kept = cached(gta5(tmp_path, with_labels=False), tmp_path / "cache")
    assert any("/images/" in path for path in asked)
    assert not any("/labels" in path for path in asked)
    assert kept.cache.store("labels", SIZE) is None


# ------------------------------------------------------------------------------ interruptions


class EndedError(Exception):
    """What stands for any end of a process."""


def failing(dataset, after, seen):
    def read(index):
        if index >= after:
            raise EndedError
        seen.append(index)
        return dataset.image(index, SIZE)

    return read


@pytest.mark.parametrize("spoil", ["nothing", "unsaved bytes", "torn note", "partial lost"])
def test_an_interrupted_store_goes_on_and_is_never_taken_for_whole(spoil, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SAVED_EVERY", 2 * 180)  # two images
    write_gta5(tmp_path, count=8)
    dataset = gta5(tmp_path)
    kept = cached(dataset, tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    store = kept.cache.store("images", SIZE)
    seen = []
    with pytest.raises(EndedError):
        fill(store, failing(dataset, 5, seen), threads=1, progress=lambda _: None)
    assert not store.whole
    assert store.read(0) is None
    assert (kept.image(0, SIZE) == dataset.image(0, SIZE)).all()
    saved = store.path.with_suffix(".saved")
    assert saved.read_text() == "4"
    first = 4
    if spoil == "unsaved bytes":
        with store.partial.open("ab") as file:
            file.write(bytes(500))  # a crash may leave anything behind what was flushed
    elif spoil == "torn note":
        saved.write_text("")
        first = 0
    elif spoil == "partial lost":
        os.truncate(store.partial, 3 * 180)
        first = 0
    seen.clear()
    fill(store, failing(dataset, 99, seen), threads=2, progress=lambda _: None)
    assert sorted(seen) == list(range(first, 8))
    assert store.whole
    assert all((store.read(i) == dataset.image(i, SIZE)).all() for i in range(8))
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [store.path.name]


def test_a_store_that_was_cut_short(tmp_path):
    write_gta5(tmp_path)
    kept, (store,) = keep(gta5(tmp_path), tmp_path / "cache", halves=("images",))
    os.truncate(store.path, 300)
    assert not store.whole
    with pytest.raises(SegueError, match=r"\.raw: the cache is cut short; delete this file"):
        kept.image(2, SIZE)


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    write_gta5(tmp_path)
    kept = cached(gta5(tmp_path), tmp_path)
    store = kept.cache.store("images", SIZE)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SegueError, match=r"No space left on device; make room and run again"):
        fill(store, lambda i: kept.image(i, SIZE), threads=1, progress=lambda _: None)
    assert not store.whole


# ------------------------------------------------------------------------------------ recipes


@pytest.fixture
def cached_recipe(tiny_recipe, tmp_path):
    def load(name, *more):
        return tiny_recipe(name, f"data.cache={tmp_path}/cache", *more)

    return load


def stores(folder):
    return sorted(path.name.rsplit("-", 1)[0] for path in folder.glob("*.raw"))


def test_the_setting(tiny_recipe, cached_recipe, tmp_path):
    name = "source-only-demo"
    plain, one = tiny_recipe(name), cached_recipe(name)
    assert (plain.cache, one.cache) == (None, f"{tmp_path}/cache")
    assert one.data == plain.data
    for stage in plain.stages:
        assert one.fingerprint(stage) == plain.fingerprint(stage)
    assert cached_recipe(name, "data.cache=null").cache is None
    (tmp_path / "again.yaml").write_text(one.as_yaml())
    assert yaml.safe_load(one.as_yaml())["data"]["cache"] == one.cache
    assert recipe.load(tmp_path / "again.yaml") == one


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.cache=5", "data.cache: 5 will not do; give the folder of a cache, or null"),
        ("data.cache={kind: gta5, root: a}", "a dataset needs another name"),
        ("data.cache=''", "data.cache: '' will not do"),
        ("cache=here", "cache: unknown key; write it as `data.cache`"),
        ("stages.train.source.data=cache", "no dataset is called 'cache'"),
    ],
)
def test_what_the_setting_may_not_be(override, said, cached_recipe):
    with pytest.raises(SegueError) as caught:
        recipe.load("source-only-demo", [override])
    assert said in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_ends_with_the_same_bits(workers, tiny_recipe, cached_recipe, tmp_path):
    name, more = "local-alignment-demo", (f"workers={workers}", "stages.evaluate=null")
    run(tiny_recipe(name, *more), tmp_path / "plain")
    run(cached_recipe(name, *more), tmp_path / "kept")
    models = [(tmp_path / place / "train/model.safetensors") for place in ("plain", "kept")]
    assert models[0].read_bytes() == models[1].read_bytes()
    size = "x".join(map(str, tiny.SIZE))
    there = [f"cityscapes-images-{size}", f"gta5-images-{size}", f"gta5-labels-{size}"]
    assert stores(tmp_path / "cache") == there


def test_what_stages_make_is_not_kept_and_what_they_were_made_of_is(
    tiny_recipe, cached_recipe, tmp_path
):
    name = "bdl-demo"  # trains on translated images and pseudo-labels
    one = cached_recipe(name)
    asked = {(want.name, want.half) for want in wanted(one, one.stages)}
    assert ("target", "labels") not in asked
    assert {("source", "labels"), ("target", "images")} <= asked
    run(tiny_recipe(name), tmp_path / "plain")
    run(one, tmp_path / "kept")
    models = sorted(path.relative_to(tmp_path / "plain")
                    for path in tmp_path.glob("plain/*/model.safetensors"))  # fmt: skip
    assert len(models) > 1
    for model in models:
        plain, kept = tmp_path / "plain" / model, tmp_path / "kept" / model
        assert plain.read_bytes() == kept.read_bytes(), model


def test_made_datasets_take_the_half_that_is_not_made(cached_recipe, tmp_path):
    one = cached_recipe("bdl-demo")
    kept = assembly.dataset(one, "source", labels=True).cache
    made = {
        "translated": replace(kept, images=None),
        "pseudo-labelled": replace(kept, labels=None),
    }
    assert made["translated"].store("images", SIZE) is None
    assert made["translated"].store("labels", SIZE) == kept.store("labels", SIZE)
    assert made["pseudo-labelled"].store("labels", SIZE) is None


def test_a_full_disk_is_refused_before_anything_is_written(cached_recipe, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: usage(1000))
    one = cached_recipe("source-only-demo")
    with pytest.raises(SegueError, match=r"cache: the cache needs 110.6 kB, 1.0 kB are free; set"):
        fill_cache(one, one.stages, world=World(), console=None)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]
    report = check(one)
    assert any("data.cache: " in line and "are free" in line for line in report.problems)


def test_checking_tells_the_size_and_writes_nothing(cached_recipe, tmp_path):
    report = check(cached_recipe("source-only-demo"))
    rows = dict(dict(report.sections)["data.cache"])
    # 6 images of 96 x 48 with labels
    assert rows["to write"].startswith("110.6 kB, ")
    assert report.problems == []
    assert not (tmp_path / "cache").exists()


def test_no_label_of_the_target_is_opened_for_the_cache(data, fork_server, tmp_path):
    worlds = tmp_path / "worlds"
    shutil.copytree(data.root / "worlds", worlds)
    images = sorted(worlds.glob("target/leftImg8bit/train/*/*.png"))
    for image in images:  # there are labels to open
        place = str(image).replace("leftImg8bit/", "gtFine/", 1)
        label = Path(place.replace("_leftImg8bit.", "_gtFine_labelIds."))
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_bytes(b"no label")
    overrides = [*tiny.overrides("local-alignment-demo", tiny.Data(tmp_path)),
                 f"data.cache={tmp_path}/cache", "stages.evaluate=null"]  # fmt: skip
    told = {"SEGUE_TEST_LOG": tmp_path / "log", "SEGUE_TEST_ROOT": tmp_path}
    assert forked.ended(forked.start(one_fill.watched, overrides, tmp_path / "run", told=told)) == [
        0
    ]
    events = [line.split("\t")[1:] for line in (tmp_path / "log").read_text().splitlines()]
    assert not [path for _, path in events if "/gtFine" in path]
    opened = [path for event, path in events if event == "open"]
    # Training reads the cache alone.
    assert all(opened.count(str(image)) == 1 for image in images)


# ------------------------------------------------------------------------------ several at once


def written(one, tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(one.as_yaml())
    return path


def assert_right(one):
    for name, labels in (("source", True), ("target", False)):
        dataset = assembly.dataset(one, name, labels=labels)
        plain = replace(dataset, cache=None)
        for index in range(len(dataset)):
            found = dataset.cache.image(index, tuple(tiny.SIZE))
            assert (found == plain.image(index, tuple(tiny.SIZE))).all()
            if labels:
                label = dataset.cache.label(index, tuple(tiny.SIZE))
                assert (label == plain.label(index, tuple(tiny.SIZE))).all()


def test_two_runs_and_one_that_is_killed(cached_recipe, fork_server, tmp_path):
    one = cached_recipe("local-alignment-demo")
    settings = written(one, tmp_path)
    killed = forked.start(one_fill.fill, settings, tmp_path / "killed", 1000)
    while not list((tmp_path / "cache").glob("*.partial")):
        assert killed.is_alive()
        time.sleep(0.01)
    both = [
        forked.start(one_fill.fill, settings, tmp_path / name, 0.05) for name in ("first", "second")
    ]
    killed.kill()
    assert forked.ended(killed, *both) == [-signal.SIGKILL, 0, 0]
    counts = [int((tmp_path / f"{name}.0").read_text()) for name in ("first", "second")]
    # One of them has read each image of source and target, the other none.
    assert sorted(counts) == [0, 12]
    assert_right(one)


def test_processes_of_one_run(cached_recipe, fork_server, tmp_path):
    one = cached_recipe("local-alignment-demo")
    processes = forked.ranks(2, one_fill.fill, written(one, tmp_path), tmp_path / "run", 0.02)
    assert forked.ended(*processes) == [0, 0]
    assert [(tmp_path / f"run.{rank}").read_text() for rank in (0, 1)] == ["12", "0"]
    assert_right(one)


def test_waiting_is_told(tmp_path):
    waits = []
    with locked(tmp_path / "cache", lambda: waits.append("")):
        script = (
            "import sys; from pathlib import Path; from segue.datasets.cache import locked\n"
            "with locked(Path(sys.argv[1]), lambda: print('waits', flush=True)): print('mine')"
        )
        words = [sys.executable, "-c", script, str(tmp_path / "cache")]
        other = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == "waits\n"
    assert other.communicate(timeout=60)[0] == "mine\n"
    assert waits == []


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(SegueError, match="file/cache: the cache cannot be locked"),
        locked(tmp_path / "file/cache", lambda: None),
    ):
        pass
