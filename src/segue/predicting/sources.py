"""What can be predicted: image files, video files, cameras, streams and what comes by stdin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv")
STDIN = "-"
_CAMERA = re.compile(r"camera:(\d+)")
_ADDRESS = re.compile(r"(rtsps?|rtmps?|https?|udp|tcp|srt)://", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Where one image comes from, or the frames of a video or stream.

    Args:
        kind: `camera` and `stream` show what goes on now, `address` is a file elsewhere.
        shown: what messages call it, without passwords.
        name: what its predictions are called after.
        path: the file; None where it is none here.
        address: what OpenCV opens: a file, an address, or a camera's number.
    """

    kind: Literal["image", "video", "address", "piped", "camera", "stream"]
    shown: str
    name: str
    path: Path | None = None
    address: str | int = ""

    @property
    def live(self) -> bool:
        """Whether it goes on whether it is looked at or not, and never shows the same again."""
        return self.kind in ("camera", "stream")


def source_of(path: Path) -> Source:
    """A file as an image or video, by its ending; one without a known ending is an image."""
    kind: Literal["image", "video"] = "video" if path.suffix.lower() in VIDEOS else "image"
    return Source(kind, str(path), path.stem, path, str(path))


def streamed(given: str) -> Source | None:
    """What a path stands for that is none: stdin, a camera, an address; None for paths.

    Example:
        >>> streamed("-").name, streamed("camera:0").address, streamed("photos")
        ('stdin', 0, None)
        >>> one = streamed("rtsp://me:secret@10.0.0.7:554/front?channel=1")
        >>> one.shown, one.name, one.live
        ('rtsp://10.0.0.7/front', '10.0.0.7_front', True)
    """
    if given == STDIN:
        return Source("piped", "stdin", "stdin")
    if camera := _CAMERA.fullmatch(given):
        return Source("camera", given, f"camera_{camera[1]}", address=int(camera[1]))
    if _ADDRESS.match(given) is None:
        return None
    parts = urlsplit(given)
    place = f"{parts.hostname or ''}{parts.path}"
    name = re.sub(r"[^\w.-]+", "_", place).strip("._")
    if Path(parts.path).suffix.lower() in VIDEOS:
        named = Path(parts.path).stem
        return Source("address", f"{parts.scheme}://{place}", named, address=given)
    return Source("stream", f"{parts.scheme}://{place}", name or "stream", address=given)
