"""The frames of videos, cameras, streams and pipes, read while others are predicted."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from threading import Condition, Thread

import cv2
import numpy as np
from numpy.typing import NDArray

from segue.datasets.depth import Range
from segue.datasets.reading import decode_image
from segue.errors import SegueError
from segue.predicting.piped import MAKE, images_in
from segue.predicting.sources import Source
from segue.runtime.prefetch import ahead
from segue.runtime.signals import received

# Read once, when OpenCV first opens a video: what is wrong with one is told here, in one line.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

Frame = tuple[int, NDArray[np.uint8]]  # its number, from 0, and RGB [H, W, 3]
Wanted = Callable[[int], bool]
AHEAD = 2  # decoded frames that may wait for the network
USUAL_RATE = 25.0
LISTEN = 0.2  # seconds between looks for Ctrl-C while nothing comes
_BELIEVED = (1.0, 240.0)  # of some streams the container's clock is told, of some cameras nothing


@dataclass(frozen=True)
class Film:
    """An opened video or stream.

    Args:
        source: what was opened.
        rate: frames per second.
        total: about how many frames there are; None where nobody knows.
        read: gives the frames that are wanted one after the other, once.
    """

    source: Source
    rate: float
    total: int | None
    read: Callable[[Wanted], Iterator[Frame]]

    def frames(
        self, wanted: Wanted = lambda _: True, *, most: int = AHEAD
    ) -> Generator[Frame, None, None]:
        """The frames that are wanted, read by a thread while others are in use; to be closed.

        Of what is live, frames are left out, and their numbers, where a newer one has come before
        anybody asks. Of all else every frame is given, and up to `most` wait.
        """
        found = self.read(wanted)
        if self.source.live:
            yield from _newest(found)
            return
        # Closed at once: the capture is released after it, which no thread may then be reading.
        with closing(ahead(lambda _: next(found, None), count(), most=most)) as frames:
            for frame in frames:
                if frame is None:
                    return
                yield frame


@contextmanager
def opened(source: Source, range_: Range | None = None) -> Iterator[Film]:
    """Opens a video or stream.

    Args:
        source: what to open.
        range_: what is black and white in piped images of more than 8 bits.

    Raises:
        SegueError: OpenCV cannot open it, or nothing is piped in.
    """
    if source.kind == "piped":
        if sys.stdin is None or sys.stdin.isatty():
            raise SegueError("nothing is piped in", where=source.shown, fix=MAKE)
        yield Film(source, USUAL_RATE, None, lambda wanted: _piped(wanted, range_))
        return
    capture = _capture(source)
    try:
        total, rate = (capture.get(one) for one in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        yield Film(
            source,
            rate if math.isfinite(rate) and _BELIEVED[0] <= rate <= _BELIEVED[1] else USUAL_RATE,
            int(total) if not source.live and math.isfinite(total) and total > 0 else None,
            lambda wanted: _captured(capture, wanted),
        )
    finally:
        capture.release()


def _capture(source: Source) -> cv2.VideoCapture:
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(source.address)
    finally:
        cv2.utils.logging.setLogLevel(before)
    if capture.isOpened():
        return capture
    fixes = {
        "video": "copy or download it again, or make it anew with ffmpeg",
        "camera": "look whether it is there, and whether another program has it",
    }
    fix = fixes.get(source.kind, "look whether the address answers")
    raise SegueError("cannot be opened as a video", where=source.shown, fix=fix)


def _captured(capture: cv2.VideoCapture, wanted: Wanted) -> Iterator[Frame]:
    number = 0
    while capture.grab():
        if wanted(number):
            whole, image = capture.retrieve()
            if not whole:
                return
            yield number, np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
        number += 1


def _piped(wanted: Wanted, range_: Range | None) -> Iterator[Frame]:
    for number, data in enumerate(images_in(sys.stdin.buffer)):
        if wanted(number):
            yield number, np.array(decode_image(data, f"stdin, frame {number}", range_))


def _newest(frames: Iterator[Frame]) -> Generator[Frame, None, None]:
    """Frames of what does not wait: whenever one is asked for, the newest."""
    changed = Condition()
    held: list[Frame | None] = []  # one at most; None is the end
    stopped = False

    def watch() -> None:
        try:
            for frame in frames:
                with changed:
                    held[:] = [frame]
                    changed.notify()
                    if stopped:
                        return
        finally:
            with changed:
                # The last frame is still to be taken.
                changed.wait_for(lambda: stopped or not held)
                held[:] = [None]
                changed.notify()

    thread = Thread(target=watch, name="frames", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                while not changed.wait_for(lambda: bool(held), timeout=LISTEN):
                    if received():
                        return
                frame = held.pop()
                changed.notify()
            if frame is None or received():
                return
            yield frame
    finally:
        with changed:
            stopped = True
            changed.notify()
        # Only then may the capture be released.
        thread.join()
