"""Tiny picture files of every kind, also those that no library here writes."""

import io
import struct

import cv2
import numpy as np
from PIL import Image

H, W = 6, 10
RANDOM = np.random.default_rng(0)


def grey(bits):
    return RANDOM.integers(0, 2**bits, (H, W)).astype(np.uint16 if bits > 8 else np.uint8)


def colour(channels, bits=8):
    kind = np.uint16 if bits > 8 else np.uint8
    values = RANDOM.integers(0, 2**bits, (H, W, channels)).astype(kind)
    values[0, 0, -1], values[1, 0, -1] = 2**bits - 1, 0
    return values


def saved(array, kind, mode=None, **options):
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def palette_image(values, kind, colours=256, **options):
    image = Image.frombytes("P", (W, H), values.tobytes())
    image.putpalette([(7 * i + 13) % 256 for i in range(3 * colours)])
    return saved(image, kind, **options)


def by_opencv(array, kind, options=()):
    bgr = array if array.ndim == 2 else array[..., [2, 1, 0, 3][: array.shape[2]]]
    return cv2.imencode(kind, bgr, options)[1].tobytes()


def tiff(values, bits, *, photometric=1, kind=1, compression=1, order="<"):
    """A grey TIFF by hand: what no library here writes."""
    bytes_ = []
    for row in values:
        if bits >= 8:
            bytes_.append(row.astype(f"{order}{'uif'[kind - 1]}{bits // 8}").tobytes())
        else:
            line = "".join(f"{value:0{bits}b}" for value in row)
            line += "0" * (-len(line) % 8)
            bytes_.append(bytes(int(line[at : at + 8], 2) for at in range(0, len(line), 8)))
    data = b"".join(bytes_)
    return tiff_of(
        data, bits, photometric=photometric, kind=kind, compression=compression, order=order
    )


def tiff_of(data, bits, *, photometric=1, kind=1, compression=1, order="<", extra=()):
    tags = [
        (256, 4, W),
        (257, 4, H),
        (258, 3, bits),
        (259, 3, compression),
        (262, 3, photometric),
        (273, 4, 0),
        (277, 3, 1),
        (278, 4, H),
        (279, 4, len(data)),
        (339, 3, kind),
        *extra,
    ]
    at = 8 + 2 + 12 * len(tags) + 4
    body = struct.pack(f"{order}H", len(tags))
    for tag, size, value in sorted(tags):
        value = at if tag == 273 else value
        packed = struct.pack(f"{order}{'H' if size == 3 else 'I'}", value).ljust(4, b"\0")
        body += struct.pack(f"{order}HHI", tag, size, 1) + packed
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}I", 8) + body + struct.pack(f"{order}I", 0) + data


def pgm(values, highest, *, plain=False, magic=None):
    height, width = values.shape[:2]
    head = f"{magic or ('P2' if plain else 'P5')}\n# made by hand\n{width} {height}\n{highest}\n"
    head = head.encode()
    if plain:
        return head + " ".join(map(str, values.ravel())).encode() + b"\n"
    return head + values.astype(">u2" if highest > 255 else "u1").tobytes()
