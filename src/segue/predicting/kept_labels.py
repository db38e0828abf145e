"""Labels of a video's frames, kept until its overlay video is whole: what --resume goes on from."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from segue.errors import SegueError

FORMAT = 1
_RECORD = struct.Struct(">II")  # length, CRC-32


class KeptLabels:
    """A file of frames' labels, compressed, one after the other; it may end anywhere.

    A video file cannot be added to once it is closed, and one that was not closed cannot be read.

    Args:
        path: the file.
        video: what the labels are of; a file whose size or time has changed since is another.
        space: names of the classes.
        resume: go on with what is there, where it is of this video and these classes.
    """

    def __init__(self, path: Path, video: Path, space: tuple[str, ...], *, resume: bool) -> None:
        self.path = path
        state = video.stat()
        told = {"format": FORMAT, "video": [state.st_size, state.st_mtime_ns], "classes": space}
        self._head = json.dumps(told).encode() + b"\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = resume and path.is_file()
        self._file: BinaryIO = path.open("r+b" if kept else "w+b")
        if not kept or self._file.readline() != self._head:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(self._head)

    def stored(self) -> Iterator[NDArray[np.uint8]]:
        """The labels [H, W] that are there, from the first frame on; what follows is dropped.

        To be read to its end before labels are added.
        """
        while True:
            place = self._file.tell()
            label = self._next()
            if label is None:
                self._file.seek(place)
                self._file.truncate()
                return
            yield label

    def _next(self) -> NDArray[np.uint8] | None:
        head = self._file.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return None
        length, check = _RECORD.unpack(head)
        data = self._file.read(length)
        if len(data) < length or zlib.crc32(data) != check:
            return None
        height, width = struct.unpack(">II", data[:8])
        return np.frombuffer(zlib.decompress(data[8:]), np.uint8).reshape(height, width)

    def add(self, label: NDArray[np.uint8]) -> None:
        """Keeps the labels of the next frame.

        Raises:
            SegueError: no space is left.
        """
        data = struct.pack(">II", *label.shape) + zlib.compress(label.tobytes(), 1)
        try:
            self._file.write(_RECORD.pack(len(data), zlib.crc32(data)) + data)
            self._file.flush()
        except OSError as error:
            fix = "free some; with --resume it goes on"
            raise SegueError(str(error.strerror or error), where=self.path, fix=fix) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
