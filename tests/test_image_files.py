"""One reader of images behind every door: the right pixels, or one line."""

import io

import cv2
import numpy as np
import pytest
import torch
from dataset_files import png
from made_pictures import RANDOM, H, W, by_opencv, colour, grey, palette_image, pgm, saved, tiff
from PIL import Image

from segue.datasets import Dataset, Item, cache, folder
from segue.datasets.depth import Deep, Range
from segue.datasets.image_files import decode_picture
from segue.datasets.picture_files import ORIENTATION, turned
from segue.datasets.reading import decode_image, read_image, read_image_size
from segue.errors import SegueError
from segue.inference.inputs import as_array
from segue.label_space import LabelSpace
from segue.predicting.frames import opened
from segue.predicting.sources import Source
from segue.serving.uploads import Limits, decoded

SPACE = LabelSpace.from_settings("toy", ["sky", "road"])
DEEP = Range(100, 3000)


def rgb(values):
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)


def by_range(values, low, high):
    """The formula of the documentation, in float64."""
    share = (values.astype(np.float64) - low) / (high - low)
    return np.rint(255 * np.minimum(np.maximum(share, 0), 1)).astype(np.uint8)


def shallow(orientation):
    """Files of at most 8 bits: name -> (bytes, RGB before it is turned)."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    values, ids = colour(3), grey(8)
    smooth = np.asarray(Image.fromarray(colour(3)[:2, :2]).resize((W, H)))
    files = {}
    for kind in ("jpeg", "png", "tiff", "webp"):
        exact = {"lossless": True} if kind == "webp" else {}
        lossy = {"quality": 95} if kind == "jpeg" else exact
        for mode in ("RGB", "L", "RGBA", "CMYK", "P", "1", "LA"):
            image = Image.fromarray(smooth if kind == "jpeg" else values).convert(mode)
            try:
                data, plain = saved(image, kind, exif=exif, **lossy), saved(image, kind, **lossy)
            except OSError:  # a mode that the format does not have
                continue
            files[f"{kind} {mode}"] = data, in_rgb(plain)
            if kind == "png" and mode in ("RGB", "L"):
                assert (files[f"{kind} {mode}"][1] == np.asarray(image.convert("RGB"))).all()
    for packed in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        data = saved(values, "tiff", exif=exif, compression=packed)
        files[f"tiff {packed}"] = data, in_rgb(saved(values, "tiff", compression=packed))
    if orientation == 1:
        files["bmp"] = saved(values, "bmp"), values
        files["bmp palette"] = palette_image(ids, "bmp"), None
        files["gif"] = palette_image(ids, "gif"), None
        files["ppm"] = pgm(values, 255, magic="P6"), values
        files["jpeg 2000"] = saved(values, "jpeg2000"), values
        for highest in (1, 15, 100, 255):
            few = ids.astype(int) % (highest + 1)
            files[f"pgm {highest}"] = pgm(few, highest), rgb(spread(few, highest))
        files["pbm"] = (
            b"P4 %d %d\n" % (W, H) + np.packbits(ids % 2, axis=1).tobytes(),
            rgb(255 * (1 - ids % 2)),
        )
        for bits in (1, 2, 4):
            few = ids % 2**bits
            files[f"png {bits}"] = png(few, bits), rgb(spread(few, 2**bits - 1))
            files[f"tiff {bits}"] = tiff(few, bits), rgb(spread(few, 2**bits - 1))
            white = rgb(spread(2**bits - 1 - few, 2**bits - 1))
            files[f"tiff {bits}, 0 is white"] = tiff(few, bits, photometric=0), white
        files["tiff 8, 0 is white"] = tiff(ids, 8, photometric=0), rgb(255 - ids)
    return files


def in_rgb(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def spread(few, highest):
    return np.rint(few.astype(int) * 255 / highest).astype(np.uint8)


def deep(orientation):
    """Files of more than 8 bits: name -> (bytes, values before they are turned, white)."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    few = RANDOM.integers(0, 4096, (H, W)).astype(np.uint16)
    files = {}
    for name, values in {"full": grey(16), "12 of 16 bits": few}.items():
        for kind in ("png", "tiff"):
            files[f"{kind} {name}"] = saved(values, kind, exif=exif), values, 65535
    if orientation > 1:
        return files
    values = colour(3, 16)
    for kind in (".png", ".tiff"):
        files[f"{kind[1:]} rgb"] = by_opencv(values, kind), values, 65535
        alpha = colour(4, 16)
        files[f"{kind[1:]} rgba"] = by_opencv(alpha, kind), alpha[..., :3], 65535
    files["ppm 65535"] = pgm(values, 65535, magic="P6"), values, 65535
    for highest in (256, 1000, 1023, 4095, 16383, 65535):
        some = RANDOM.integers(0, highest + 1, (H, W)).astype(np.uint16)
        for plain in (False, True):
            files[f"pgm {highest}{' plain' * plain}"] = (
                pgm(some, highest, plain=plain),
                some,
                highest,
            )
    for order in "<>":
        files[f"tiff 16 {order}"] = tiff(few, 16, order=order), few, 65535
        files[f"tiff float {order}"] = (
            tiff(few / 4096, 32, kind=3, order=order),
            (few / 4096).astype(np.float32),
            1.0,
        )
    files["tiff 16, 0 is white"] = tiff(few, 16, photometric=0), 65535 - few, 65535
    files["tiff signed 16"] = tiff(few, 16, kind=2), few.astype(np.int32), None
    files["tiff 32"] = tiff(few, 32), few.astype(np.int32), None
    files["tiff signed 32"] = tiff(few, 32, kind=2), few.astype(np.int32), None
    files["tiff kelvin"] = tiff(few / 10, 32, kind=3), (few / 10).astype(np.float32), None
    files["jpeg 2000 16"] = saved(few, "jpeg2000"), few, 65535
    return files


def wanted(values, white, range_):
    """The right pixels; None where nothing says what white is."""
    if range_ is not None:
        return rgb(by_range(values, range_.low, range_.high))
    if white is None:
        return None
    if white == 1.0:
        return rgb(np.rint(values.astype(np.float64) * 255).astype(np.uint8))
    return rgb((values.astype(np.int64) * 256 // (white + 1)).astype(np.uint8))


def one_file(path, range_=None):
    return Dataset("x", (Item(path, None),), SPACE, np.zeros(65536, np.uint8), range=range_)


def from_cache(path, range_):
    kept = cache.cached(one_file(path, range_), path.parent / "cache")
    size = read_image_size(path)
    store = kept.cache.store("images", size)
    store.path.parent.mkdir(exist_ok=True)
    cache.fill(store, lambda index: kept.image(index, size), threads=1, progress=lambda _: None)
    assert kept.cache.image(0, size) is not None
    return kept.image(0, size)


def with_open_file(path, range_):
    with path.open("rb") as file:
        return as_array(file, range_)


def pillow_opened(path, range_):
    with Image.open(path) as image:
        return as_array(image, range_)


def from_pipe(path, range_, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    with opened(Source("piped", "-", "stdin"), range_) as film:
        ((_, frame),) = film.frames()
    return frame


def loaded(path):
    # Not from the path: Pillow maps turned TIFF files into memory, and garbles them.
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.load()
    return image


# What a file goes in by: (path, range) -> RGB [H, W, 3].
DOORS = {
    "read_image": lambda path, range_: np.asarray(read_image(path, range_)),
    "dataset": lambda path, range_: one_file(path, range_).image(0),
    "dataset of a model's range": lambda path, range_: one_file(path).read_by(range_).image(0),
    "cache": from_cache,
    "path as text": lambda path, range_: as_array(str(path), range_),
    "path": as_array,
    "open file": with_open_file,
    "bytes": lambda path, range_: as_array(path.read_bytes(), range_),
    "memoryview": lambda path, range_: as_array(memoryview(path.read_bytes()), range_),
    "BytesIO": lambda path, range_: as_array(io.BytesIO(path.read_bytes()), range_),
    "Pillow, opened": pillow_opened,
    "pipe": lambda path, range_: np.asarray(decode_image(path.read_bytes(), "stdin", range_)),
}
# Pillow has thrown away what these had of more than 8 bits, or changed it.
LOST = ("rgb", "rgba", "pgm", "ppm", "tiff signed", "tiff 32", "tiff 16 >")
UPLOADED = ("jpeg", "png", "webp", "bmp", "gif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_same_pixels_through_every_door(orientation, tmp_path):
    count = 0
    for name, (data, values) in shallow(orientation).items():
        path = tmp_path / f"{name.replace(' ', '_')}.bin"
        path.write_bytes(data)
        if values is None:
            values = in_rgb(data)
        right = turned(values, orientation)
        assert read_image_size(path) == (right.shape[1], right.shape[0]), name
        for range_ in (None, DEEP):  # which does nothing to 8 bits
            for door, read in DOORS.items():
                assert (read(path, range_) == right).all(), (name, door, orientation)
                count += 1
            assert (as_array(loaded(path), range_) == right).all(), name
            if name.startswith(UPLOADED) and not name.startswith("jpeg 2000"):
                assert (decoded(data, name, Limits(), range_) == right).all(), name
                count += 1
        array = np.array(right)
        assert (as_array(array) == right).all()
        assert (as_array(torch.from_numpy(array).permute(2, 0, 1)) == right).all()
        count += 3
    print(f"orientation {orientation}: {count} pairs of file and door")


@pytest.mark.parametrize("range_", [None, DEEP, Range(0, 0.5)])
@pytest.mark.parametrize("orientation", [1, 2, 6, 8])
def test_depth_by_one_rule_through_every_door(orientation, range_, tmp_path):
    right_pixels, lines = 0, 0
    for name, (data, values, white) in deep(orientation).items():
        path = tmp_path / f"{name.replace(' ', '_').replace('<', 'l').replace('>', 'b')}.bin"
        path.write_bytes(data)
        values = turned(values, orientation)
        right = wanted(values, white, range_)
        assert read_image_size(path) == (values.shape[1], values.shape[0]), name
        doors = dict(DOORS)
        if not name.startswith(LOST) and not name.endswith(("rgb", "rgba")):
            doors["Pillow, decoded"] = lambda path, range_: as_array(loaded(path), range_)
        if white in (65535, 1.0):
            doors["array"] = lambda _, range_, values=values: as_array(values, range_)
            doors["tensor"] = lambda _, range_, values=values: as_array(
                torch.from_numpy(values if values.ndim == 2 else values.transpose(2, 0, 1).copy()),
                range_,
            )
        if name.startswith("png"):
            doors["upload"] = lambda path, range_: decoded(path.read_bytes(), "x", Limits(), range_)
        for door, read in doors.items():
            if right is None:
                with pytest.raises(SegueError, match="nothing says what white is") as caught:
                    read(path, range_)
                assert "\n" not in str(caught.value)
                lines += 1
            else:
                assert (read(path, range_) == right).all(), (name, door)
                right_pixels += 1
    print(f"orientation {orientation}, range {range_}: {right_pixels} right, {lines} refused")


def test_a_pipe_reads_by_the_range(tmp_path, monkeypatch):
    values = RANDOM.integers(0, 4096, (H, W)).astype(np.uint16)
    path = tmp_path / "x.pgm"
    path.write_bytes(pgm(values, 4095))
    assert (from_pipe(path, DEEP, monkeypatch) == rgb(by_range(values, 100, 3000))).all()


def test_percentiles_are_of_each_picture():
    values = np.arange(1000, dtype=np.uint16).reshape(20, 50)
    right = by_range(values, *np.percentile(values, [10, 75]))
    found = Deep(values, "16 bit", 65535, "x").rgb(Range("10%", "75%"))
    assert (found == rgb(right)).all()
    mixed = Deep(values, "16 bit", 65535, "x").rgb(Range(0, "75 %"))
    assert (mixed == rgb(by_range(values, 0, np.percentile(values, 75)))).all()
    large = np.tile(values, (9, 10))  # by a table
    assert (Deep(large, "", 65535, "").rgb(DEEP) == rgb(by_range(large, 100, 3000))).all()


def test_what_is_no_number_is_black_and_counts_for_no_percentile():
    values = np.array([[np.nan, 10.0, 20.0, 30.0, np.inf, -np.inf]], np.float32)
    assert Deep(values, "", None, "").rgb(Range("0%", "100%"))[0, :, 0].tolist() == [
        0,
        0,
        128,
        255,
        255,
        0,
    ]
    flat = np.full((2, 3), 300.5, np.float32)
    assert not Deep(flat, "", None, "").rgb(Range("1%", "99%")).any()
    nothing = np.full((2, 3), np.nan, np.float32)
    assert not Deep(nothing, "", None, "").rgb(Range("1%", "99%")).any()
    with pytest.raises(SegueError, match="none of them finite"):
        Deep(nothing, "32 bit float", None, "x").rgb(None)


@pytest.mark.parametrize(
    "value",
    [5, "0 4095", [0], [0, 1, 2], [1, 0], [0, 0], ["99%", "1%"], ["1", "99"], ["1%", "101%"],
     [float("nan"), 1], [0, float("inf")], [True, 2], [None, 1], {"low": 0}],
)  # fmt: skip
def test_ranges_that_are_none(value):
    with pytest.raises(SegueError, match=r"data.x.range: .*(will not do|from high to low)"):
        Range.from_settings(value, "data.x.range")


def test_a_range_writes_itself_down():
    for value in ([0, 4095], ["1%", "99.5%"], [-40.5, "99%"]):
        assert Range.from_settings(value, "").settings == value
    assert Range.from_settings(None, "") is None


def jpeg(**options):
    image = Image.fromarray(RANDOM.integers(0, 256, (6, 6, 3)).astype(np.uint8)).resize((64, 48))
    return saved(image, "jpeg", **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0},
        {"optimize": True},
        {"restart_marker_blocks": 3},
        {"subsampling": 2, "restart_marker_blocks": 2},
    ],
)
def test_a_jpeg_without_its_end_marker_is_whole(options):
    data = jpeg(quality=90, **options)
    right = np.asarray(decode_image(data, "x"))
    assert (np.asarray(decode_image(data[:-2], "x")) == right).all()
    assert (np.asarray(decode_image(data[:-1], "x")) == right).all()
    refused = 0
    for lost in range(3, 200):
        try:
            found = np.asarray(decode_image(data[:-lost], "x"))
        except SegueError:
            refused += 1
        else:  # the last byte may hold nothing but the filling that brings it to eight bits
            assert (found == right).all(), lost
    assert refused >= 196
    for filled in (b"\0" * 64, b"\xff" * 64):
        with pytest.raises(SegueError, match="truncated or damaged"):
            decode_image(data[: len(data) // 2] + filled, "x")


def test_a_progressive_jpeg_without_its_end_marker_may_lack_scans():
    with pytest.raises(SegueError, match="truncated or damaged"):
        decode_image(jpeg(progressive=True)[:-2], "x")


def test_a_jpeg_without_its_end_marker_is_turned():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = jpeg(exif=exif)
    assert (np.asarray(decode_image(data[:-2], "x")) == np.asarray(decode_image(data, "x"))).all()


def test_damaged_exif_does_no_harm():
    data = saved(colour(3), "png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert decode_image(data, "x").size == (W, H)
    exif = Image.Exif()
    for strange in (0, 9, 77):
        exif[ORIENTATION] = strange
        assert decode_image(saved(colour(3), "jpeg", exif=exif), "x").size == (W, H)


def test_a_png_says_late_how_it_is_turned(tmp_path):
    """Its EXIF block may come behind the pixels."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    values = colour(3)
    data = saved(values, "png", exif=exif)
    at = data.index(b"eXIf") - 4
    length = int.from_bytes(data[at : at + 4], "big") + 12
    block, end = data[at : at + length], data.rindex(b"IEND") - 4
    moved = data[:at] + data[at + length : end] + block + data[end:]
    path = tmp_path / "a.png"
    path.write_bytes(moved)
    assert read_image_size(path) == (H, W)
    assert (np.asarray(read_image(path)) == turned(values, 6)).all()


def test_images_whose_colours_are_not_read():
    for data in (saved(colour(3), "tiff", mode="LAB"), tiff(grey(8) % 128, 8, kind=2)):
        with pytest.raises(SegueError, match="not read"):
            decode_picture(data, "x")


def test_a_label_and_its_image_are_turned_alike(tmp_path):
    """A camera on its side, its labels drawn upright or stored with the same tag."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    ids = (grey(8) % 2).astype(np.uint8)
    for place in ("images", "labels", "turned"):
        (tmp_path / place).mkdir()
    Image.fromarray(rgb(ids * 255)).save(tmp_path / "images/a.png", exif=exif)
    Image.fromarray(ids).save(tmp_path / "labels/a.png", exif=exif)
    Image.fromarray(turned(ids, 6)).save(tmp_path / "turned/a.png")
    for place in ("labels", "turned"):
        data = folder(
            tmp_path, images="images/*.png", labels=f"{place}/{{stem}}.png", label_space=SPACE
        )
        assert data.raw_size(0) == (H, W)
        assert (data.image(0)[..., 0] == 255 * data.label(0)).all()


def test_opencv_and_pillow_count_turns_alike():
    """The table above is made by `turned`: EXIF's own meaning, from another library."""
    values = colour(3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        data = saved(values, "jpeg", exif=exif, quality=100, subsampling=0)
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        found = np.asarray(decode_image(data, "x")).astype(int)
        assert found.shape == bgr.shape
        assert np.abs(found - bgr[..., ::-1]).max() <= 3


def test_kinds_that_are_not_read_are_named():
    whole = saved(colour(3), "avif"), tiff(grey(8), 64)
    for data, name in zip(whole, ("AVIF", "TIFF"), strict=True):
        with pytest.raises(SegueError, match=f"x: a {name} file .* of a kind that is not read; st"):
            decode_image(data, "x")
    with pytest.raises(SegueError, match="x: not an image"):
        decode_image(b"<html>404</html>", "x")
