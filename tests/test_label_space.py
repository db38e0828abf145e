import pickle

import numpy as np
import pytest

from segue.errors import SegueError
from segue.label_space import (
    CITYSCAPES,
    CITYSCAPES_16,
    CITYSCAPES_IDS,
    IGNORE,
    LABEL_SPACES,
    LabelSpace,
    distinct_colours,
)


def test_cityscapes_equals_the_official_table():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    evaluated = [label for label in labels if 0 <= label.trainId < 255]
    assert {label.id: label.trainId for label in evaluated} == CITYSCAPES_IDS
    for label in evaluated:
        assert CITYSCAPES.classes[label.trainId] == label.name
        assert CITYSCAPES.colours[label.trainId] == label.color


def test_cityscapes_ids_are_those_of_the_papers():
    raw = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert dict(zip(raw, range(19), strict=True)) == CITYSCAPES_IDS


def test_protocols_of_16_and_13_leave_out_what_the_papers_leave_out():
    def left_out(name):
        kept = CITYSCAPES.protocol(name)
        return [CITYSCAPES.classes[i] for i in range(19) if i not in kept]

    assert CITYSCAPES.protocol("19") == tuple(range(19))
    assert left_out("16") == ["terrain", "truck", "train"]
    assert left_out("13") == ["wall", "fence", "pole", "terrain", "truck", "train"]


def test_cityscapes16_is_what_synthia_has_in_the_same_order():
    left = [name for name in CITYSCAPES.classes if name not in ("terrain", "truck", "train")]
    assert list(CITYSCAPES_16.classes) == left
    assert [CITYSCAPES.colours[CITYSCAPES.train_id(name)] for name in left] == list(
        CITYSCAPES_16.colours
    )
    assert list(CITYSCAPES_16.protocols) == ["16", "13"]
    for name, ids in CITYSCAPES_16.protocols.items():
        ours = [CITYSCAPES_16.classes[one] for one in ids]
        assert ours == [CITYSCAPES.classes[one] for one in CITYSCAPES.protocol(name)]


@pytest.mark.parametrize("space", LABEL_SPACES.values(), ids=LABEL_SPACES)
def test_label_spaces_survive_pickling_and_name_their_protocols_by_size(space):
    assert pickle.loads(pickle.dumps(space)) == space
    for name, ids in space.protocols.items():
        assert name == str(len(ids))


def test_colour_and_palette_show_the_same():
    label = np.array([[0, 1, 18], [IGNORE, 10, 200]], np.uint8)
    image = CITYSCAPES.palette_png(label)
    assert image.mode == "P"
    assert (np.asarray(image) == label).all()
    colours = CITYSCAPES.colour(label)
    assert colours.dtype == np.uint8
    assert (np.asarray(image.convert("RGB")) == colours).all()
    assert colours[1, 0].tolist() == [0, 0, 0]
    assert tuple(colours[0, 2]) == (119, 11, 32)


def test_palette_file_holds_the_ids(tmp_path):
    from PIL import Image

    label = np.arange(15, dtype=np.uint8).reshape(3, 5)
    CITYSCAPES.palette_png(label.T).save(tmp_path / "label.png")
    with Image.open(tmp_path / "label.png") as image:
        assert (np.asarray(image) == label.T).all()


def test_own_space_has_one_protocol_of_all_classes():
    space = LabelSpace.from_settings("own", ["a", "b", "c"])
    assert space.protocols == {"3": (0, 1, 2)}
    assert len(set(space.colours)) == 3


def test_own_space_with_colours_and_protocols():
    space = LabelSpace.from_settings(
        "own", ["a", "b"], [(1, 2, 3), (4, 5, 6)], {"2": ["a", "b"], "only b": ["b"]}
    )
    assert space.protocols == {"2": (0, 1), "only b": (1,)}
    assert space.colours[1] == (4, 5, 6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classes": []}, "0 classes"),
        ({"classes": [str(i) for i in range(255)]}, "255 classes"),
        ({"classes": ["a", "a"]}, "class a is named twice"),
        ({"classes": ["a", "b"], "colours": [(1, 2, 3)]}, "1 colours for 2 classes"),
        ({"classes": ["a"], "colours": [(1, 2, 256)]}, "0 to 255"),
        ({"classes": ["a"], "colours": [(1, 2)]}, "three values"),
        ({"classes": ["road"], "protocols": {"1": ["raod"]}}, "did you mean 'road'?"),
        ({"classes": ["road"], "protocols": {"1": ["x"]}}, "classes: road"),
        ({"classes": ["a"], "protocols": {"0": []}}, "protocol 0"),
        ({"classes": ["a"], "protocols": {"2": ["a", "a"]}}, "protocol 2"),
    ],
)
def test_what_does_not_fit_is_said(settings, said):
    with pytest.raises(SegueError, match="own") as caught:
        LabelSpace.from_settings("own", **settings)
    assert said in str(caught.value)


def test_unknown_protocol_lists_the_known():
    with pytest.raises(SegueError, match="choose from 19, 16, 13"):
        CITYSCAPES.protocol("18")


def test_generated_colours_stay_apart_and_off_black():
    colours = np.array([(0, 0, 0), *distinct_colours(30)], int)
    gaps = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(31, dtype=int)
    assert gaps.min() >= 32
    assert distinct_colours(30)[:12] == distinct_colours(12)
    assert len(set(distinct_colours(254))) == 254
