import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from dataset_files import SIZE, png, random_ids, random_image, save_image, save_synthia
from PIL import Image

from segue.datasets.reading import read_image, read_raw_label
from segue.errors import SegueError


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_labels_of_any_depth_keep_their_values(bits, tmp_path):
    ids = np.random.default_rng(0).integers(0, 2**bits, (8, 16))
    (tmp_path / "label.png").write_bytes(png(ids, bits))
    assert (read_raw_label(tmp_path / "label.png") == ids).all()


def test_palette_labels_of_few_bits(tmp_path):
    ids = random_ids(most=4)
    image = Image.frombytes("P", SIZE, ids.tobytes())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "label.png", bits=2)
    assert (read_raw_label(tmp_path / "label.png") == ids).all()


def test_synthia_labels_come_from_the_red_channel(tmp_path):
    ids = random_ids()
    save_synthia(tmp_path / "label.png", ids)
    assert (read_raw_label(tmp_path / "label.png") == ids).all()


def test_synthia_label_written_by_hand(tmp_path):
    ids = np.arange(24).reshape(4, 6)
    rgb = np.stack([ids, ids + 500, ids * 0 + 9], -1).reshape(4, 18)
    data = bytearray(png(rgb, 16, colour_type=2))
    data[16:20] = struct.pack(">I", 6)  # the header's width counts pixels, not values
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "label.png").write_bytes(data)
    assert (read_raw_label(tmp_path / "label.png") == ids).all()


def test_colour_labels(tmp_path):
    ids = random_ids()
    red = np.stack([ids, ids * 0, ids * 0], -1)
    save_image(tmp_path / "carla.png", red)
    save_image(tmp_path / "grey.png", np.stack([ids] * 3, -1))
    save_image(tmp_path / "picture.png", random_image())
    assert (read_raw_label(tmp_path / "carla.png") == ids).all()
    assert (read_raw_label(tmp_path / "grey.png") == ids).all()
    with pytest.raises(SegueError, match="colour picture, not class ids"):
        read_raw_label(tmp_path / "picture.png")


def test_labels_that_hold_no_ids(tmp_path):
    save_image(tmp_path / "label.jpg", random_ids())
    with pytest.raises(SegueError, match="JPEG cannot hold class ids"):
        read_raw_label(tmp_path / "label.jpg")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "label.tif")
    with pytest.raises(SegueError, match="floating point values"):
        read_raw_label(tmp_path / "label.tif")
    Image.fromarray(np.full((4, 4), -1, np.int32)).save(tmp_path / "minus.tif")
    with pytest.raises(SegueError, match="ids reach from -1"):
        read_raw_label(tmp_path / "minus.tif")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_images_of_any_mode_become_rgb(mode, tmp_path):
    if mode == "I;16":
        image = Image.fromarray(np.array([[0, 65535], [256, 511]], np.uint16))
        wanted = [[[0] * 3, [255] * 3], [[1] * 3, [1] * 3]]
    else:
        image = Image.fromarray(random_image()).convert(mode)
        wanted = np.asarray(image.convert("RGB")).tolist()
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    read = read_image(path)
    assert read.mode == "RGB"
    assert np.asarray(read).tolist() == wanted


def sixteen_bits():
    return cv2.imencode(".png", np.random.default_rng(0).integers(0, 9, (64, 64, 3), np.uint16))[1]


def as_png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["png", "jpg", "label", "synthia"])
def test_truncated_files(kind, share, tmp_path):
    path = tmp_path / "file"
    if kind == "jpg":
        Image.fromarray(random_image(size=(64, 64))).save(path, "jpeg")
        data = path.read_bytes()
    else:
        data = {
            "png": lambda: as_png(random_image(size=(64, 64))),
            "label": lambda: as_png(random_ids(size=(64, 64))),
            "synthia": lambda: sixteen_bits().tobytes(),
        }[kind]()
    path.write_bytes(data[: int(share * len(data))])
    read = read_image if kind in ("png", "jpg") else read_raw_label
    with pytest.raises(SegueError, match="truncated or damaged") as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_image, read_raw_label])
def test_files_that_are_no_images(read, tmp_path):
    path = tmp_path / "file.png"
    with pytest.raises(SegueError, match=r"file.png: no such file"):
        read(path)
    path.touch()
    with pytest.raises(SegueError, match=r"file.png: the file is empty \(0 bytes\)"):
        read(path)
    path.write_text("<html>404</html>")
    with pytest.raises(SegueError, match=r"file.png: not an image"):
        read(path)
    with pytest.raises(SegueError, match="cannot be opened"):
        read(tmp_path)


@pytest.mark.parametrize("side", [10_000, 40_000])  # PIL warns of the first, refuses the second
@pytest.mark.parametrize("read", [read_image, read_raw_label])
def test_images_that_would_fill_the_memory(read, side, tmp_path):
    data = bytearray(png(np.zeros((1, 8), int), 1))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(SegueError, match="too large to open safely"):
        read(tmp_path / "bomb.png")
