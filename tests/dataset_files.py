"""Tiny files in the real layouts, for tests."""

import struct
import zlib

import cv2
import numpy as np
from PIL import Image

SIZE = (12, 8)  # width, height


def random_image(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def random_ids(seed=0, size=SIZE, most=35):
    return np.random.default_rng(seed).integers(0, most, (size[1], size[0])).astype(np.uint8)


def save_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def save_palette(path, ids):
    """As GTA5's: indices are the ids, the colours shown are something else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes("P", ids.shape[::-1], ids.tobytes())
    image.putpalette([(7 * i + 13) % 256 for i in range(768)])
    image.save(path)


def save_synthia(path, ids):
    """As SYNTHIA's: 16 bits, red the class, green an instance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = np.zeros((*ids.shape, 3), np.uint16)
    bgr[..., 2], bgr[..., 1] = ids, 300 + ids.astype(np.uint16)
    path.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())


def write_gta5(root, count=3):
    for index in range(1, count + 1):
        save_image(root / f"images/{index:05}.png", random_image(index))
        save_palette(root / f"labels/{index:05}.png", random_ids(index))


def write_synthia(root, count=3):
    for index in range(count):
        save_image(root / f"RGB/{index:07}.png", random_image(index))
        save_synthia(root / f"GT/LABELS/{index:07}.png", random_ids(index, most=23))


def write_cityscapes(root, count=3):
    for index in range(count):
        city = "aachen" if index % 2 else "bonn"
        scene = f"{city}/{city}_{index:06}_000019"
        save_image(root / f"leftImg8bit/train/{scene}_leftImg8bit.png", random_image(index))
        save_image(root / f"gtFine/train/{scene}_gtFine_labelIds.png", random_ids(index))
        save_image(root / f"gtFine/train/{scene}_gtFine_color.png", random_image(index))


def write_folder(root, count=3):
    for index in range(count):
        save_image(root / f"images/{index}.jpg", random_image(index))
        save_image(root / f"labels/{index}.png", random_ids(index, most=19))


WRITERS = {
    "gta5": write_gta5,
    "synthia": write_synthia,
    "cityscapes": write_cityscapes,
    "folder": write_folder,
}


def png(ids, bits, colour_type=0):
    """A PNG file of any bit depth, written by hand."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = ids.shape
    rows = []
    for row in ids:
        if bits == 16:
            packed = row.astype(">u2").tobytes()
        else:
            spread = ((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)
            packed = np.packbits(spread.ravel()).tobytes()
        rows.append(b"\0" + packed)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")
