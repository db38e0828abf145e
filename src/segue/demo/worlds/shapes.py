"""Flat polygons in metres, the light on them, and the label ids that they carry.

Axes: x to the right of the road's middle, y up, z along the road from the camera's foot. Things
that turn with the camera (people, trees, signs) are cut-outs facing it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segue.demo.worlds.worlds import Colour

Points = NDArray[np.float64]

STATIC, ROAD, SIDEWALK, BUILDING, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = 4, 7, 8, 11, 17, 19, 20
VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR, BUS, BICYCLE = 21, 22, 23, 24, 25, 26, 28, 33
EGO = 1

NORMALS: Mapping[str, Colour] = {
    "left": (-1.0, 0.0, 0.0),
    "right": (1.0, 0.0, 0.0),
    "near": (0.0, 0.0, -1.0),
    "top": (0.0, 1.0, 0.0),
    "viewer": (0.0, 0.5, -0.87),
}


UNIT = np.array([(0.0, 1.0, 1.0, 0.0), (0.0, 0.0, 1.0, 1.0)])  # a square's corners


@dataclass(frozen=True)
class Sun:
    """The light on a surface: direction towards the sun (unit), its share, its colour."""

    direction: Colour
    direct: float
    colour: Colour

    def factors(self) -> dict[str, Points]:
        """By which factors [3] each side of `NORMALS` shows its colour; lamps need no light."""
        found: dict[str, Points] = {"lamp": np.ones(3)}
        for side, normal in NORMALS.items():
            facing = max(0.0, sum(a * b for a, b in zip(normal, self.direction, strict=True)))
            ambient = (1.0 - self.direct) * (0.85 + 0.15 * normal[1])
            found[side] = ambient + 1.5 * self.direct * facing * np.array(self.colour)
        return found


@dataclass(frozen=True)
class Shape:
    """Convex polygons of one label id, on one side of a thing.

    Args:
        points: [count, corners, 3].
        colour: in full light, one for all or [count, 3].
        label: Cityscapes label id.
        side: a key of `NORMALS`, or "lamp" for what shines by itself.
    """

    points: Points
    colour: Colour | Points
    label: int
    side: str = "viewer"


@dataclass(frozen=True)
class Thing:
    """Shapes from back to front, with what orders them and what casts their shadow.

    Args:
        distance: metres along the road; the farther is painted first.
        shapes: painted in this order.
        foot: (x0, x1, z0, z1, height) of the block that casts the shadow.
    """

    distance: float
    shapes: list[Shape] = field(default_factory=list)
    foot: tuple[float, float, float, float, float] | None = None


def tone(rng: np.random.Generator, palette: tuple[Colour, ...], spread: float = 0.06) -> Colour:
    """A colour of the palette, lighter or darker by a relative `spread`."""
    colour = palette[int(rng.integers(len(palette)))]
    factor = float(np.exp(rng.normal(0.0, spread)))
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def dim(colour: Colour, factor: float) -> Colour:
    """The colour times a factor."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def faces(
    x: tuple[float, float],
    y: tuple[float, float],
    z: tuple[float, float],
    eye: tuple[float, float],
    taper: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> dict[str, Points]:
    """The faces of a block that the eye sees, each [4, 3], counted from its lower left corner.

    `eye` is the camera's (x, y). `taper` draws in the top: both sides, near end, far end.
    """
    (x0, x1), (y0, y1), (z0, z1) = x, y, z
    side, near, far = taper
    u0, u1, w0, w1 = x0 + side, x1 - side, z0 + near, z1 - far
    found: dict[str, Points] = {}
    if eye[0] < u0:
        found["left"] = np.array([(x0, y0, z1), (x0, y0, z0), (u0, y1, w0), (u0, y1, w1)])
    if eye[0] > u1:
        found["right"] = np.array([(x1, y0, z0), (x1, y0, z1), (u1, y1, w1), (u1, y1, w0)])
    if eye[1] > y1 or near:
        found["top"] = np.array([(u0, y1, w0), (u1, y1, w0), (u1, y1, w1), (u0, y1, w1)])
    found["near"] = np.array([(x0, y0, z0), (x1, y0, z0), (u1, y1, w0), (u0, y1, w0)])
    return found


def on_face(face: Points, across: Points, up: Points) -> Points:
    """Points on a face [4, 3] from coordinates of 0 to 1 along its width and its height."""
    s, t = across[..., None], up[..., None]
    bottom, top = face[0] + s * (face[1] - face[0]), face[3] + s * (face[2] - face[3])
    return np.asarray(bottom + t * (top - bottom))


def panes(face: Points, across: ArrayLike, up: ArrayLike, size: tuple[float, float]) -> Points:
    """A grid of rectangles on a face, [count, 4, 3].

    `across` and `up` are the panes' lower left corners, `size` their width and height, all as
    fractions of the face.
    """
    lefts, bottoms = np.atleast_1d(across), np.atleast_1d(up)
    s, t = np.tile(lefts, len(bottoms)), np.repeat(bottoms, len(lefts))
    return on_face(face, s[:, None] + size[0] * UNIT[0], t[:, None] + size[1] * UNIT[1])


def disc(x: float, y: float, z: float, radius: tuple[float, float], corners: int = 10) -> Points:
    """An upright ellipse facing the camera, [1, corners, 3]."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    points = np.empty((1, corners, 3))
    points[..., 0], points[..., 2] = x + radius[0] * np.cos(angle), z
    points[..., 1] = y + radius[1] * np.sin(angle)
    return points


def plate(x: tuple[float, float], y: tuple[float, float], z: float) -> Points:
    """An upright rectangle facing the camera, [1, 4, 3]."""
    return np.array([[(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)]])
