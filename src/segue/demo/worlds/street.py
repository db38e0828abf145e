"""One street: where the camera is, what the ground is made of and what stands on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from segue.demo.worlds import things
from segue.demo.worlds.camera import Camera
from segue.demo.worlds.shapes import BUILDING, VEGETATION, Shape, Sun, Thing
from segue.demo.worlds.worlds import Colour, Range, World

LENGTH = 90.0  # metres of street with things on it
HORIZON = 170.0  # metres to the skyline behind it


@dataclass(frozen=True)
class Ground:
    """A cross-section of the street, in metres from the middle of the road.

    Args:
        road: half the road.
        edge: where the sidewalks end.
        curve: sideways shift per squared metre ahead.
        verge: (from, to) of the strip of grass on both sidewalks, or nothing.
        crossing: (from, to) ahead of a side street, or nothing.
        parks: (side -1 or 1, from, to) of the lots with grass.
    """

    road: float
    edge: float
    curve: float
    verge: Range | None
    crossing: Range | None
    parks: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Scene:
    """All that is to be drawn."""

    camera: Camera
    ground: Ground
    sun: Sun
    things: list[Thing]
    skyline: list[Shape]


def lay_out(world: World, rng: np.random.Generator) -> Scene:
    """Draw one street of a world."""
    street = world.street
    road = float(rng.uniform(*street.road_width)) / 2
    edge = road + float(rng.uniform(*street.sidewalk_width))
    camera = _camera(world, road, edge, rng)
    start = float(rng.uniform(16.0, 50.0))
    crossing = (start, start + float(rng.uniform(7.0, 12.0)))
    verge = (road + 0.2, road + 0.2 + 0.4 * (edge - road))
    lots = [(side, *lot) for side in (-1, 1) for lot in _lots(world, rng)]
    ground = Ground(
        road=road,
        edge=edge,
        curve=float(rng.uniform(-street.curve, street.curve)),
        verge=verge if rng.random() < street.verge else None,
        crossing=crossing if rng.random() < street.crossing else None,
        parks=tuple((side, near, far) for side, near, far, park in lots if park),
    )
    kit = things.Kit(rng, world.materials, _sun(world, rng))
    standing = [
        *_lot_things(world, kit, camera, ground, lots),
        *_furniture(world, kit, camera, ground),
        *_apart(_vehicles(world, kit, camera, ground)),
        *_people(world, kit, ground),
    ]
    standing = [thing for thing in standing if not _hides_the_view(thing, camera, ground)]
    standing.sort(key=lambda thing: -thing.distance)
    return Scene(camera, ground, kit.sun, standing, _skyline(kit))


def _camera(world: World, road: float, edge: float, rng: np.random.Generator) -> Camera:
    view = world.view
    x = 0.5 * road + road * view.off_centre * float(rng.uniform(-1, 1))
    if rng.random() < view.on_sidewalk:
        x = float(rng.choice([-1, 1]) * (road + edge) / 2)
    return Camera(
        x=x,
        height=float(rng.uniform(*view.height)),
        pitch=float(rng.uniform(*view.pitch)),
        yaw=float(rng.uniform(*view.yaw)),
        roll=float(rng.uniform(*view.roll)),
        field_of_view=float(rng.uniform(*view.field_of_view)),
    )


def _sun(world: World, rng: np.random.Generator) -> Sun:
    light = world.light
    up = np.radians(rng.uniform(*light.elevation))
    # From behind or from the sides: against the light, every face that the camera sees is dark.
    around = np.radians(rng.uniform(80, 280))
    direction = (np.cos(up) * np.sin(around), np.sin(up), np.cos(up) * np.cos(around))
    tint = light.sun[int(rng.integers(len(light.sun)))]
    return Sun((direction[0], direction[1], direction[2]), float(rng.uniform(*light.direct)), tint)


def _lots(world: World, rng: np.random.Generator) -> Iterator[tuple[float, float, bool]]:
    near = float(rng.uniform(-12.0, 0.0))
    while near < LENGTH:
        park = bool(rng.random() < world.street.park)
        far = near + float(rng.uniform(*world.street.building_length)) * (1.5 if park else 1.0)
        yield near, far, park
        near = far + (float(rng.uniform(1.0, 4.0)) if rng.random() < 0.25 else 0.0)


def _eye(camera: Camera, ground: Ground, z: float) -> tuple[float, float]:
    return camera.x - ground.curve * z * z, camera.height


def _in_crossing(ground: Ground, near: float, far: float) -> bool:
    crossing = ground.crossing
    return crossing is not None and near < crossing[1] and far > crossing[0]


def _lot_things(
    world: World,
    kit: things.Kit,
    camera: Camera,
    ground: Ground,
    lots: list[tuple[int, float, float, bool]],
) -> Iterator[Thing]:
    rng, street = kit.rng, world.street
    for side, near, far, park in lots:
        if park:
            for _ in range(int(rng.integers(2, 6))):
                x, z = ground.edge + rng.uniform(3.0, 14.0), rng.uniform(max(near, 5.0), far + 5.0)
                if not _in_crossing(ground, z - 2, z + 2):
                    yield things.tree(kit, side * float(x), float(z))
            if near > 4.0 and rng.random() < 0.5 and not _in_crossing(ground, near, far):
                yield things.hedge(kit, side * (ground.edge + 1.0), near, far - near)
            continue
        if ground.crossing and _in_crossing(ground, near, far):
            near, far = (
                (near, ground.crossing[0])
                if near < ground.crossing[0] - 4.0
                else (ground.crossing[1], max(far, ground.crossing[1] + 8.0))
            )
        front = ground.edge + float(rng.uniform(0.0, 0.6))
        width = (front, front + 12.0) if side > 0 else (-front - 12.0, -front)
        eaves = float(rng.uniform(*street.building_height))
        pitched = bool(rng.random() < street.pitched_roof)
        depth = (max(near, 0.5), far)
        yield things.building(kit, width, depth, eaves, pitched, _eye(camera, ground, depth[0]))


def _furniture(world: World, kit: things.Kit, camera: Camera, ground: Ground) -> Iterator[Thing]:
    rng, street = kit.rng, world.street
    makers = (things.lamp_post, things.traffic_light, things.traffic_sign)
    for side in (-1, 1):
        kerb = side * (ground.road + 0.5)
        if rng.random() < 0.8:
            for z in rng.uniform(6.0, LENGTH, rng.poisson(street.trees * LENGTH / 100)):
                if not _in_crossing(ground, z - 1, z + 1):
                    yield things.tree(kit, kerb + side * 0.5, float(z))
        for z in rng.uniform(6.0, LENGTH * 0.8, rng.poisson(street.poles * LENGTH / 100)):
            if not _in_crossing(ground, z, z):
                maker = makers[int(rng.choice(3, p=(0.45, 0.2, 0.35)))]
                yield maker(kit, kerb, float(z))
        if ground.crossing and rng.random() < 0.7:
            yield things.traffic_light(kit, kerb, ground.crossing[0] - 1.0)
        if rng.random() < 0.3:
            z = float(rng.uniform(6.0, 40.0))
            x = side * (ground.edge - 0.6)
            yield things.bin_box(kit, x, z, _eye(camera, ground, z))


def _vehicles(world: World, kit: things.Kit, camera: Camera, ground: Ground) -> Iterator[Thing]:
    rng, street = kit.rng, world.street
    if rng.random() < street.bus:
        side, z = int(rng.choice([-1, 1])), float(rng.uniform(10.0, 50.0))
        x = side * max(1.6, ground.road - 2.9)
        yield things.bus(kit, x, z, _eye(camera, ground, z), away=side > 0)
    for side in (-1, 1):
        parked_x = side * (ground.road - 1.1)
        share = float(np.clip(rng.normal(street.parked, 0.3), 0.0, 1.0))
        for z in np.arange(rng.uniform(3.0, 8.0), LENGTH, 5.9):
            if rng.random() < share and not _in_crossing(ground, z - 3, z + 3):
                eye = _eye(camera, ground, float(z))
                yield things.car(kit, parked_x, float(z), eye, away=side > 0)
        lane_x = side * max(1.5, (ground.road - 2.0) * 0.55)
        last = 0.0
        for z in np.sort(rng.uniform(8.0, LENGTH, rng.poisson(street.traffic * LENGTH / 100))):
            if z - last > 7.0:
                eye = _eye(camera, ground, float(z))
                yield things.car(kit, lane_x, float(z), eye, away=side > 0)
                last = float(z)
    if ground.crossing and rng.random() < 0.4:
        z = sum(ground.crossing) / 2
        x = float(rng.uniform(-12.0, 12.0))
        yield things.car(kit, x, z, _eye(camera, ground, z), across=True)


def _apart(vehicles: Iterator[Thing]) -> Iterator[Thing]:
    """Those that do not stand inside an earlier one."""
    taken: list[tuple[float, float, float, float, float]] = []
    for vehicle in vehicles:
        if vehicle.foot is None:
            continue
        x0, x1, z0, z1, _ = vehicle.foot
        if all(x1 < a0 + 0.3 or x0 > a1 - 0.3 or z1 < b0 or z0 > b1 for a0, a1, b0, b1, _ in taken):
            taken.append(vehicle.foot)
            yield vehicle


def _people(world: World, kit: things.Kit, ground: Ground) -> Iterator[Thing]:
    rng, street = kit.rng, world.street
    width = ground.edge - ground.road
    for _ in range(rng.poisson(street.people)):
        z, side = 5.0 + 45.0 * float(rng.random()) ** 1.5, float(rng.choice([-1, 1]))
        x = side * (ground.road + width * float(rng.uniform(0.2, 0.9)))
        if rng.random() < 0.12:
            x = float(rng.uniform(-ground.road, ground.road))
        yield things.person(kit, x, z)
        if rng.random() < 0.25:
            yield things.person(kit, x + 0.7, z + 0.1)
    for _ in range(rng.poisson(street.cyclists)):
        z, side = float(rng.uniform(6.0, 30.0)), float(rng.choice([-1, 1]))
        along = bool(rng.random() < 0.5)
        x = side * (ground.road - 0.8)
        yield things.bicycle(kit, x, z, 0.0, ridden=True, along=along)
    for _ in range(rng.poisson(street.parked_bicycles)):
        z, side = float(rng.uniform(6.0, 25.0)), float(rng.choice([-1, 1]))
        for step in range(int(rng.integers(1, 4))):
            x = side * (ground.edge - 1.0 - 0.1 * step)
            yield things.bicycle(kit, x, z + 0.8 * step, 0.0, ridden=False, along=False)


def _hides_the_view(thing: Thing, camera: Camera, ground: Ground) -> bool:
    """Whether it stands on the camera or right before it."""
    if thing.foot is None:
        return False
    x0, x1, z0, _, height = thing.foot
    x = camera.x - ground.curve * z0 * z0
    inside = x0 - 0.7 < x < x1 + 0.7
    return inside and z0 < 7.0 and height > 0.5 * camera.height


def _skyline(kit: things.Kit) -> list[Shape]:
    """Far houses and trees all round, so that streets and parks end somewhere."""
    rng, found = kit.rng, []
    edges = np.radians(np.linspace(-75.0, 75.0, 40))
    for left, right in pairwise(edges):
        green = rng.random() < 0.5
        palette = kit.materials.leaves if green else kit.materials.facades
        top = float(rng.uniform(5.0, 9.0) if green else rng.uniform(6.0, 16.0))
        corners = [(left, 0.0), (right, 0.0), (right, top), (left, top)]
        points = [(HORIZON * np.sin(a), y, HORIZON * np.cos(a)) for a, y in corners]
        colour: Colour = kit.tone(palette)
        found.append(Shape(np.array([points]), colour, VEGETATION if green else BUILDING))
    return found
