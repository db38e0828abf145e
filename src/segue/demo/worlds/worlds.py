"""What the two procedural worlds are made of: every parameter in which they differ."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """Where the camera is; each range is drawn from uniformly, once per image.

    Args:
        height: metres above the ground.
        pitch: degrees, negative looks down.
        yaw: degrees off the street's direction.
        roll: degrees.
        field_of_view: horizontal, degrees.
        on_sidewalk: chance that the own car drives on a sidewalk.
        off_centre: how far from the middle of its lane, as a fraction of half the road.
        bonnet: share of the image height that the own bonnet covers.
    """

    height: Range
    pitch: Range
    yaw: Range
    roll: Range
    field_of_view: Range
    on_sidewalk: float
    off_centre: float
    bonnet: float


@dataclass(frozen=True)
class Street:
    """What stands where; lengths in metres, counts are means of Poisson draws.

    Args:
        road_width: kerb to kerb.
        sidewalk_width: of each side.
        curve: sideways shift per squared metre ahead, either way.
        building_height: of the eaves.
        building_length: along the street.
        pitched_roof: chance that a building has one.
        park: chance that a lot is a park with trees, not a building.
        verge: chance of a strip of grass along the sidewalk.
        crossing: chance of a side street.
        trees: per 100 m of sidewalk.
        poles: per 100 m of sidewalk.
        parked: share of the kerb with parked cars.
        traffic: cars per 100 m of lane.
        bus: chance of a bus.
        people: per image.
        cyclists: per image.
        parked_bicycles: per image.
    """

    road_width: Range
    sidewalk_width: Range
    curve: float
    building_height: Range
    building_length: Range
    pitched_roof: float
    park: float
    verge: float
    crossing: float
    trees: float
    poles: float
    parked: float
    traffic: float
    bus: float
    people: float
    cyclists: float
    parked_bicycles: float


@dataclass(frozen=True)
class Materials:
    """Colours (RGB, 0 to 255, in full light) and textures.

    Args:
        asphalt: road surface.
        markings: lane lines; the first is the middle line's.
        paving: sidewalk.
        paving_size: metres between joints.
        grass: terrain.
        facades: walls of buildings.
        glass: windows.
        roofs: pitched roofs.
        leaves: crowns of trees and hedges.
        crown: height over width of a crown.
        paint: cars.
        bus_paint: buses.
        clothes: people and riders.
        metal: poles.
        grain: strength of fine texture, relative to 1 on every surface.
        stains: strength of coarse patches on the ground.
        leaf_grain: strength of the texture of leaves.
    """

    asphalt: tuple[Colour, ...]
    markings: tuple[Colour, ...]
    paving: tuple[Colour, ...]
    paving_size: float
    grass: tuple[Colour, ...]
    facades: tuple[Colour, ...]
    glass: tuple[Colour, ...]
    roofs: tuple[Colour, ...]
    leaves: tuple[Colour, ...]
    crown: Range
    paint: tuple[Colour, ...]
    bus_paint: tuple[Colour, ...]
    clothes: tuple[Colour, ...]
    metal: tuple[Colour, ...]
    grain: float
    stains: float
    leaf_grain: float


@dataclass(frozen=True)
class Light:
    """Sun, sky and air.

    Args:
        elevation: of the sun, degrees.
        direct: share of the light that comes from the sun and casts shadows.
        sun: colour of the sunlight, relative to 1.
        zenith: sky colours overhead, one is drawn per image.
        horizon: sky colours at the horizon, drawn together with the zenith's.
        clouds: how much clouds whiten the sky.
        shadow_edge: blur of shadows, in pixels of a 256 pixel wide image.
        haze: metres after which 63 % of a colour is the horizon's.
    """

    elevation: Range
    direct: Range
    sun: tuple[Colour, ...]
    zenith: tuple[Colour, ...]
    horizon: tuple[Colour, ...]
    clouds: Range
    shadow_edge: float
    haze: Range


@dataclass(frozen=True)
class Sensor:
    """What camera and file format do to the picture, in this order.

    Args:
        blur: Gaussian sigma, in pixels of a 256 pixel wide image.
        vignette: share of the light lost in the corners.
        exposure: factor.
        gamma: exponent.
        saturation: factor around the luma.
        contrast: factor around mid grey.
        black: grey level of black.
        tint: factors of red, green and blue.
        noise: standard deviation per channel, in grey levels.
        jpeg: quality of a JPEG that the picture passes through; 0 for none.
    """

    blur: Range
    vignette: float
    exposure: Range
    gamma: Range
    saturation: Range
    contrast: Range
    black: float
    tint: Colour
    noise: Range
    jpeg: int


@dataclass(frozen=True)
class World:
    """A procedural street world: layout (view, street) and look (materials, light, sensor).

    Example:
        >>> SOURCE.view.bonnet, TARGET.view.bonnet
        (0.0, 0.11)
    """

    name: str
    view: View
    street: Street
    materials: Materials
    light: Light
    sensor: Sensor


SOURCE = World(
    name="source",
    view=View(
        height=(1.1, 4.5),
        pitch=(-15.0, 2.0),
        yaw=(-16.0, 16.0),
        roll=(-2.0, 2.0),
        field_of_view=(55.0, 92.0),
        on_sidewalk=0.25,
        off_centre=0.45,
        bonnet=0.0,
    ),
    street=Street(
        road_width=(8.0, 18.0),
        sidewalk_width=(2.5, 6.0),
        curve=0.0012,
        building_height=(6.0, 42.0),
        building_length=(12.0, 32.0),
        pitched_roof=0.0,
        park=0.2,
        verge=0.35,
        crossing=0.5,
        trees=4.0,
        poles=4.0,
        parked=0.15,
        traffic=3.0,
        bus=0.25,
        people=4.0,
        cyclists=0.35,
        parked_bicycles=0.2,
    ),
    materials=Materials(
        asphalt=((104, 104, 110), (118, 114, 110), (92, 94, 104)),
        markings=((236, 196, 70), (236, 236, 236)),
        paving=((186, 178, 164), (170, 168, 170), (196, 180, 158)),
        paving_size=1.6,
        grass=((112, 152, 58), (136, 148, 66)),
        facades=(
            (214, 190, 150),
            (196, 120, 84),
            (150, 160, 176),
            (226, 214, 196),
            (176, 84, 66),
            (120, 136, 156),
            (204, 164, 108),
        ),
        glass=((60, 92, 128), (84, 120, 150), (40, 56, 76)),
        roofs=((120, 70, 56),),
        leaves=((78, 132, 44), (98, 148, 50), (62, 116, 58), (126, 150, 56)),
        crown=(0.7, 1.3),
        paint=(
            (196, 36, 32),
            (36, 74, 168),
            (232, 232, 232),
            (232, 180, 40),
            (30, 32, 36),
            (44, 124, 84),
            (170, 174, 180),
            (210, 104, 36),
        ),
        bus_paint=((226, 226, 220), (40, 100, 180), (204, 60, 44)),
        clothes=(
            (190, 50, 50),
            (50, 80, 160),
            (230, 230, 230),
            (40, 40, 48),
            (220, 170, 60),
            (90, 130, 80),
            (120, 76, 130),
        ),
        metal=((120, 124, 126), (84, 90, 88)),
        grain=0.05,
        stains=0.06,
        leaf_grain=0.18,
    ),
    light=Light(
        elevation=(20.0, 65.0),
        direct=(0.3, 0.6),
        sun=((1.06, 1.0, 0.92), (1.12, 0.98, 0.82), (1.0, 1.0, 1.0)),
        zenith=((66, 124, 212), (88, 140, 214), (120, 140, 190), (142, 158, 178)),
        horizon=((188, 214, 238), (204, 222, 236), (240, 206, 166), (200, 208, 216)),
        clouds=(0.0, 0.6),
        shadow_edge=0.3,
        haze=(250.0, 700.0),
    ),
    sensor=Sensor(
        blur=(0.0, 0.0),
        vignette=0.0,
        exposure=(0.85, 1.2),
        gamma=(0.95, 1.1),
        saturation=(1.05, 1.3),
        contrast=(1.0, 1.2),
        black=0.0,
        tint=(1.02, 1.0, 0.98),
        noise=(0.0, 0.0),
        jpeg=0,
    ),
)

TARGET = World(
    name="target",
    view=View(
        height=(1.2, 1.3),
        pitch=(-2.6, -1.6),
        yaw=(-4.0, 4.0),
        roll=(-0.5, 0.5),
        field_of_view=(48.0, 52.0),
        on_sidewalk=0.0,
        off_centre=0.1,
        bonnet=0.11,
    ),
    street=Street(
        road_width=(8.5, 12.0),
        sidewalk_width=(2.0, 4.0),
        curve=0.0006,
        building_height=(9.0, 18.0),
        building_length=(9.0, 20.0),
        pitched_roof=0.7,
        park=0.25,
        verge=0.2,
        crossing=0.4,
        trees=8.0,
        poles=6.0,
        parked=0.55,
        traffic=3.5,
        bus=0.12,
        people=5.0,
        cyclists=0.6,
        parked_bicycles=0.7,
    ),
    materials=Materials(
        asphalt=((96, 97, 98), (110, 108, 106), (84, 86, 88)),
        markings=((206, 206, 202), (206, 206, 202)),
        paving=((146, 140, 136), (128, 126, 126), (152, 140, 130)),
        paving_size=0.5,
        grass=((104, 118, 70), (122, 122, 84)),
        facades=(
            (178, 168, 148),
            (156, 148, 140),
            (190, 184, 174),
            (148, 116, 98),
            (168, 150, 120),
            (132, 128, 126),
            (186, 170, 132),
        ),
        glass=((62, 68, 72), (90, 98, 102), (130, 138, 140)),
        roofs=((112, 74, 62), (86, 80, 80), (96, 66, 58)),
        leaves=((66, 86, 48), (56, 76, 46), (84, 98, 58), (50, 66, 44)),
        crown=(0.9, 1.7),
        paint=(
            (40, 42, 46),
            (150, 154, 158),
            (206, 206, 204),
            (84, 88, 94),
            (36, 46, 72),
            (28, 28, 30),
            (128, 40, 38),
            (176, 178, 178),
        ),
        bus_paint=((204, 168, 60), (196, 196, 190), (150, 60, 50)),
        clothes=(
            (48, 48, 56),
            (70, 76, 96),
            (120, 110, 104),
            (30, 30, 34),
            (150, 140, 130),
            (120, 54, 52),
            (64, 78, 70),
        ),
        metal=((112, 114, 110), (90, 94, 92), (134, 134, 130)),
        grain=0.09,
        stains=0.16,
        leaf_grain=0.3,
    ),
    light=Light(
        elevation=(30.0, 55.0),
        direct=(0.08, 0.4),
        sun=((1.02, 1.0, 0.96), (1.0, 1.0, 1.0)),
        zenith=((204, 212, 218), (216, 218, 220), (176, 196, 216)),
        horizon=((230, 232, 232), (232, 232, 228), (222, 228, 232)),
        clouds=(0.3, 0.9),
        shadow_edge=1.5,
        haze=(120.0, 260.0),
    ),
    sensor=Sensor(
        blur=(0.35, 0.6),
        vignette=0.25,
        exposure=(0.9, 1.15),
        gamma=(1.0, 1.15),
        saturation=(0.7, 0.9),
        contrast=(0.78, 0.92),
        black=8.0,
        tint=(0.95, 1.03, 0.96),
        noise=(2.5, 4.5),
        jpeg=85,
    ),
)
