"""Class names, their colours, and which of them a printed mean averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.errors import SegueError

IGNORE = 255
MAX_CLASSES = 254  # 254 and 255 mean "unknown id" and "ignored" in a table of train ids


@dataclass(frozen=True)
class LabelSpace:
    """The classes that a network tells apart; a class's place in the list is its train id.

    Args:
        name: how messages call it.
        classes: the class names, at most 254.
        colours: one RGB colour for each class.
        protocols: by name, the train ids whose IoU a mean averages.

    Raises:
        SegueError: the parts do not fit each other.

    Example:
        >>> CITYSCAPES.num_classes, len(CITYSCAPES.protocol("16"))
        (19, 16)
        >>> CITYSCAPES.colour(np.array([[0, 255]], np.uint8)).tolist()
        [[[128, 64, 128], [0, 0, 0]]]
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    protocols: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        where = f"label space {self.name}"
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise SegueError(
                f"{len(self.classes)} classes", where=where, fix=f"name 1 to {MAX_CLASSES} classes"
            )
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            raise SegueError(
                f"class {', '.join(twice)} is named twice", where=where, fix="name each class once"
            )
        if len(self.colours) != len(self.classes):
            raise SegueError(
                f"{len(self.colours)} colours for {len(self.classes)} classes",
                where=where,
                fix="give each class one colour, or leave `colours` out",
            )
        if any(len(c) != 3 or not all(0 <= v <= 255 for v in c) for c in self.colours):
            raise SegueError(
                "a colour is not three values from 0 to 255", where=where, fix="mend `colours`"
            )
        for protocol, ids in self.protocols.items():
            if not ids or len(set(ids)) != len(ids) or not set(ids) <= set(range(self.num_classes)):
                raise SegueError(
                    f"protocol {protocol} averages train ids {list(ids)}",
                    where=where,
                    fix=f"list each class once, as train ids 0 to {self.num_classes - 1}",
                )

    @classmethod
    def from_settings(
        cls,
        name: str,
        classes: Sequence[str],
        colours: Sequence[tuple[int, int, int]] | None = None,
        protocols: Mapping[str, Sequence[str]] | None = None,
    ) -> LabelSpace:
        """A label space as a recipe writes it, with protocols as lists of class names.

        Args:
            name: how messages call it.
            classes: the class names in the order of their train ids.
            colours: RGB for each class; left out, colours that stay apart for colour-blind eyes.
            protocols: class names by protocol; left out, one protocol of all classes whose name
                is their number.

        Raises:
            SegueError: a protocol names no such class, or the parts do not fit each other.

        Example:
            >>> space = LabelSpace.from_settings("toy", ["sky", "road"], protocols={"1": ["road"]})
            >>> space.protocol("1")
            (1,)
        """
        shown = distinct_colours(len(classes)) if colours is None else tuple(colours)
        space = cls(name, tuple(classes), shown, {})
        if protocols is None:
            everything = {str(space.num_classes): tuple(range(space.num_classes))}
            return cls(name, space.classes, space.colours, everything)
        chosen = {
            str(key): tuple(space.train_id(member) for member in members)
            for key, members in protocols.items()
        }
        return cls(name, space.classes, space.colours, chosen)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    def train_id(self, name: str) -> int:
        """The train id of a class name.

        Raises:
            SegueError: there is no such class.
        """
        if name in self.classes:
            return self.classes.index(name)
        near = get_close_matches(str(name), self.classes, n=1)
        raise SegueError(
            f"no class is called {name!r}",
            where=f"label space {self.name}",
            fix=f"did you mean {near[0]!r}?" if near else f"classes: {', '.join(self.classes)}",
        )

    def protocol(self, name: str) -> tuple[int, ...]:
        """The train ids that a protocol averages.

        Raises:
            SegueError: there is no such protocol.
        """
        if name not in self.protocols:
            raise SegueError(
                f"no protocol is called {name!r}",
                where=f"label space {self.name}",
                fix=f"choose from {', '.join(self.protocols)}",
            )
        return self.protocols[name]

    @cached_property
    def _palette(self) -> NDArray[np.uint8]:
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = self.colours
        return palette

    def colour(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Train ids [H, W] as RGB [H, W, 3]; ignored pixels are black."""
        return self._palette[label]

    def palette_png(self, label: NDArray[np.uint8]) -> Image.Image:
        """Train ids [H, W] as a palette image that holds the ids and shows the colours."""
        height, width = label.shape
        image = Image.frombytes("P", (width, height), np.ascontiguousarray(label).tobytes())
        image.putpalette(self._palette.tobytes())
        return image


# Okabe and Ito's set, which those who see no red or no green can still tell apart.
_OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# Machado et al. 2009, how the two common colour blindnesses see linear RGB.
_DEUTERANOPIA = ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969))
_LINEAR_RGB_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_PROTANOPIA = ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052))


def distinct_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours that stay apart for colour-blind eyes too, none of them near black.

    The first seven are Okabe and Ito's; each next one is that of a 9x9x9 grid which is farthest
    from all before it, in Lab, for the eye (normal, no green, no red) that sees the least of it.

    Example:
        >>> len(set(distinct_colours(40)))
        40
    """
    grid = np.linspace(0, 255, 9).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(-1, 3)
    seen = _as_seen(candidates)
    chosen = list(_OKABE_ITO[:count])
    taken = _as_seen(np.array([(0, 0, 0), *chosen], np.uint8))
    gap = np.linalg.norm(seen[:, None] - taken[None], axis=-1).min(axis=(1, 2))
    while len(chosen) < count:
        best = int(gap.argmax())
        red, green, blue = (int(value) for value in candidates[best])
        chosen.append((red, green, blue))
        gap = np.minimum(gap, np.linalg.norm(seen - seen[best], axis=-1).min(axis=1))
    return tuple(chosen)


def _as_seen(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[N, 3] sRGB to Lab as three eyes see it, [N, 3 eyes, 3]."""
    encoded = rgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    eyes = np.stack([np.eye(3), np.array(_DEUTERANOPIA), np.array(_PROTANOPIA)])
    linear = np.einsum("eij,nj->nei", eyes, linear).clip(0, 1)
    to_xyz = np.array(
        [(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)]
    )
    xyz = linear @ to_xyz.T / (0.9505, 1.0, 1.089)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_WITHOUT_16 = (9, 14, 16)
_WITHOUT_13 = (*_WITHOUT_16, 3, 4, 5)

CITYSCAPES = LabelSpace(
    name="cityscapes",
    classes=(
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    colours=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
    protocols={
        "19": tuple(range(19)),
        "16": tuple(i for i in range(19) if i not in _WITHOUT_16),
        "13": tuple(i for i in range(19) if i not in _WITHOUT_13),
    },
)

# Raw id to train id of Cityscapes' labelIds files, and of GTA5's palette indices.
CITYSCAPES_IDS: dict[int, int] = {
    raw: train
    for train, raw in enumerate(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    )
}


def _only(space: LabelSpace, name: str, members: Sequence[int]) -> LabelSpace:
    """Some classes of a space in their order, with those of its protocols that they fill."""
    new = {old: place for place, old in enumerate(members)}
    return LabelSpace(
        name,
        tuple(space.classes[old] for old in members),
        tuple(space.colours[old] for old in members),
        {
            key: tuple(new[old] for old in ids)
            for key, ids in space.protocols.items()
            if set(ids) <= new.keys()
        },
    )


# What SYNTHIA and Cityscapes share, for networks of 16 outputs: terrain, truck and train are void.
CITYSCAPES_16 = _only(CITYSCAPES, "cityscapes16", CITYSCAPES.protocol("16"))

LABEL_SPACES = {space.name: space for space in (CITYSCAPES, CITYSCAPES_16)}


def of_cityscapes(space: LabelSpace) -> bool:
    """Whether a space's classes are those of Cityscapes, or those that SYNTHIA has of them.

    Example:
        >>> of_cityscapes(CITYSCAPES_16), CITYSCAPES_16.num_classes, list(CITYSCAPES_16.protocols)
        (True, 16, ['16', '13'])
    """
    return any(space.classes == known.classes for known in LABEL_SPACES.values())
