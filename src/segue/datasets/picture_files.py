"""What an image file says of itself (format, depth, orientation), and its pixels as stored."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segue.errors import SegueError

# Not all that PIL knows: for some it starts other programs.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
ORIENTATION = 0x0112  # EXIF's and TIFF's tag
PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262  # TIFF's tags
_SAMPLES, _SAMPLE_KIND = 277, 339
_TIFF_CODECS = {
    1: "none",
    2: "CCITT",
    3: "CCITT",
    4: "CCITT",
    5: "LZW",
    6: "JPEG",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
}
_PNM = re.compile(rb"P[1-7fF](?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])+\d+")
_PNM_HIGHEST = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])+(\d+)")
# How files begin that people take for images that are read; `ftyp` comes after four bytes.
_KNOWN = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    PNG: "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"ftypavif": "AVIF",
    b"ftyphei": "HEIC",
    b"ftypmif1": "HEIF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL": "JPEG XL",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"\x93NUMPY": "NumPy",
    b"8BPS": "Photoshop",
    b"SIMPLE  =": "FITS",
    b"<svg": "SVG",
    b"%PDF": "PDF",
}
# Of Pillow's, those whose numbers are the file's.
_MODES = ("1", "L", "P", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "F")

Kind = Literal["unsigned", "signed", "float"]


@dataclass(frozen=True)
class Storage:
    """How a file stores its pixels.

    Args:
        format: as people call it, such as "PNG" or "PGM".
        bits: of a channel, the most that one has.
        channels: with alpha; 1 of a palette image, whose pixels are indices.
        kind: of numbers.
        white: the highest value of that depth; None where nothing says what white is.
        compression: of a TIFF or WebP file, "" of others.
        inverted: whether 0 is white.
    """

    format: str
    bits: int = 8
    channels: int = 3
    kind: Kind = "unsigned"
    white: int | None = 255
    compression: str = ""
    inverted: bool = False

    def __str__(self) -> str:
        """In the words of messages.

        Example:
            >>> str(Storage("TIFF", 32, 1, "float", None, "LZW"))
            'TIFF, 32 bit float, compression LZW'
        """
        kind = "" if self.kind == "unsigned" else f" {self.kind}"
        packed = f", compression {self.compression}" if self.compression else ""
        return f"{self.format}, {self.bits} bit{kind}{packed}"


@contextmanager
def opened_picture(data: bytes, where: object) -> Iterator[Image.Image]:
    """The file's picture, not decoded yet; what decoders refuse inside becomes one line.

    Raises:
        SegueError: the file is truncated, no image or too large.
    """
    with readable(where, data), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        yield image


@contextmanager
def readable(where: object, data: bytes = b"") -> Iterator[None]:
    """Turns what a decoder refuses into an error for the user; `data` is the file, to name it."""
    try:
        yield
    except SegueError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SegueError(
            f"the image is too large to open safely ({error})",
            where=where,
            fix="cut it into smaller images",
        ) from error
    except UnidentifiedImageError as error:
        known = _known(data)
        raise SegueError(
            f"a {known} file that is damaged or of a kind that is not read"
            if known
            else "not an image",
            where=where,
            fix="store it as PNG" if known else "remove the file or replace it by an image",
        ) from error
    # Decoders raise whatever a damaged file leads them to: OSError, IndexError, zlib's own, ...
    except Exception as error:
        raise SegueError(
            f"the image is truncated or damaged ({error or type(error).__name__})",
            where=where,
            fix="copy or download it again",
        ) from error


def _known(data: bytes) -> str | None:
    """What people call a file that no decoder here knows, by how it begins."""
    heads = (data[4:16], data[:16]) if data[4:8] == b"ftyp" else (data[:16],)
    return next((_KNOWN[one] for one in _KNOWN for head in heads if head.startswith(one)), None)


def storage_of(image: Image.Image, data: bytes, where: object) -> Storage:
    """How the file stores its pixels, from its header.

    Raises:
        SegueError: a PNG file's header is not where it belongs.
    """
    if image.format == "PNG":
        return _png(data, where)
    if image.format == "TIFF":
        return _tiff(image)
    if image.format == "PPM":
        return _pnm(data)
    if image.format == "WEBP":
        packed = "lossless" if _webp_codec(data) == b"VP8L" else "lossy"
        return Storage("WebP", channels=len(image.getbands()), compression=packed)
    if image.format == "JPEG2000":
        bits = _jpeg_2000_bits(data)
        return Storage("JPEG 2000", bits, len(image.getbands()), white=2**bits - 1)
    if image.format == "BMP":
        bits = int.from_bytes(data[28:30], "little")
        return Storage("BMP", 5 if bits == 16 else 8, len(image.getbands()))
    return Storage(str(image.format), channels=len(image.getbands()))


def _png(data: bytes, where: object) -> Storage:
    if data[12:16] != b"IHDR":  # PIL finds it elsewhere too, and would make 8 bits of 16
        raise SegueError("the header does not come first", where=where, fix="store it as PNG anew")
    bits, colour_type = data[24], data[25]
    return Storage("PNG", bits, _PNG_CHANNELS.get(colour_type, 1), white=2**bits - 1)


def _tiff(image: Image.Image) -> Storage:
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    bits = max(tags.get(_BITS, (1,)))
    kinds: dict[int, Kind] = {1: "unsigned", 2: "signed", 3: "float"}
    kind = kinds.get(max(tags.get(_SAMPLE_KIND, (1,))), "unsigned")
    code = tags.get(_COMPRESSION, 1)
    white = 2**bits - 1 if kind == "unsigned" and bits <= 16 else None
    codec = _TIFF_CODECS.get(code, str(code))
    inverted = tags.get(_PHOTOMETRIC) == 0
    return Storage("TIFF", bits, tags.get(_SAMPLES, 1), kind, white, codec, inverted)


def _pnm(data: bytes) -> Storage:
    name = {b"1": "PBM", b"4": "PBM", b"2": "PGM", b"5": "PGM", b"3": "PPM", b"6": "PPM"}.get(
        data[1:2], "PFM"
    )
    if name == "PBM":
        return Storage(name, 1, 1, white=1, inverted=True)
    if name == "PFM":
        return Storage(name, 32, 1, "float", None)
    channels, head = (1 if name == "PGM" else 3), _PNM.match(data)
    highest = _PNM_HIGHEST.match(data, head.end()) if head is not None else None
    if highest is None:
        raise ValueError("the header is not whole")
    white = int(highest[1])
    return Storage(name, max(1, white.bit_length()), channels, white=white)


def _webp_codec(data: bytes) -> bytes:
    """The name of the chunk that holds the pixels; of an animation that of its frames."""
    at = 12
    while at + 8 <= len(data):
        name = data[at : at + 4]
        if name in (b"VP8L", b"VP8 ", b"ANMF"):
            return name
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return b""


def _jpeg_2000_bits(data: bytes) -> int:
    start = data.find(b"\xff\x4f\xff\x51")  # start of the codestream and its SIZ segment
    return (data[start + 42] & 0x7F) + 1


def stored(image: Image.Image, data: bytes, storage: Storage, where: object) -> NDArray[Any]:
    """The numbers that the file holds, [H, W] or [H, W, channels], turned upright.

    Raises:
        SegueError: this combination of format, depth and channels is not read exactly.
    """
    if storage.bits > 8 and (storage.channels > 1 or storage.format == "PPM"):
        return _by_opencv(image, data, storage, where)
    if storage.format == "JPEG 2000" and storage.bits not in (8, 16):
        raise inexact(storage, where)
    if image.mode not in _MODES:
        raise inexact(storage, where)
    image.load()
    values: NDArray[Any] = np.asarray(image)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if storage.format in ("PGM", "PPM"):
        # Pillow spreads them over 8 or 16 bits, which is undone to the bit.
        shown, white = (255 if image.mode != "I" else 65535), storage.white or 1
        values = np.rint(values * (white / shown)).astype(np.int32)
    elif image.mode == "L" and storage.bits in (2, 4):
        values = values // (255 // (2**storage.bits - 1))
    return turned(values, orientation_of(image))


def _by_opencv(
    image: Image.Image, data: bytes, storage: Storage, where: object
) -> NDArray[np.uint16]:
    """Colour of 16 bits, of which Pillow keeps 8."""
    if storage.format not in ("PNG", "PPM", "TIFF") or image.mode not in ("RGB", "RGBA", "LA"):
        raise inexact(storage, where)
    # OpenCV decodes what is left of a broken file without a word; Pillow tells.
    image.load()
    orientation = orientation_of(image)
    with _quiet_opencv():
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.ndim != 3:
        raise inexact(storage, where)
    order = {2: (0, 3), 3: (2, 1, 0), 4: (2, 1, 0, 3)}[storage.channels]  # OpenCV's is BGRA
    if decoded.shape[2] <= max(order):
        raise inexact(storage, where)
    values = np.asarray(np.ascontiguousarray(decoded[..., order]), np.uint16)
    if storage.format == "TIFF" and not _agree(values, np.asarray(image)):
        raise inexact(storage, where)
    return turned(values, orientation)


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """It warns on the terminal of tags that it does not know."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def _agree(deep: NDArray[np.uint16], shallow: NDArray[np.uint8]) -> bool:
    """Whether two decoders saw the same picture, one of them in 8 bits."""
    return deep.shape == shallow.shape and bool(((deep >> 8) == shallow).all())


def inexact(storage: Storage, where: object) -> SegueError:
    """The refusal of a file whose values no decoder here gives as they are."""
    return SegueError(
        f"{storage} with {storage.channels} channels is not read exactly",
        where=where,
        fix="store it as PNG",
    )


def orientation_of(image: Image.Image) -> int:
    """How a picture is to be turned, 1 to 8 as EXIF counts; 1 of TIFF, which Pillow turns."""
    if image.format == "TIFF":
        return 1
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not make a picture unreadable
        return 1
    return orientation if orientation in range(1, 9) else 1


def turned(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels [H, W, ...] upright.

    Example:
        >>> turned(np.array([[1, 2], [3, 4]]), 6).tolist()  # the camera was turned to its right
        [[3, 1], [4, 2]]
    """
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def upright_size(image: Image.Image, file: IO[bytes]) -> tuple[int, int]:
    """Width and height after turning; of most files from the header alone."""
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
        return (height, width) if tags.get(ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)
    width, height = image.size
    if image.format == "PNG" and not _png_says_more(file):
        return width, height
    return (height, width) if orientation_of(image) >= 5 else (width, height)


def _png_says_more(file: IO[bytes]) -> bool:
    """Whether a PNG file has an EXIF or XMP block; Pillow decodes all of it to look."""
    at = file.tell()
    file.seek(len(PNG))
    try:
        while len(head := file.read(8)) == 8:
            length, name = int.from_bytes(head[:4], "big"), head[4:]
            start = file.read(min(length, 24)) if name in (b"tEXt", b"zTXt", b"iTXt") else b""
            if name == b"eXIf" or start.startswith((b"Raw profile type", b"XML:com.adobe.xmp")):
                return True
            file.seek(length - len(start) + 4, io.SEEK_CUR)
        return False
    finally:
        file.seek(at)
