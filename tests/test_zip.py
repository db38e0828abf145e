"""Datasets that stay in their ZIP files are read as if they were unpacked."""

import os
import struct
import subprocess
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from dataset_files import (
    SIZE,
    WRITERS,
    png,
    random_ids,
    random_image,
    save_image,
    write_cityscapes,
    write_folder,
    write_gta5,
)

from segue.datasets import DATASETS, cityscapes, files, folder, gta5, reading
from segue.datasets.derived import image_paths
from segue.datasets.inspection import inspect
from segue.datasets.loading import Role, batches
from segue.datasets.reading import read_image, read_image_size
from segue.errors import SegueError

OFFICIAL = {  # the ZIP files of each layout, by what the paths in them begin with
    "gta5": {"images": "images", "labels": "labels"},
    "synthia": {"RGB": "SYNTHIA", "GT": "SYNTHIA"},
    "cityscapes": {
        "leftImg8bit": "leftImg8bit_trainvaltest",
        "gtFine": "gtFine_trainvaltest",
    },
    "folder": {"images": "data", "labels": "data"},
}


def pack(root, into, name):
    """Packs a folder as it is distributed, GTA5 in parts of two images."""
    into.mkdir(parents=True, exist_ok=True)
    archives = {}
    for number, path in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
        inner = path.relative_to(root)
        archive = OFFICIAL[name][inner.parts[0]]
        if name == "gta5":
            archive = f"{int(inner.stem) // 2:02}_{archive}"
        if archive not in archives:
            archives[archive] = zipfile.ZipFile(into / f"{archive}.zip", "w")
        method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)[number % 3]
        archives[archive].write(path, inner.as_posix(), method)
    for archive in archives.values():
        archive.close()


@pytest.mark.parametrize("name", DATASETS)
class TestEveryDataset:
    def test_packed_is_as_unpacked(self, name, tmp_path):
        WRITERS[name](tmp_path / "whole", count=5)
        pack(tmp_path / "whole", tmp_path / "zips", name)
        whole, packed = DATASETS[name](tmp_path / "whole"), DATASETS[name](tmp_path / "zips")
        assert all(".zip" in str(item.image) for item in packed.items)
        assert [i.image.name for i in packed.items] == [i.image.name for i in whole.items]
        for index in range(5):
            assert packed.raw_size(index) == SIZE
            assert (packed.image(index, (7, 5)) == whole.image(index, (7, 5))).all()
            assert (packed.label(index, (7, 5)) == whole.label(index, (7, 5))).all()
        made = [image_paths(dataset, tmp_path / "run") for dataset in (packed, whole)]
        assert made[0] == made[1]
        assert inspect(packed).problems == ()
        stems = [item.image.stem for item in whole.items]
        part = DATASETS[name](tmp_path / "zips", first=stems[1], last=stems[3])
        assert [item.image.stem for item in part.items] == stems[1:4]

    def test_labels_that_are_not_in_the_zip_file_are_named(self, name, tmp_path):
        WRITERS[name](tmp_path / "whole", count=4)
        items = DATASETS[name](tmp_path / "whole").items
        items[2].label.unlink()
        pack(tmp_path / "whole", tmp_path / "zips", name)
        with pytest.raises(SegueError, match="1 of 4 images have no label") as caught:
            DATASETS[name](tmp_path / "zips")
        assert items[2].image.name in str(caught.value)
        assert not DATASETS[name](tmp_path / "zips", with_labels=False).labelled


@pytest.mark.parametrize(("write", "make"), [(write_gta5, gta5), (write_cityscapes, cityscapes)])
def test_the_labels_archive_of_a_target_is_not_even_opened(write, make, tmp_path, monkeypatch):
    write(tmp_path / "whole")
    pack(tmp_path / "whole", tmp_path / "zips", make.__name__)
    seen = []
    real = files._read_archive
    monkeypatch.setattr(files, "_read_archive", lambda path, *rest: seen.append(path.name) or
                        real(path, *rest))  # fmt: skip
    dataset = make(tmp_path / "zips", with_labels=False)
    assert dataset.image(0).shape == (SIZE[1], SIZE[0], 3)
    assert seen
    assert not [name for name in seen if "labels" in name or "gtFine" in name]


def test_root_may_be_a_zip_file_or_a_folder_inside_one(tmp_path):
    write_folder(tmp_path / "all/day")
    pack_one(tmp_path / "all", tmp_path / "all.zip")
    pack_one(tmp_path / "all/day", tmp_path / "day.zip")
    wanted = folder(tmp_path / "all/day").image(2)
    for root in (tmp_path / "day.zip", tmp_path / "all.zip/day"):
        dataset = folder(root)
        assert len(dataset) == 3
        assert dataset.labelled
        assert (dataset.image(2) == wanted).all()
    with pytest.raises(SegueError, match=r"no image matches images/\*.jpg; .*called like day/"):
        folder(tmp_path / "all.zip")


def pack_one(root, archive):
    with zipfile.ZipFile(archive, "w") as packed:
        for path in root.rglob("*"):
            packed.write(path, path.relative_to(root))


def test_patterns_go_through_folders_in_zip_files(tmp_path):
    for place in ("a", "a/b", ""):
        save_image(tmp_path / "all/rgb" / place / "7_rgb.png", random_image())
        save_image(tmp_path / "all/gt" / place / "7_ids.png", random_ids(most=2))
        save_image(tmp_path / "all/__MACOSX/rgb" / place / "7_rgb.png", random_image())
    pack_one(tmp_path / "all", tmp_path / "all.zip")
    settings = {"images": "rgb/**/*_rgb.png", "labels": "gt/{parent}/{star}_ids.png"}
    packed, whole = folder(tmp_path / "all.zip", **settings), folder(tmp_path / "all", **settings)
    places = [item.label.relative_to(tmp_path / "all.zip") for item in packed.items]
    assert places == [item.label.relative_to(tmp_path / "all") for item in whole.items]
    assert len(folder(tmp_path / "all.zip", images="**/*_rgb.png", labels=None)) == 3


def test_what_lies_unpacked_comes_first(tmp_path):
    write_gta5(tmp_path, count=4)
    pack(tmp_path, tmp_path, "gta5")
    assert not any(".zip" in str(item.image) for item in gta5(tmp_path).items)
    for path in tmp_path.glob("labels/*"):
        path.unlink()
    dataset = gta5(tmp_path)
    assert all("_labels.zip" in str(item.label) for item in dataset.items)
    assert dataset.label(3).shape == SIZE[::-1]


def test_a_folder_may_be_called_like_a_zip_file(tmp_path):
    write_folder(tmp_path / "my.zip")
    assert folder(tmp_path / "my.zip").label(0).shape == SIZE[::-1]


# ------------------------------------------------------------------------------------- damage


def one_member(path, data, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("images/1.png", data)
    return path / "images/1.png"


def picture(side=64):
    return png(random_ids(size=(side, side), most=256), 8)


@pytest.mark.parametrize("read", [read_image, reading.read_raw_label])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_members(read, method, tmp_path):
    member = one_member(tmp_path / "a.zip", picture(), method)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[2000] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(SegueError, match="damaged") as caught:
        read(member)
    assert str(caught.value).startswith(f"{tmp_path}/a.zip/images/1.png: ")
    assert "copy or download" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_archives_that_are_cut_short(tmp_path):
    member = one_member(tmp_path / "a.zip", picture())
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-60])
    with pytest.raises(SegueError, match=r"a.zip: no ZIP file, or not all of one .* download it"):
        read_image(member)
    with pytest.raises(SegueError, match=r"a.zip: no ZIP file"):
        folder(tmp_path / "a.zip", images="images/*.png", labels=None)


def test_members_that_are_not_there_or_empty(tmp_path):
    member = one_member(tmp_path / "a.zip", b"")
    with pytest.raises(SegueError, match=r"a.zip/images/1.png: the file is empty"):
        read_image(member)
    with pytest.raises(SegueError, match=r"a.zip/images/1.png: the file is empty"):
        read_image_size(member)
    with pytest.raises(SegueError, match=r"a.zip/images/2.png: no such file"):
        read_image(member.with_name("2.png"))
    assert files.is_file(member)
    assert not files.is_file(member.with_name("2.png"))


def test_members_with_a_password(tmp_path):
    member = one_member(tmp_path / "a.zip", picture())
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[6] |= 1  # of the member's own header
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(SegueError, match=r"a.zip/images/1.png: cannot be unpacked \(.*password"):
        read_image(member)


def test_bombs(tmp_path, monkeypatch):
    data = bytearray(png(np.zeros((1, 8), int), 1))
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(SegueError, match="too large to open safely"):
        read_image(one_member(tmp_path / "pixels.zip", bytes(data)))
    monkeypatch.setattr(reading, "MOST_BYTES", 10_000)
    member = one_member(tmp_path / "bytes.zip", bytes(10_001))
    assert (tmp_path / "bytes.zip").stat().st_size < 500
    with pytest.raises(SegueError, match=r"bytes.zip/images/1.png: the file is too large to open"):
        read_image(member)


def test_an_archive_that_was_replaced_is_opened_anew(tmp_path):
    member = one_member(tmp_path / "a.zip", picture(64))
    assert read_image(member).size == (64, 64)
    one_member(tmp_path / "a.zip", picture(32))
    assert read_image(member).size == (32, 32)


# --------------------------------------------------------------------- threads and processes


def test_many_threads_read_one_archive(tmp_path):
    write_gta5(tmp_path / "whole", count=12)
    pack(tmp_path / "whole", tmp_path / "zips", "gta5")
    whole, packed = gta5(tmp_path / "whole"), gta5(tmp_path / "zips")
    wanted = [whole.image(index) for index in range(12)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: packed.image(place % 12), range(600)))
    assert all((image == wanted[place % 12]).all() for place, image in enumerate(found))


def test_reading_processes(tmp_path):
    write_gta5(tmp_path / "whole", count=6)
    pack(tmp_path / "whole", tmp_path / "zips", "gta5")
    packed = gta5(tmp_path / "zips")
    packed.image(0)  # an archive is open here when the processes start
    drawn = [
        list(batches({"source": Role(dataset, (10, 6), True)}, batch_size=2, seed=0, start=0,
                     stop=4, workers=workers))
        for dataset, workers in ((packed, 2), (gta5(tmp_path / "whole"), 0))
    ]  # fmt: skip
    for (mine,), (wanted,) in zip(*drawn, strict=True):
        assert (mine["source"].image == wanted["source"].image).all()
        assert (mine["source"].label == wanted["source"].label).all()


FORKED = """
import os, sys
from pathlib import Path
from segue.datasets import gta5
dataset = gta5(Path(sys.argv[1]))
wanted = [dataset.image(index) for index in range(6)]
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        right = all((dataset.image(i % 6) == wanted[i % 6]).all() for i in range(120))
        os._exit(0 if right else 1)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_processes_do_not_share_a_place_in_the_file(tmp_path):
    write_gta5(tmp_path / "whole", count=6)
    pack(tmp_path / "whole", tmp_path / "zips", "gta5")
    command = [sys.executable, "-c", FORKED, str(tmp_path / "zips")]
    assert subprocess.run(command, timeout=120).returncode == 0
