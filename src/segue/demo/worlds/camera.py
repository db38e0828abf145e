"""The pinhole camera: from metres to pixels and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segue.demo.worlds.shapes import Points

Floats = NDArray[np.float32]

NEAR = 0.6  # metres; what is nearer is cut off
FRACTION_BITS = 3  # of cv2's fixed-point corners


@dataclass(frozen=True)
class Camera:
    """Where a camera is (metres), where it looks and how wide (degrees)."""

    x: float
    height: float
    pitch: float
    yaw: float
    roll: float
    field_of_view: float


class Lens:
    """Projects metres to pixels and back, for one camera and one image size."""

    def __init__(self, camera: Camera, width: int, height: int) -> None:
        self.width, self.height, self.camera = width, height, camera
        self.focal = width / 2 / float(np.tan(np.radians(camera.field_of_view) / 2))
        yaw, pitch, roll = (np.radians(a) for a in (camera.yaw, camera.pitch, camera.roll))
        right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
        down = np.array([np.sin(yaw) * np.sin(pitch), -np.cos(pitch), np.cos(yaw) * np.sin(pitch)])
        ahead = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
        turned_right = np.cos(roll) * right + np.sin(roll) * down
        turned_down = np.cos(roll) * down - np.sin(roll) * right
        self.axes: Points = np.stack([turned_right, turned_down, ahead])

    def view(self, points: Points, curve: float) -> Points:
        """World points [..., 3] in camera axes: right, down, ahead."""
        moved = points.copy()
        moved[..., 0] += curve * points[..., 2] ** 2 - self.camera.x
        moved[..., 1] -= self.camera.height
        return np.asarray(moved @ self.axes.T)

    def pixels(self, viewed: Points) -> NDArray[np.int32]:
        """Points in camera axes [..., 3] as cv2's fixed-point pixels [..., 2]."""
        centre = np.array([self.width / 2, self.height / 2])
        flat = viewed[..., :2] * (self.focal / viewed[..., 2:]) + centre - 0.5
        return np.asarray(np.rint(flat.clip(-3e4, 3e4) * 2**FRACTION_BITS), dtype=np.int32)

    def rays(self, first_row: int) -> tuple[Floats, Floats, Floats]:
        """Of all pixels from a row down, how far they look right, down and along the road."""
        across = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal
        down = (np.arange(first_row, self.height) + 0.5 - self.height / 2) / self.focal
        columns = [
            (down[:, None] * axis[1] + axis[2] + across[None] * axis[0]).astype(np.float32)
            for axis in self.axes.T
        ]
        return columns[0], -columns[1], columns[2]


def clip_near(polygon: Points) -> Points:
    """The part of a polygon [corners, 3] in camera axes that lies beyond the near plane.

    Example:
        >>> clip_near(np.array([[0, 0, -1.0], [0, 0, 2.0], [1, 0, 2.0]])).shape
        (4, 3)
        >>> clip_near(np.array([[0, 0, -1.0], [0, 0, -2.0], [1, 0, -2.0]])).shape
        (0, 3)
    """
    kept: list[Points] = []
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if start[2] >= NEAR:
            kept.append(start)
        if (start[2] >= NEAR) != (end[2] >= NEAR):
            kept.append(start + (end - start) * (NEAR - start[2]) / (end[2] - start[2]))
    return np.array(kept).reshape(-1, 3)
