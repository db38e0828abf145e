"""From a street to pixels: sky, ground, shadows, and the things painted over them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from segue.demo.worlds.camera import FRACTION_BITS, NEAR, Floats, Lens, clip_near
from segue.demo.worlds.sensor import expose
from segue.demo.worlds.shapes import BUILDING, EGO, ROAD, SIDEWALK, SKY, TERRAIN, VEGETATION, tone
from segue.demo.worlds.street import Ground, Scene, lay_out
from segue.demo.worlds.worlds import Colour, Materials, World

Image = NDArray[np.uint8]

FINE = 2  # drawn this much larger, then averaged
FARTHEST = np.float32(400)  # metres of ground
KERB, MIDDLE_LINE, LINE = 200, 201, 202  # surfaces of the ground that are no label of their own


def draw_scene(
    world: World, seed: int | Sequence[int], size: tuple[int, int] = (256, 128)
) -> tuple[Image, Image]:
    """Draw one image of a world with its Cityscapes label ids.

    Args:
        world: which world.
        seed: decides everything that is random.
        size: width and height in pixels.

    Returns:
        The image [height, width, 3] RGB and its ids [height, width], both uint8.

    Example:
        >>> from segue.demo.worlds import TARGET
        >>> image, ids = draw_scene(TARGET, seed=3, size=(64, 32))
        >>> image.shape, ids.shape, bool((ids[-1] == 1).any())
        ((32, 64, 3), (32, 64), True)
    """
    plan, pixels = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    scene = lay_out(world, plan)
    lens = Lens(scene.camera, size[0] * FINE, size[1] * FINE)
    haze = float(pixels.uniform(*world.light.haze))
    zenith = int(pixels.integers(len(world.light.zenith)))
    air = world.light.horizon[zenith]
    canvas = np.zeros((lens.height, lens.width, 4), dtype=np.uint8)
    _paint_sky(canvas, lens, world, zenith, pixels)
    _paint_ground(canvas, lens, scene, world, (air, haze), pixels)
    _paint_shapes(canvas, lens, scene, (air, haze))
    if world.view.bonnet:
        _paint_bonnet(canvas, world.view.bonnet)
    ids = np.ascontiguousarray(canvas[::FINE, ::FINE, 3])
    small = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)[..., :3]
    light = _textured(small.astype(np.float32) / 255, ids, world.materials, pixels)
    return expose(light, world.sensor, pixels), ids


@lru_cache(maxsize=1)
def noise_tile() -> Floats:
    """A repeating texture [256, 256] with mean 0 and deviation 1, coarse to fine."""
    rng = np.random.default_rng(20)
    total = np.zeros((256, 256), dtype=np.float32)
    for step, weight in ((64, 0.5), (16, 0.6), (4, 0.7), (1, 0.8)):
        coarse = rng.standard_normal((256 // step, 256 // step)).astype(np.float32)
        wrapped = np.pad(coarse, 2, mode="wrap")
        large = cv2.resize(wrapped, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
        total += weight * large[2 * step : 2 * step + 256, 2 * step : 2 * step + 256]
    return np.asarray((total - total.mean()) / total.std(), dtype=np.float32)


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """A part of the tile large enough for a picture, at a random place."""
    top, left = rng.integers(256, size=2)
    tile = noise_tile()
    rows = (np.arange(shape[0]) + top) & 255
    return np.asarray(tile[rows][:, (np.arange(shape[1]) + left) & 255])


def _paint_sky(
    canvas: Image, lens: Lens, world: World, zenith: int, rng: np.random.Generator
) -> None:
    rows, columns = lens.height // 4, lens.width // 4
    horizon = lens.height / 2 + lens.focal * np.tan(np.radians(lens.camera.pitch))
    above = (horizon - np.linspace(0, lens.height, rows)) / lens.focal
    share = np.clip(above / 0.6, 0.0, 1.0).astype(np.float32)[:, None, None] ** 0.7
    high = np.array(world.light.zenith[zenith], dtype=np.float32)
    low = np.array(world.light.horizon[zenith], dtype=np.float32)
    sky = low + (high - low) * share
    part = cv2.resize(_noise((24, 24), rng), (columns, rows), interpolation=cv2.INTER_CUBIC)
    cover = float(rng.uniform(*world.light.clouds))
    white = (np.clip(part * 0.5 + 0.3, 0.0, 1.0) * cover)[..., None]
    small = np.clip(sky + (np.float32(244) - sky) * white, 0, 255).astype(np.uint8)
    canvas[..., :3] = cv2.resize(small, (lens.width, lens.height))
    canvas[..., 3] = SKY


def _paint_ground(
    canvas: Image,
    lens: Lens,
    scene: Scene,
    world: World,
    air: tuple[Colour, float],
    rng: np.random.Generator,
) -> None:
    horizon = lens.height / 2 + lens.focal * np.tan(np.radians(lens.camera.pitch))
    lean = abs(np.tan(np.radians(lens.camera.roll))) * lens.width / 2
    first = int(np.clip(horizon - lean, 0, lens.height - 1))
    right, down, ahead = lens.rays(first)
    below = down > 1e-4
    reach = np.minimum(lens.camera.height / np.maximum(down, 1e-4), FARTHEST)
    z = reach * ahead
    x = lens.camera.x + reach * right - np.float32(scene.ground.curve) * z * z
    label = _ground_labels(scene.ground, x, z)
    surface, light = _ground_surface(scene.ground, world.materials, (x, z, label))
    sun = scene.sun
    shadow = _shadow_mask(lens, scene, first, world.light.shadow_edge)
    bright = np.float32(1.5 * sun.direct * sun.direction[1] / 255) * (np.float32(255) - shadow)
    clear = np.exp(reach * np.float32(-1 / air[1]))
    light *= (bright + np.float32(1 - sun.direct)) * clear
    tint = 1.0 + sun.direct * (np.array(sun.colour, dtype=np.float32) - 1.0)
    inks = _surface_inks(world.materials, rng) * tint
    part = canvas[first:]
    for channel in range(3):
        painted = inks[:, channel][surface] * light
        painted += np.float32(air[0][channel]) * (np.float32(1) - clear)
        np.copyto(part[..., channel], np.minimum(painted, 255), casting="unsafe", where=below)
    np.copyto(part[..., 3], label, where=below)


def _ground_labels(ground: Ground, x: Floats, z: Floats) -> Image:
    away = np.abs(x)
    label = np.full(x.shape, SIDEWALK, dtype=np.uint8)
    label[away < ground.road] = ROAD
    if ground.verge:
        label[(away > ground.verge[0]) & (away < ground.verge[1])] = TERRAIN
    for side, near, far in ground.parks:
        label[(side * x > ground.edge) & (z > near) & (z < far)] = TERRAIN
    if ground.crossing:
        label[(z > ground.crossing[0]) & (z < ground.crossing[1])] = ROAD
    return label


def _surface_inks(materials: Materials, rng: np.random.Generator) -> Floats:
    """The colour [256, 3] of each surface: label ids, kerb stones, and the two markings."""
    inks = np.zeros((256, 3), dtype=np.float32)
    palettes = {ROAD: materials.asphalt, SIDEWALK: materials.paving, TERRAIN: materials.grass}
    for surface, palette in palettes.items():
        inks[surface] = tone(rng, palette)
    inks[KERB] = 1.2 * inks[SIDEWALK]
    inks[MIDDLE_LINE], inks[LINE] = materials.markings
    return inks


def _ground_surface(
    ground: Ground, materials: Materials, where: tuple[Floats, Floats, Image]
) -> tuple[Image, Floats]:
    """Of which surface each point of the ground is, and how light its texture makes it."""
    x, z, label = where
    away = np.abs(x)
    near = np.clip(np.float32(1) - z * np.float32(1 / 30), 0, 1)
    tile = noise_tile()
    light = tile[_cell(x, 11.0), _cell(z, 11.0)] * near
    light *= np.float32(materials.grain)
    light += tile[_cell(x, 1.3), _cell(z, 0.7)] * np.float32(0.5 * materials.stains)
    paved = label == SIDEWALK
    joint = paved & (
        (_within(x, materials.paving_size) < 0.1) | (_within(z, materials.paving_size) < 0.1)
    )
    light -= np.float32(0.18) * joint * near
    light += np.float32(1)
    surface = label.copy()
    surface[paved & (away < ground.road + 0.15)] = KERB
    plain = label == ROAD
    if ground.crossing:
        start = ground.crossing[0]
        zebra = (z > start - 4.5) & (z < start - 1.5) & (_within(x, 1.2) < 0.5)
        surface[zebra & (away < ground.road - 0.3)] = LINE
        plain &= (z < start - 5.0) | (z > ground.crossing[1] + 1.0)
    dashed = plain & (_within(z, 9.0) < 0.45)
    surface[dashed & (away < 0.09)] = MIDDLE_LINE
    if ground.road > 5.5:
        surface[dashed & (np.abs(away - ground.road / 2) < 0.08)] = LINE
    surface[plain & (np.abs(away - (ground.road - 0.35)) < 0.07)] = LINE
    return surface, light


def _within(metres: Floats, period: float) -> Floats:
    """Where in a repeating pattern, 0 to 1."""
    turns = metres * np.float32(1 / period)
    return np.asarray(turns - np.floor(turns))


def _cell(metres: Floats, per_metre: float) -> NDArray[np.int32]:
    return (metres * np.float32(per_metre)).astype(np.int32) & 255


def _shadow_mask(lens: Lens, scene: Scene, first: int, edge: float) -> Image:
    """Where things keep the sun off the ground, 0 to 255, from a row down."""
    mask = np.zeros((lens.height, lens.width), dtype=np.uint8)
    toward, rise = scene.sun.direction, scene.sun.direction[1]
    feet = np.array([thing.foot for thing in scene.things if thing.foot is not None]).reshape(-1, 5)
    x0, x1, z0, z1, height = feet.T
    base = np.stack([x0, z0, x1, z0, x1, z1, x0, z1], axis=1).reshape(-1, 4, 2)
    reach = np.minimum(height / rise, 30.0)[:, None, None]
    cast = np.concatenate([base, base - reach * np.array([toward[0], toward[2]])], axis=1)
    corners = np.insert(cast, 1, 0.0, axis=2)
    viewed = lens.view(corners, scene.ground.curve)
    pixels = lens.pixels(np.where(viewed[..., 2:] >= NEAR, viewed, NEAR))
    whole = viewed[..., 2].min(axis=1) >= NEAR
    for index in np.flatnonzero(viewed[..., 2].max(axis=1) >= NEAR).tolist():
        hull = pixels[index]
        if not whole[index]:
            order = cv2.convexHull(cast[index].astype(np.float32), returnPoints=False)[:, 0]
            hull = lens.pixels(clip_near(viewed[index][order]))
        cv2.fillConvexPoly(mask, cv2.convexHull(hull), 255, cv2.LINE_8, FRACTION_BITS)
    sigma = edge * lens.width / 256
    return np.asarray(cv2.GaussianBlur(mask[first:], (0, 0), sigma))


def _paint_shapes(canvas: Image, lens: Lens, scene: Scene, air: tuple[Colour, float]) -> None:
    """Paint from back to front; colour and label go into one four-channel picture at once."""
    shapes = scene.skyline + [shape for thing in scene.things for shape in thing.shapes]
    light = scene.sun.factors()
    counts = np.array([len(shape.points) for shape in shapes])
    sizes = np.repeat([shape.points.shape[1] for shape in shapes], counts)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    corners = np.concatenate([shape.points.reshape(-1, 3) for shape in shapes])
    viewed = lens.view(corners, scene.ground.curve)
    depth = viewed[:, 2]
    nearest, farthest = (edge.reduceat(depth, starts) for edge in (np.minimum, np.maximum))
    pixels = lens.pixels(np.where(depth[:, None] >= NEAR, viewed, NEAR))
    across = pixels[:, 0] >> FRACTION_BITS
    seen = farthest >= NEAR
    seen &= (nearest < NEAR) | (
        (np.maximum.reduceat(across, starts) >= 0)
        & (np.minimum.reduceat(across, starts) < lens.width)
    )
    ink = np.repeat([light[shape.side] for shape in shapes], counts, axis=0)
    last = np.cumsum(counts).tolist()
    for shape, end in zip(shapes, last, strict=True):
        ink[end - len(shape.points) : end] *= shape.colour
    hazy = 1.0 - np.exp(-np.maximum((nearest + farthest) / 2, 0.0) / air[1])[:, None]
    ink = np.minimum(ink + (np.array(air[0]) - ink) * hazy, 255.0)
    labels = np.repeat([shape.label for shape in shapes], counts)[:, None]
    inks = np.concatenate([ink, labels], axis=1).tolist()
    whole = nearest >= NEAR
    for index in np.flatnonzero(seen).tolist():
        polygon = pixels[starts[index] : ends[index]]
        if not whole[index]:
            polygon = lens.pixels(clip_near(viewed[starts[index] : ends[index]]))
        cv2.fillConvexPoly(canvas, polygon, inks[index], cv2.LINE_8, FRACTION_BITS)


def _textured(light: Floats, ids: Image, materials: Materials, rng: np.random.Generator) -> Floats:
    """Fine texture on what is not ground, in the picture's plane."""
    strength = np.full(256, materials.grain * 0.5, dtype=np.float32)
    strength[[SKY, ROAD, SIDEWALK]] = 0.0
    strength[BUILDING] = materials.grain
    strength[[VEGETATION, TERRAIN]] = materials.leaf_grain
    noise = _noise(ids.shape, rng) * strength[ids]
    # Less of it where it is bright: haze takes texture away.
    return np.asarray(light * (np.float32(1) + noise[..., None] * (np.float32(1.2) - light)))


def _paint_bonnet(canvas: Image, share: float) -> None:
    height, width = canvas.shape[:2]
    across = np.linspace(0.0, 1.0, 40)
    for step, ink in ((0.0, (44, 46, 48)), (0.25, (72, 75, 78)), (0.6, (52, 54, 57))):
        arch = 1.0 - share * (1.0 - step) * (1.0 - 0.55 * (2 * across - 1) ** 2)
        outline = np.stack([across * width, arch * height], axis=-1)
        outline = np.concatenate([outline, [(width, height), (0.0, height)]])
        cv2.fillPoly(canvas, [outline.astype(np.int32)], (*ink, EGO))
