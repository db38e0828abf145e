"""Whatever is put in: a recipe or one clear line, ids that come back, thresholds that a sort gives.

`--hypothesis-seed` repeats a run; `SEGUE_EXAMPLES=1000` looks at more than the usual few.
"""

import io
import os

import bad_input
import cv2
import numpy as np
import pytest
import torch
import yaml
from dataset_files import png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from segue import recipe
from segue.datasets.dataset import UNKNOWN, id_table
from segue.datasets.reading import read_image, read_raw_label
from segue.errors import SegueError, printable
from segue.label_space import CITYSCAPES, IGNORE
from segue.pseudo_labels import total
from segue.pseudo_labels.confidence import Confidence
from segue.recipe.files import setting
from segue.recipe.safe_yaml import Dumper, parsed

EXAMPLES = int(os.environ.get("SEGUE_EXAMPLES", "60"))
few = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
GOOD = yaml.safe_load(bad_input.GOOD)
NAMES = sorted(
    {"base", "like", "templates", "repeat", "start", "kind", "size", "weight", "..", "a/b", ""}
    | {"source", "target", "train", "evaluate", "folder", "adversarial", "previous.x", "rounds"}
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from(NAMES),
    st.text(max_size=12),
    st.dates(),
    st.binary(max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | SCALARS, inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    """Paths to everything inside mappings and lists."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


@st.composite
def changed(draw):
    """A good recipe in which something is another thing, has another name or is gone."""
    whole = yaml.safe_load(bad_input.GOOD)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(whole))))
        inside = whole
        for key in path[:-1]:
            inside = inside[key]
        what = draw(st.sampled_from(["set", "set", "set", "drop", "add"]))
        if what == "add" and isinstance(inside, dict):
            inside[draw(st.sampled_from(NAMES) | SCALARS)] = draw(VALUES)
        elif what == "drop":
            del inside[path[-1]]
        else:
            inside[path[-1]] = draw(VALUES)
    return whole


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes") / "any.yaml"


def loads_or_refuses(path, overrides=()):
    """A recipe that its own YAML gives again; or nothing, and one line."""
    try:
        found = recipe.load(path, overrides)
    except SegueError as error:
        told = str(error)
    else:
        stages = list(found.stages)
        wanted = [found.fingerprint(name) for name in stages]
        path.write_text(found.as_yaml(), encoding="utf-8")
        again = recipe.load(path)
        assert [again.fingerprint(name) for name in stages] == wanted
        told = ""
    assert told == printable(told), "one line, nothing that steers a terminal"
    return not told


@few
@given(changed())
def test_a_changed_recipe_is_a_recipe_or_one_line(file, whole):
    text = yaml.dump(whole, Dumper=Dumper, sort_keys=False, allow_unicode=True)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    loads_or_refuses(file)


@few
@given(st.dictionaries(st.sampled_from([*GOOD, *NAMES]) | SCALARS, VALUES, max_size=5))
def test_any_mapping_is_a_recipe_or_one_line(file, whole):
    file.write_bytes(yaml.dump(whole, Dumper=Dumper).encode("utf-8", "surrogatepass"))
    loads_or_refuses(file)


@few
@given(st.text(st.sampled_from("ab:-?[]{},&*!|>'\"%#~=\n\t 01.é\0\ud800")))
def test_any_text_is_yaml_or_one_line(text):
    told = "here: "
    try:
        parsed(text, where="here")
    except SegueError as error:
        told = str(error)
    assert told.startswith("here: ")
    assert told == printable(told)


@few
@given(
    st.sampled_from([".".join(map(str, path)) for path in places(GOOD)]),
    VALUES | st.text(max_size=8),
)
def test_any_setting_is_taken_or_one_line(file, key, value):
    file.write_text(bad_input.GOOD)
    shown = (
        value
        if isinstance(value, str)
        else yaml.dump(value, Dumper=Dumper, default_flow_style=True)
    )
    loads_or_refuses(file, [f"{key}={shown}"])


@few
@given(st.text(max_size=12))
def test_any_word_is_a_setting_or_one_line(word):
    told = ""
    try:
        key, _ = setting(word)
    except SegueError as error:
        key = told = str(error)
    assert key
    assert told == printable(told)


def test_the_good_recipe_is_good(file):
    file.write_text(bad_input.GOOD)
    assert loads_or_refuses(file)


@few
@given(
    st.dictionaries(
        st.integers(-5, 40) | st.sampled_from([65535, 65536]),
        st.integers(-3, 22) | st.sampled_from([254, 255, "road", "ignore", "raod", "", "bicycle"]),
        max_size=8,
    )
)
def test_a_label_map_says_what_was_said_and_nothing_else(ids):
    names = {**{name: place for place, name in enumerate(CITYSCAPES.classes)}, "ignore": IGNORE}
    known = [*range(19), IGNORE, *names]
    fits = all(0 <= raw <= 65535 and value in known for raw, value in ids.items())
    if not fits:
        with pytest.raises(SegueError):
            id_table(ids, CITYSCAPES)
        return
    table = id_table(ids, CITYSCAPES)
    wanted = np.full(65536, UNKNOWN)
    for raw, value in ids.items():
        wanted[raw] = names.get(value, value)
    assert np.array_equal(table, wanted)


SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=12)


@few
@given(st.sampled_from([1, 2, 4, 8, 16]), st.data())
def test_grey_labels_come_back(file, bits, data):
    ids = data.draw(arrays(np.int64, SHAPES, elements=st.integers(0, 2**bits - 1)))
    file.write_bytes(png(ids, bits))
    assert np.array_equal(read_raw_label(file), ids)


@few
@given(arrays(np.uint8, SHAPES), st.binary(min_size=768, max_size=768))
def test_palette_labels_come_back_whatever_their_colours(file, ids, colours):
    image = Image.frombytes("P", ids.shape[::-1], ids.tobytes())
    image.putpalette(colours)
    image.save(file, "png")
    assert np.array_equal(read_raw_label(file), ids)


@few
@given(arrays(np.uint16, SHAPES), arrays(np.uint16, (2,)))
def test_colour_labels_of_16_bits_come_back(file, ids, others):
    bgr = np.stack([np.full_like(ids, others[0]), np.full_like(ids, others[1]), ids], -1)
    file.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())
    assert np.array_equal(read_raw_label(file), ids)


@few
@given(
    arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=12).map(lambda s: (*s[:2], 3))),
    st.sampled_from(["png", "bmp", "tiff", "ppm"]),
)
def test_pictures_come_back(file, pixels, kind):
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, kind)
    file.write_bytes(memory.getvalue())
    assert np.array_equal(np.asarray(read_image(file)), pixels)


CONFIDENCES = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 1.0, 0.5, 2**-149, float(np.nextafter(np.float32(0.5), np.float32(1)))]),
)
IMAGES = st.lists(
    array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
        lambda shape: arrays(np.float32, (3, *shape), elements=CONFIDENCES)
    ),
    min_size=1,
    max_size=4,
)


@few
@given(IMAGES, st.floats(0, 1), st.integers(1, 3))
def test_selection_by_counting_is_selection_by_sorting(arrays_, quantile, processes):
    """The value at any place of any class, whoever counted which image."""
    images = [torch.from_numpy(one) for one in arrays_]
    rule, counts = Confidence(cap=1.0, quantile=quantile), []
    for _ in range(rule.passes):
        parts = (images[start::processes] for start in range(processes))
        counts.append(sum(total(rule, part, counts) for part in parts if part))
    found = rule.settle(counts, 3).thresholds
    highest = [image.max(0) for image in images]
    for index, threshold in enumerate(found):
        values = np.sort(torch.cat([v[where == index] for v, where in highest]).numpy())
        place = min(round(len(values) * quantile), len(values) - 1)
        assert threshold == (values[place] if len(values) else 1.0)
