"""The things that stand in a street, each built from polygons, back to front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segue.demo.worlds import shapes
from segue.demo.worlds.shapes import (
    Points,
    Shape,
    Sun,
    Thing,
    dim,
    disc,
    faces,
    on_face,
    panes,
    plate,
    tone,
)
from segue.demo.worlds.worlds import Colour, Materials

Eye = tuple[float, float]
DARK: Colour = (34, 34, 36)
TYRE: Colour = (26, 26, 28)
SKIN: tuple[Colour, ...] = ((222, 180, 150), (180, 130, 100), (120, 84, 64))
TURN: Points = np.stack([f(np.arange(12) * np.pi / 6) for f in (np.cos, np.sin)], axis=1)
DETAILS_UNTIL = 40.0  # metres; farther plates and hubs are less than a pixel wide
WINDOWS_UNTIL = 60.0  # metres; farther panes are less than a pixel wide


@dataclass(frozen=True)
class Kit:
    """What every thing is built with: random draws, materials and light of one image."""

    rng: np.random.Generator
    materials: Materials
    sun: Sun

    def tone(self, palette: tuple[Colour, ...], spread: float = 0.08) -> Colour:
        """A colour of the palette, a little lighter or darker."""
        return tone(self.rng, palette, spread)


def building(
    kit: Kit, x: tuple[float, float], z: tuple[float, float], eaves: float, pitched: bool, eye: Eye
) -> Thing:
    """A block with rows of windows, a shop floor now and then, and a roof if pitched."""
    rng, label = kit.rng, shapes.BUILDING
    wall, glass = kit.tone(kit.materials.facades), kit.tone(kit.materials.glass, 0.15)
    trim, shop = dim(wall, float(rng.uniform(0.75, 1.15))), rng.random() < 0.5
    wide, tall = rng.uniform(0.45, 0.8), rng.uniform(0.45, 0.7)
    storey, bay = rng.uniform(2.9, 3.8), rng.uniform(2.2, 3.6)
    painted: list[Shape] = []
    if pitched:
        roof = kit.tone(kit.materials.roofs)
        lean = 0.3 * (x[1] - x[0])
        for name, face in faces(x, (eaves, eaves + 3.5), z, eye, (lean, 0.5, 0.5)).items():
            painted.append(Shape(face[None], roof, label, name))
    for name, face in faces(x, (0.0, eaves), z, eye).items():
        painted.append(Shape(face[None], wall, label, name))
        if name == "top" or z[0] > WINDOWS_UNTIL:
            continue
        length = float(np.linalg.norm(face[1] - face[0]))
        columns, rows = max(2, round(length / bay)), max(2, round(eaves / storey))
        across = (np.arange(columns) + 0.5 - wide / 2) / columns
        up = (np.arange(int(shop), rows) + 0.5 - tall / 2) / rows
        grid = panes(face, across, up, (wide / columns, tall / rows))
        shine = rng.uniform(0.8, 1.4, (len(grid), 1))
        painted.append(Shape(grid, shine * np.array(glass), label, name))
        bands = panes(face, (0.0,), ((1.0 / rows), 1.0 - 0.12 / rows), (1.0, 0.1 / rows))
        painted.append(Shape(bands, trim, label, name))
        if shop:
            front = panes(face, (0.04,), (0.12 / rows,), (0.92, 0.62 / rows))
            painted.append(Shape(front, dim(glass, 0.8), label, name))
    return Thing(z[1], painted, (x[0], x[1], z[0], z[1], eaves))


def car(
    kit: Kit, x: float, z: float, eye: Eye, *, across: bool = False, away: bool = True
) -> Thing:
    """A car or van centred on (x, z), along the road or across it, seen from behind or before."""
    rng, label = kit.rng, shapes.CAR
    paint, glass = kit.tone(kit.materials.paint), dim(kit.tone(kit.materials.glass), 0.6)
    van = rng.random() < 0.15
    length, width = (5.2, 2.0) if van else (float(rng.uniform(3.8, 4.8)), 1.8)
    waist, roof = (1.1, 2.1) if van else (0.88, float(rng.uniform(1.4, 1.6)))
    half_x, half_z = (length / 2, width / 2) if across else (width / 2, length / 2)
    box_x, box_z = (x - half_x, x + half_x), (z - half_z, z + half_z)
    boot, hood, lean = (0.1, 0.9, 0.5) if van else (float(rng.uniform(0.1, 0.7)), 1.1, 0.5)
    if across:
        cabin_x, cabin_z = (box_x[0] + boot, box_x[1] - hood), box_z
        taper = (lean, 0.15, 0.15)
    else:
        near, far = (boot, hood) if away else (hood, boot)
        cabin_x, cabin_z = box_x, (box_z[0] + near, box_z[1] - far)
        taper = (0.15, lean, lean)
    sides = ("near",) if across else ("left", "right")
    painted: list[Shape] = []
    for name, face in faces(box_x, (0.28, waist), box_z, eye).items():
        painted.append(Shape(face[None], paint, label, name))
        if name in sides and z < DETAILS_UNTIL:
            painted.extend(_wheels(face, length, waist - 0.28, label))
        elif name == "near" and z < DETAILS_UNTIL:
            lamp: Colour = (190, 40, 34) if away else (236, 232, 214)
            lights = panes(face, (0.04, 0.78), (0.55,), (0.18, 0.28))
            painted.append(Shape(lights, lamp, label))
            bumper = panes(face, (0.0,), (0.0,), (1.0, 0.3))
            painted.append(Shape(bumper, dim(paint, 0.45), label, name))
            number = panes(face, (0.38,), (0.32,), (0.24, 0.2))
            painted.append(Shape(number, (214, 212, 200), label))
    for name, face in faces(cabin_x, (waist, roof), cabin_z, eye, taper).items():
        painted.append(Shape(face[None], paint, label, name))
        if name != "top":
            two = name in sides
            starts, wide = ((0.08, 0.53), 0.39) if two else ((0.08,), 0.84)
            cut = panes(face, starts, (0.1,), (wide, 0.75))
            painted.append(Shape(cut, glass, label, name))
    return Thing(box_z[0], painted, (*box_x, *box_z, roof * 0.8))


def _wheels(face: Points, length: float, height: float, label: int) -> list[Shape]:
    painted = []
    for radius, colour in ((0.34, TYRE), (0.19, (120.0, 122.0, 124.0))):
        across = np.array([[0.19], [0.81]]) + radius / length * TURN[:, 0]
        up = (0.06 + radius * TURN[:, 1]) / height
        points = on_face(face, across, np.broadcast_to(up, across.shape))
        painted.append(Shape(points, colour, label))
    return painted


def bus(kit: Kit, x: float, z: float, eye: Eye, *, away: bool = True) -> Thing:
    """A city bus along the road."""
    label, paint = shapes.BUS, kit.tone(kit.materials.bus_paint)
    glass = dim(kit.tone(kit.materials.glass), 0.6)
    box_x, box_z = (x - 1.25, x + 1.25), (z, z + 11.0)
    painted: list[Shape] = []
    for name, face in faces(box_x, (0.35, 3.1), box_z, eye).items():
        painted.append(Shape(face[None], paint, label, name))
        if name == "near":
            painted.append(Shape(panes(face, (0.08,), (0.42,), (0.84, 0.42)), glass, label, name))
            lamp: Colour = (190, 40, 34) if away else (236, 232, 214)
            lights = panes(face, (0.05, 0.83), (0.12,), (0.12, 0.08))
            painted.append(Shape(lights, lamp, label))
        elif name != "top":
            row = panes(face, np.arange(7) / 7 + 0.012, (0.42,), (0.12, 0.38))
            painted.append(Shape(row, glass, label, name))
            painted.extend(_wheels(face, 11.0, 2.75, label))
    return Thing(z, painted, (*box_x, *box_z, 3.1))


def person(kit: Kit, x: float, z: float, base: float = 0.0) -> Thing:
    """A pedestrian, 1.1 to 1.9 m tall."""
    rng, label = kit.rng, shapes.PERSON
    tall = float(rng.choice([1.15, 1.65, 1.75, 1.85]) * rng.uniform(0.96, 1.04))
    stride, turn = float(rng.uniform(0.02, 0.22)) * tall, float(rng.choice([-1, 1]))
    wide = tall * float(rng.uniform(0.10, 0.14))
    trousers, coat = kit.tone(kit.materials.clothes), kit.tone(kit.materials.clothes)
    hip, shoulder, neck = base + 0.48 * tall, base + 0.82 * tall, base + 0.86 * tall
    painted = []
    for side in (-1.0, 1.0):
        foot, top = x + side * stride, x + side * 0.3 * wide
        leg = [(foot - 0.4 * wide, base), (foot + 0.4 * wide, base)]
        leg += [(top + 0.55 * wide, hip), (top - 0.55 * wide, hip)]
        points = np.array([[(*corner, z) for corner in leg]])
        painted.append(Shape(points, dim(trousers, 0.9 if side < 0 else 0.75), label))
    body = [(-0.85, hip - 0.06 * tall), (0.85, hip - 0.06 * tall), (0.75, shoulder - 0.2 * tall)]
    body += [(1.15, shoulder), (0.3, neck), (-0.3, neck), (-1.15, shoulder)]
    body += [(-0.75, shoulder - 0.2 * tall)]
    outline = np.array([[(x + offset * wide, y, z) for offset, y in body]])
    painted.append(Shape(outline, coat, label))
    hand = x + turn * (1.1 * wide + 0.3 * stride)
    arm = [(x + turn * 0.8 * wide, shoulder), (x + turn * 1.3 * wide, shoulder - 0.03 * tall)]
    arm += [(hand + turn * 0.25 * wide, hip), (hand - turn * 0.25 * wide, hip)]
    sleeve = np.array([[(*corner, z) for corner in arm]])
    painted.append(Shape(sleeve, dim(coat, 0.8), label))
    head = disc(x, base + 0.93 * tall, z, (0.055 * tall, 0.075 * tall))
    painted.append(Shape(head, kit.tone(SKIN), label))
    hair = disc(x, base + 0.965 * tall, z, (0.05 * tall, 0.04 * tall), 8)
    painted.append(Shape(hair, (46, 36, 30), label))
    return Thing(z, painted, (x - wide, x + wide, z - 0.2, z + 0.2, tall))


def bicycle(kit: Kit, x: float, z: float, base: float, *, ridden: bool, along: bool) -> Thing:
    """A bicycle from the side or, where it goes along the road, from behind; with its rider."""
    rng = kit.rng
    frame, coat = kit.tone(kit.materials.paint), kit.tone(kit.materials.clothes)
    trousers, label = kit.tone(kit.materials.clothes), shapes.BICYCLE
    turn, half = float(rng.choice([-1, 1])), 0.12 if along else 0.55
    painted: list[Shape] = []
    for centre in (0.0,) if along else (-half, half):
        for radius, colour in ((0.36, TYRE), (0.29, (96.0, 96.0, 96.0))):
            wheel = disc(x + centre, base + 0.36, z, (radius * (0.2 if along else 1.0), radius))
            painted.append(Shape(wheel, colour, label))
    if along:
        bar = plate((x - 0.28, x + 0.28), (base + 0.95, base + 1.02), z)
        painted.append(Shape(bar, DARK, label))
    else:
        tube = [(-0.55, 0.34), (-0.5, 0.42), (-0.2, 0.9), (0.4, 0.85), (0.55, 0.4), (0.1, 0.3)]
        outline = np.array([[(x + turn * s, base + y, z) for s, y in tube]])
        painted.append(Shape(outline, frame, label))
    if ridden:
        lean = 0.0 if along else 0.3 * turn
        leg = plate((x - 0.14, x + 0.14), (base + 0.3, base + 1.0), z)
        painted.append(Shape(leg, trousers, shapes.RIDER))
        torso = [(-0.2, 0.92), (0.2, 0.92), (0.22 + lean, 1.5), (-0.22 + lean, 1.5)]
        points = np.array([[(x + s, base + y, z) for s, y in torso]])
        painted.append(Shape(points, coat, shapes.RIDER))
        head = disc(x + lean, base + 1.66, z, (0.11, 0.15))
        painted.append(Shape(head, kit.tone(SKIN), shapes.RIDER))
    return Thing(z, painted, (x - half, x + half, z - 0.2, z + 0.2, 1.6 if ridden else 0.9))


def tree(kit: Kit, x: float, z: float) -> Thing:
    """A street tree; its trunk is vegetation too."""
    rng, label = kit.rng, shapes.VEGETATION
    height, width = float(rng.uniform(4.5, 10.0)), float(rng.uniform(1.2, 2.4))
    crown = min(width * float(rng.uniform(*kit.materials.crown)), 0.42 * height)
    trunk = plate((x - 0.02 * height, x + 0.02 * height), (0.0, height - crown), z)
    painted = [Shape(trunk, (88, 74, 60), label)]
    painted.append(foliage(kit, x, height - crown, z, (width, crown), 12 if z < 50.0 else 6))
    return Thing(z, painted, (x - width, x + width, z - width, z + width, height))


def hedge(kit: Kit, x: float, z: float, length: float) -> Thing:
    """Bushes along the street."""
    painted: list[Shape] = []
    for step in np.arange(length, -0.1, -1.6):
        height = float(kit.rng.uniform(0.6, 1.1))
        painted.append(foliage(kit, x, height * 0.8, z + float(step), (1.0, height), 4))
    return Thing(z + length, painted, (x - 0.8, x + 0.8, z, z + length, 1.6))


def foliage(
    kit: Kit, x: float, y: float, z: float, radius: tuple[float, float], lumps: int
) -> Shape:
    """Lumps of leaves around a centre: the lit ones last, towards the sun and upwards."""
    rng, leaf = kit.rng, kit.tone(kit.materials.leaves)
    part = np.arange(lumps)[:, None] / (lumps - 1)
    away, direction = rng.uniform(0.15, 0.6, (lumps, 1)), rng.uniform(0, 2 * np.pi, (lumps, 1))
    size = rng.uniform(0.4, 0.6, (lumps, 1))
    away[0], size[0] = 0.0, 0.85
    ragged = size * rng.uniform(0.8, 1.15, (lumps, len(TURN)))
    sunward = 0.25 * np.sign(kit.sun.direction[0])
    across = away * np.cos(direction) + sunward * part + ragged * TURN[:, 0]
    up = away * np.sin(direction) + 0.25 * part + ragged * TURN[:, 1]
    points = np.empty((lumps, len(TURN), 3))
    points[..., 0], points[..., 2] = x + radius[0] * across, z
    points[..., 1] = np.maximum(y + radius[1] * up, 0.0)
    shade = 0.6 + 0.5 * part + rng.uniform(-0.06, 0.06, (lumps, 1))
    return Shape(points, shade * np.array(leaf), shapes.VEGETATION)


def lamp_post(kit: Kit, x: float, z: float) -> Thing:
    """A street lamp reaching over the road."""
    metal, label = kit.tone(kit.materials.metal), shapes.POLE
    height, reach = float(kit.rng.uniform(5.5, 9.0)), -float(np.sign(x)) * 1.4
    painted = [Shape(plate((x - 0.08, x + 0.08), (0.0, height), z), metal, label)]
    ends = (min(x, x + reach), max(x, x + reach))
    painted.append(Shape(plate(ends, (height - 0.12, height), z), metal, label))
    painted.append(Shape(disc(x + reach, height, z, (0.35, 0.14), 8), dim(metal, 1.3), label))
    return Thing(z, painted, (x - 0.1, x + 0.1, z - 0.1, z + 0.1, height))


def traffic_light(kit: Kit, x: float, z: float) -> Thing:
    """A signal on its pole, one lamp on."""
    metal, label = kit.tone(kit.materials.metal), shapes.TRAFFIC_LIGHT
    painted = [Shape(plate((x - 0.07, x + 0.07), (0.0, 3.3), z), metal, shapes.POLE)]
    painted.append(Shape(plate((x - 0.24, x + 0.24), (2.4, 3.6), z), DARK, label))
    lit = int(kit.rng.integers(3))
    lamps: tuple[Colour, ...] = ((70, 220, 120), (240, 190, 50), (236, 50, 40))
    for step, colour in enumerate(lamps):
        spot = disc(x, 2.6 + 0.4 * step, z, (0.15, 0.15), 8)
        painted.append(Shape(spot, colour if step == lit else dim(colour, 0.25), label, "lamp"))
    return Thing(z, painted, (x - 0.2, x + 0.2, z - 0.1, z + 0.1, 3.6))


def traffic_sign(kit: Kit, x: float, z: float) -> Thing:
    """A round, triangular or square sign on its pole."""
    metal, label = kit.tone(kit.materials.metal), shapes.TRAFFIC_SIGN
    painted = [Shape(plate((x - 0.05, x + 0.05), (0.0, 2.9), z), metal, shapes.POLE)]
    corners = int(kit.rng.choice([3, 4, 12]))
    blue = kit.rng.random() < (0.8 if corners == 4 else 0.25)
    rim, inside = ((206, 40, 40), (232, 232, 228)) if not blue else ((232, 232, 232), (36, 82, 170))
    angle = np.linspace(0.0, 2 * np.pi, corners, endpoint=False) + np.pi / (
        4 if corners == 4 else 2
    )
    ring = np.stack([x + np.cos(angle) * 0.48, 2.6 + np.sin(angle) * 0.48], axis=-1)
    inner = np.stack([x + np.cos(angle) * 0.33, 2.6 + np.sin(angle) * 0.33], axis=-1)
    for outline, colour in ((ring, rim), (inner, inside)):
        points = np.concatenate([outline, np.full((corners, 1), z)], axis=-1)[None]
        painted.append(Shape(points, colour, label))
    return Thing(z, painted, (x - 0.3, x + 0.3, z - 0.1, z + 0.1, 2.9))


def bin_box(kit: Kit, x: float, z: float, eye: Eye) -> Thing:
    """A litter bin or switch box: static, which is void in every protocol."""
    colour = kit.tone(((90, 96, 92), (150, 120, 60), (70, 84, 110)))
    painted = [
        Shape(face[None], colour, shapes.STATIC, name)
        for name, face in faces((x - 0.3, x + 0.3), (0.0, 1.1), (z, z + 0.6), eye).items()
    ]
    return Thing(z, painted, (x - 0.3, x + 0.3, z, z + 0.6, 1.1))
