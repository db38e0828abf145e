"""How values are spelled in YAML: version 1.2's core schema behind every door."""

import math

import pytest
import yaml

from segue.errors import SegueError
from segue.recipe.files import resolve, setting
from segue.recipe.safe_yaml import Dumper, parsed

# What 1.1 reads otherwise stands first.
SPELLINGS = {
    "no": "no", "No": "No", "NO": "NO", "yes": "yes", "on": "on", "off": "off", "y": "y", "n": "n",
    "011": 11, "0640": 640, "0777": 777, "08": 8, "0o11": 9, "0x1F": 31, "0b11": "0b11",
    "1:30": "1:30", "190:20:30": "190:20:30", "1_000": "1_000", "12e03": 12000.0, "1e-3": 0.001,
    "1.": 1.0, ".5": 0.5, "+5": 5, "-0": 0, "2020-01-01": "2020-01-01", "=": "=",
    "2001-12-14t21:59:43.10-05:00": "2001-12-14t21:59:43.10-05:00",
    "true": True, "True": True, "TRUE": True, "false": False, "~": None, "null": None,
    ".inf": math.inf, "-.INF": -math.inf, '"no"': "no", "'011'": "011", "0o9": "0o9", "v1": "v1",
    "!!str 11": "11",
}  # fmt: skip


def in_a_file(text, folder):
    (folder / "one.yaml").write_text(f"title: x\nthing: {text}\n")
    return resolve(folder / "one.yaml")["thing"]


def in_a_list(text, folder):
    (folder / "one.yaml").write_text(f"things: [{text}, {text}]\n")
    first, second = resolve(folder / "one.yaml")["things"]
    assert first == second
    return first


def as_the_value_of_an_id(text, folder):
    (folder / "one.yaml").write_text(f"ids: {{7: {text}}}\n")
    return resolve(folder / "one.yaml")["ids"][7]


def in_an_override(text, folder):
    return setting(f"data.x.thing={text}")[1]


def in_a_base(text, folder):
    (folder / "lower.yaml").write_text(f"thing: {text}\n")
    (folder / "one.yaml").write_text("base: lower.yaml\n")
    return resolve(folder / "one.yaml").get("thing")


DOORS = [in_a_file, in_a_list, as_the_value_of_an_id, in_an_override, in_a_base]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("text", SPELLINGS)
def test_a_spelling_is_the_same_value_behind_every_door(text, door, tmp_path):
    found, wanted = door(text, tmp_path), SPELLINGS[text]
    assert (type(found), found) == (type(wanted), wanted)


def test_not_a_number():
    assert math.isnan(parsed(".nan", where=""))


@pytest.mark.parametrize("value", [*filter(None, SPELLINGS), "", "a #b", "#b", "<<", "{", "- a"])
def test_text_that_is_written_reads_as_text(value):
    assert parsed(yaml.dump({"key": value}, Dumper=Dumper), where="") == {"key": value}


@pytest.mark.parametrize(
    "text",
    ["{11: a, 011: b}", "{a: 1, 'a': 2}", "{1: a, true: b}", "{1: a, 1.0: b}", "{~: 1, null: 2}",
     "{<<: {a: 1}, <<: {b: 1}}", "x: {0x1F: a, 31: b}"],
)  # fmt: skip
def test_a_key_stands_once_however_it_is_spelled(text, tmp_path):
    (tmp_path / "one.yaml").write_text(text)
    with pytest.raises(SegueError, match=r"one\.yaml: line 1: the key .* stands twice"):
        resolve(tmp_path / "one.yaml")
    with pytest.raises(SegueError, match="is not a YAML value"):
        setting(f"key={text}")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("root=a #b", "a #b"),
        ("root=/data/run #3/images", "/data/run #3/images"),
        ("root=#b", "#b"),
        ("root=a#b", "a#b"),
        ("root='a #b'", "a #b"),
        ("root=C:\\data", "C:\\data"),
        ("root=a=b", "a=b"),
        ("root=", None),
    ],
)
def test_nothing_of_an_override_is_cut_off(override, value):
    assert setting(override) == ("root", value)


@pytest.mark.parametrize("override", ["x=[1, 2] #3", 'x="a" #b', "x={a: 1} # b"])
def test_a_comment_behind_a_value_is_refused(override):
    with pytest.raises(SegueError, match="quote"):
        setting(override)


def test_a_base_is_read_once(tmp_path):
    """Read again, it would un-say what was laid over it since, nulls among it."""
    (tmp_path / "data.yaml").write_text("data: {target: {images: a, labels: null}, b: {c: 1}}\n")
    (tmp_path / "over.yaml").write_text("base: data.yaml\ndata: {b: {c: 2}}\n")
    (tmp_path / "more.yaml").write_text("base: data.yaml\nmore: 1\n")
    (tmp_path / "one.yaml").write_text("base: [over.yaml, more.yaml, ./data.yaml]\n")
    found = resolve(tmp_path / "one.yaml")
    assert found["data"] == {"target": {"images": "a", "labels": None}, "b": {"c": 2}}
    assert found["more"] == 1


@pytest.mark.parametrize("name", ["coarse-to-fine-carla-native", "bdl-carla"])
def test_a_pair_that_is_met_again_is_not_read_again(name, tmp_path):
    (tmp_path / "data.yaml").write_text("base: carla\ndata: {source: {root: elsewhere}}\n")
    (tmp_path / "one.yaml").write_text(f"base: [data.yaml, {name}]\n")
    data = resolve(tmp_path / "one.yaml")["data"]
    assert data["source"]["root"] == "elsewhere"
    assert data["target"]["labels"] is None
    assert resolve(name)["data"]["target"]["labels"] is None
