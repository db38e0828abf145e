"""Every way to store a label: read exactly, or refused by name."""

import numpy as np
import pytest
from dataset_files import png
from made_pictures import (
    RANDOM,
    H,
    W,
    by_opencv,
    colour,
    grey,
    palette_image,
    pgm,
    saved,
    tiff,
    tiff_of,
)
from PIL import Image

from segue.datasets.label_files import decode_label
from segue.datasets.picture_files import ORIENTATION, turned
from segue.errors import SegueError


def exact():
    """Name -> (bytes of a file, the values that it holds)."""
    files = {}
    for bits in (1, 2, 4, 8, 16):
        ids = grey(bits)
        files[f"png grey {bits}"] = png(ids, bits), ids
    for bits in (1, 2, 4, 8):
        ids = grey(bits)
        files[f"png palette {bits}"] = palette_image(ids, "png", 2**bits, bits=bits), ids
    for channels in (2, 3, 4):
        values = colour(channels)
        files[f"png {channels} channels"] = saved(values, "png"), values
    for channels in (3, 4):
        values = colour(channels, 16)
        files[f"png {channels} channels 16"] = by_opencv(values, ".png"), values
        files[f"tiff {channels} channels 16"] = by_opencv(values, ".tiff"), values
    values = colour(3)
    files["webp rgb"] = saved(values, "webp", lossless=True), values
    files["webp rgb metadata"] = saved(values, "webp", lossless=True, exif=b"Exif\0\0II*\0"), values
    opaque = colour(4)
    opaque[..., 3] = np.maximum(opaque[..., 3], 1)
    files["webp rgba"] = saved(opaque, "webp", lossless=True, exact=True), opaque
    files["bmp rgb"] = saved(values, "bmp"), values
    ids = grey(8)
    files["bmp grey"] = saved(ids, "bmp"), ids
    files["bmp palette"] = palette_image(ids, "bmp"), ids
    files["bmp 1"] = saved(Image.fromarray(ids % 2 * 255).convert("1"), "bmp"), ids % 2
    for highest in (1, 3, 7, 33, 100, 254, 255, 256, 1000, 4095, 65534, 65535):
        for plain in (False, True):
            ids = RANDOM.integers(0, highest + 1, (H, W))
            ids[0, :2] = 0, highest
            files[f"pgm {highest}{' plain' * plain}"] = pgm(ids, highest, plain=plain), ids
    for highest in (7, 255):
        values = RANDOM.integers(0, highest + 1, (H, W, 3))
        files[f"ppm {highest}"] = pgm(values, highest, magic="P6"), values
    values = colour(3, 16)
    files["ppm 65535"] = pgm(values, 65535, magic="P6"), values
    for order in "<>":
        for bits in (1, 2, 4, 8, 16, *((32,) if order == "<" else ())):
            ids = RANDOM.integers(0, 2 ** min(bits, 20), (H, W))
            files[f"tiff {bits} {order}"] = tiff(ids, bits, order=order), ids
        for bits in (16, 32):
            ids = RANDOM.integers(0, 2**15, (H, W))
            files[f"tiff signed {bits} {order}"] = tiff(ids, bits, order=order, kind=2), ids
    for packed in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"):
        for bits in (8, 16):
            ids = grey(bits)
            files[f"tiff {packed} {bits}"] = saved(ids, "tiff", compression=packed), ids
        values = colour(3)
        files[f"tiff {packed} rgb"] = saved(values, "tiff", compression=packed), values
    ids = grey(8)
    files["tiff palette"] = palette_image(ids, "tiff"), ids
    values = colour(4)
    files["tiff rgba"] = saved(values, "tiff"), values
    values = colour(2)
    files["tiff grey alpha"] = saved(values, "tiff"), values
    return files


EXACT = exact()


def test_values_come_as_they_are_stored():
    print(f"{len(EXACT)} kinds of label files read exactly")
    wrong = []
    for name, (data, values) in EXACT.items():
        try:
            found = decode_label(data, name).values
        except SegueError as error:
            wrong.append(str(error))
            continue
        if found.shape != values.shape or not (found == values).all():
            wrong.append(f"{name}: {found.ravel()[:6]} for {values.ravel()[:6]}")
    assert not wrong, "\n".join(wrong)


def refused():
    """Name -> (bytes of a file, what the refusal says)."""
    ids, rgb = grey(8), colour(3)
    bmp_16 = bytearray(saved(rgb, "bmp"))
    bmp_16[28] = 16
    animated = {"save_all": True, "append_images": [Image.fromarray(rgb[::-1])]}
    files = {
        "jpeg": (saved(rgb, "jpeg", quality=100), "JPEG"),
        "jpeg grey": (saved(ids, "jpeg", quality=100), "JPEG"),
        "mpo": (saved(rgb, "mpo", **animated), "MPO"),
        "jpeg 2000": (saved(rgb, "jpeg2000"), "JPEG 2000"),
        "jpeg 2000 grey": (saved(ids, "jpeg2000"), "JPEG 2000"),
        "webp lossy": (saved(rgb, "webp", quality=100), "lossy WebP"),
        "webp lossy exif": (saved(rgb, "webp", quality=100, exif=b"Exif\0\0II*\0"), "lossy WebP"),
        "webp animated": (saved(rgb, "webp", lossless=True, **animated), "WebP"),
        "gif": (palette_image(ids % 16, "gif"), "GIF"),
        "tiff jpeg": (saved(rgb, "tiff", compression="jpeg"), "compression JPEG"),
        "tiff float": (saved(ids.astype(np.float32), "tiff"), "floating point"),
        "tiff two pages": (
            saved(ids, "tiff", save_all=True, append_images=[Image.fromarray(ids)]),
            "2 pictures",
        ),
        "apng": (saved(rgb, "png", **animated), "2 pictures"),
        "pbm": (pgm(ids % 2, 1, magic="P4"), "0 is white"),
        "pfm": (saved(ids.astype(np.float32), "ppm"), "floating point"),
        "cmyk": (saved(rgb, "tiff", mode="CMYK"), "not read exactly"),
        "lab": (saved(rgb, "tiff", mode="LAB"), "not read exactly"),
        "bmp 5-6-5": (bytes(bmp_16), "BMP of 16 bits"),
        "signed 8": (tiff(ids % 128, 8, kind=2), "not read exactly"),
    }
    for bits in (1, 2, 4, 8, 16):
        files[f"0 is white, {bits}"] = tiff(grey(bits), bits, photometric=0), "0 is white"
    for code, told in (
        (34712, "of a kind that is not read"),  # Pillow knows neither JPEG 2000 inside TIFF
        (34887, "of a kind that is not read"),  # nor LERC
        (50001, "compression WebP"),
        (7, "compression JPEG"),
    ):
        files[f"tiff {code}"] = tiff(ids, 8, compression=code), told
    return files


def test_what_is_not_exact_is_refused_by_name():
    cases = refused()
    print(f"{len(cases)} kinds of label files refused")
    for name, (data, told) in cases.items():
        with pytest.raises(SegueError) as caught:
            decode_label(data, name)
        line = str(caught.value)
        assert told in line, line
        assert line.startswith(f"{name}: ")
        assert "\n" not in line


def test_previews_behind_the_first_picture_do_no_harm():
    ids = grey(8)
    data = saved(ids, "tiff", save_all=True, append_images=[Image.fromarray(ids[::2, ::2])])
    assert (decode_label(data, "x").values == ids).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_are_turned_as_they_say(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for kind, ids in {
        "png": grey(8),
        "png 16": grey(16),
        "tiff": grey(8),
        "webp": colour(3),
    }.items():
        options = {"lossless": True} if kind == "webp" else {}
        data = saved(ids, kind.split()[0], exif=exif, **options)
        assert (decode_label(data, kind).values == turned(ids, orientation)).all(), kind
    for bits, ids in {8: grey(8), 16: grey(16)}.items():
        kind = ids.astype(f"<u{bits // 8}").tobytes()
        data = tiff_of(kind, bits, extra=((ORIENTATION, 3, orientation),))
        assert (decode_label(data, "x").values == turned(ids, orientation)).all(), bits


def test_a_palette_comes_with_its_indices():
    ids = grey(4)
    found = decode_label(palette_image(ids, "png", 16, bits=4), "x")
    assert found.palette is not None
    assert found.palette[:3].tolist() == [[13, 20, 27], [34, 41, 48], [55, 62, 69]]
    assert decode_label(png(ids, 4), "x").palette is None
