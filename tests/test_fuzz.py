"""Damaged PNG and JPEG files: refused in one line, or read exactly as the reference reads them.

`SEGUE_FUZZ=20000 .venv/bin/pytest tests/test_fuzz.py` tries so many instead of the usual few; the
n-th mutation is always the same.
"""

import io
import os
import random
import signal
import struct
import zlib
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from PIL import Image

from segue.datasets.reading import FORMATS, read_image, read_image_size, read_raw_label
from segue.errors import SegueError

MUTATIONS = int(os.environ.get("SEGUE_FUZZ", "200"))
BATCHES = 10
SECONDS = 5  # of CPU, for a file of a kilobyte
# PIL warns of what it repairs or leaves out.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

EXTRA = {  # chunks that decoders look into
    b"iCCP": b"x\0\0" + zlib.compress(bytes(1 << 22)),
    b"zTXt": b"x\0\0" + zlib.compress(bytes(1 << 22)),
    b"iTXt": b"abc\0\1\0\0\0not compressed",
    b"tEXt": b"no zero",
    b"tRNS": bytes(5),
    b"PLTE": bytes(7),
    b"acTL": bytes(3),
    b"fcTL": bytes(9),
    b"eXIf": bytes(range(20)),
    b"gAMA": b"ab",
    b"cHRM": b"ab",
    b"pHYs": b"a",
    b"sRGB": b"",
}


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seeds():
    """Files of every kind that datasets come in, by name."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (24, 32, 3), np.uint8)
    smooth = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8)
    colours = generator.integers(0, 2**16, (24, 32, 3), np.uint16)
    grey, rgb = Image.fromarray(smooth), Image.fromarray(noise)
    palette = Image.frombytes("P", (32, 24), (smooth % 19).tobytes())
    palette.putpalette(bytes(range(57)))
    wide = grey.quantize(4)
    return {
        "rgb.png": encoded(rgb, "png"),
        "grey.png": encoded(grey, "png"),
        "rgba.png": encoded(rgb.convert("RGBA"), "png"),
        "palette.png": encoded(palette, "png"),
        "2-bits.png": encoded(wide, "png", bits=2),
        "16-bits.png": encoded(Image.fromarray(smooth.astype(np.uint16) * 200), "png"),
        "colour-16-bits.png": cv2.imencode(".png", colours)[1].tobytes(),
        "animated.png": encoded(rgb, "png", save_all=True, append_images=[rgb.rotate(180)]),
        "baseline.jpg": encoded(rgb, "jpeg"),
        "progressive.jpg": encoded(rgb, "jpeg", progressive=True, quality=80),
        "grey.jpg": encoded(grey, "jpeg"),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "jpeg"),
    }


SEEDS = seeds()


def chunks(data):
    """Kinds and contents of a PNG's chunks."""
    found, place = [], 8
    while place + 8 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def joined(parts):
    """The PNG of these chunks, with checksums that are right whatever is wrong."""
    whole = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def flipped(data, chance):
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 16]) if data else 0):
        changed[chance.randrange(len(data))] = chance.choice([0, 255, 127, chance.randrange(256)])
    return bytes(changed)


def with_other_pixels(parts, chance):
    """What is compressed changed or cut short, and compressed again."""
    packed = b"".join(data for kind, data in parts if kind == b"IDAT")
    raw = zlib.decompress(packed)
    raw = flipped(raw, chance) if chance.random() < 0.5 else raw[: chance.randrange(len(raw))]
    rest = [part for part in parts if part[0] != b"IDAT"]
    return [*rest[:-1], (b"IDAT", zlib.compress(raw)), rest[-1]]


def mutated(data, chance):
    """A file with something wrong, in its bytes or, for PNGs, in its structure."""
    choice = chance.randrange(7 if data.startswith(b"\x89PNG") else 3)
    first, second = sorted(chance.randrange(len(data)) for _ in range(2))
    if choice == 0:
        return flipped(data, chance)
    if choice == 1:
        return data[:first]
    if choice == 2:
        return data[:first] + data[first:second] * chance.choice([0, 2, 3]) + data[second:]
    parts = chunks(data)
    place = chance.randrange(len(parts))
    kind, content = parts[place]
    if choice == 3:
        parts[place] = kind, flipped(content, chance)
    elif choice == 4:
        parts[place:place] = [parts[place]] * chance.choice([1, 2])
        del parts[chance.randrange(len(parts))]
    elif choice == 5:
        extra = chance.choice(list(EXTRA))
        parts.insert(chance.randrange(len(parts) + 1), (extra, flipped(EXTRA[extra], chance)))
    else:
        parts = with_other_pixels(parts, chance)
    return joined(parts)


@contextmanager
def limited():
    """Ends what takes too long; other processes' share of the time does not count."""

    def stop(number, frame):
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def tried(read, path):
    """What a reader gives, or nothing if it refuses in one line; anything else is a crash."""
    told = f"{path}: "
    try:
        with limited():
            found = read(path)
    except SegueError as error:
        told, found = str(error), None
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    return found


def reference(data):
    """PIL's own pixels, as they are stored."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()
        return image


def as_rgb(image):
    deep = image.mode.startswith("I;16")
    picture = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if deep else image
    return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_damaged_files_are_refused_or_read_as_the_reference_reads_them(batch, tmp_path):
    path, read = tmp_path / "file", 0
    for number in range(batch, MUTATIONS, BATCHES):
        chance = random.Random(number)
        name = chance.choice(sorted(SEEDS))
        data = mutated(SEEDS[name], chance)
        path.write_bytes(data)
        about = f"mutation {number} of {name}"
        image, label, size = (
            tried(one, path) for one in (read_image, read_raw_label, read_image_size)
        )
        if image is not None:
            read += 1
            assert size == image.size, about
            assert np.array_equal(np.asarray(image), as_rgb(reference(data))), about
        if label is not None:
            check_label(label, data, about)
    assert read, "everything is refused"


def check_label(label, data, about):
    """A label's ids are PIL's values, or of 16-bit colours, of which PIL keeps 8, OpenCV's."""
    if data[24] == 16 and data[25] in (2, 6):
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(label, decoded[..., 2]), about
        return
    image = reference(data)
    stored = np.asarray(image)
    red = stored[..., 0] if image.mode in ("RGB", "RGBA") else stored
    spread = {2: 85, 4: 17}.get(data[24], 1) if data[25] == 0 and image.mode == "L" else 1
    assert np.array_equal(label, red // spread), about


@pytest.mark.parametrize("name", SEEDS)
def test_files_that_are_not_damaged_are_read(name, tmp_path):
    (tmp_path / name).write_bytes(SEEDS[name])
    assert read_image(tmp_path / name).size == (32, 24)


def test_bytes_of_no_format_are_refused(tmp_path):
    generator = np.random.default_rng(0)
    for start in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"BM",
        b"II*\0",
        b"GIF89a",
        b"P6\n",
    ):
        (tmp_path / "file").write_bytes(start + generator.bytes(300))
        for read in (read_image, read_raw_label, read_image_size):
            tried(read, tmp_path / "file")


def test_a_png_whose_header_comes_late_is_no_label(tmp_path):
    """PIL opens it and would make 8 bits of 16, so that every id became 0."""
    ids = np.zeros((4, 4, 3), np.uint16)
    ids[..., 2] = 7
    data = cv2.imencode(".png", ids)[1].tobytes()
    (tmp_path / "file.png").write_bytes(joined([(b"tEXt", b"a\0b"), *chunks(data)]))
    with pytest.raises(SegueError, match="the header does not come first"):
        read_raw_label(tmp_path / "file.png")


def test_pil_starts_no_other_program_for_an_image(tmp_path):
    """PIL hands PostScript to Ghostscript, whatever the file is called."""
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path, "eps")
    with Image.open(path) as image:
        assert image.format == "EPS"
    for read in (read_image, read_raw_label, read_image_size):
        with pytest.raises(SegueError, match="not an image"):
            read(path)
