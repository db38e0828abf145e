"""Methods on pairs of datasets: every cell, aliases of before, and data of one's own."""

import pytest
from typer.testing import CliRunner

from segue import recipe
from segue.cli.commands import app
from segue.errors import SegueError
from segue.recipe import compose
from segue.recipe.files import resolve, shipped, unexpanded

DATA = """
label_space: {name: mine, classes: [road, car, sky]}
data:
  source: {kind: folder, root: s, images: "*.jpg", labels: "{stem}.png", size: [64, 32]}
  target: {kind: folder, root: t, images: "*.jpg", labels: null, size: [48, 32]}
"""
VALIDATION = "  validation: {kind: folder, root: v, images: '*.jpg', size: [32, 32]}\n"
# The heads that these put on the third stage only DeepLab-v2 has.
TWO_LEVELS = {"adaptsegnet", "advent", "min-ent", "ensemble"}


@pytest.fixture(params=["", VALIDATION])
def own(request, tmp_path):
    (tmp_path / "mine.yaml").write_text(DATA + request.param)
    return tmp_path / "mine.yaml"


@pytest.mark.parametrize("name", shipped())
def test_a_cell_is_its_method_on_its_pair(name):
    method, pair = compose.cells()[name]
    assert resolve(method, on=pair) == resolve(name)


@pytest.mark.parametrize("method", sorted({*compose.names("methods")} - TWO_LEVELS))
def test_every_method_goes_on_data_of_ones_own(method, own):
    whole = recipe.load(method, on=own)
    assert whole.name == f"{method}-mine"
    sizes = {"source": (64, 32), "target": (48, 32)}
    for stage in whole.stages.values():
        for role in ("source", "target"):
            drawn = getattr(stage, role, None)
            if drawn is not None and drawn.data in sizes:
                assert drawn.size == sizes[drawn.data]
    scored = [one for one in whole.stages.values() if one.kind == "evaluate"]
    assert bool(scored) == ("validation" in whole.data)


@pytest.mark.parametrize("former", [name for name in compose.FORMER if not name.startswith("_")])
def test_former_names_stay(former):
    before, now = recipe.load(former), recipe.load(compose.FORMER[former])
    assert before.name == former
    last = list(now.stages)[-1]
    assert before.fingerprint(last) == now.fingerprint(last)


@pytest.mark.parametrize("former", ["_demo", "_carla", "_cbst", "_translated_by_cyclegan"])
def test_fragments_of_before_stay(former, tmp_path):
    before, now = tmp_path / "before.yaml", tmp_path / "now.yaml"
    before.write_text(f"base: {former}\n")
    now.write_text(f"base: {former[1:].replace('_', '-')}\n")
    found = unexpanded(before)
    assert {**found, "base": None} == {**unexpanded(now), "base": None}
    assert len(found) > 1


def test_a_method_laid_over_a_pair_in_a_base(tmp_path):
    (tmp_path / "one.yaml").write_text("base: [carla, coarse-to-fine]\n")
    found, cell = resolve(tmp_path / "one.yaml"), resolve("coarse-to-fine-carla")
    assert found["stages"] == cell["stages"]


def test_a_pair_holds_no_stages(tmp_path):
    (tmp_path / "mine.yaml").write_text(DATA + "stages: {}\n")
    with pytest.raises(SegueError, match="has stages of its own"):
        recipe.load("cbst", on=tmp_path / "mine.yaml")


@pytest.mark.parametrize("name", ["coarse-to-fin", "coarse-to-fine-carla"])
def test_only_methods_are_put_on_pairs(name, own):
    with pytest.raises(SegueError, match=f"no method is called '{name}'"):
        recipe.load(name, on=own)


def test_the_command_takes_a_pair(own):
    done = CliRunner().invoke(app, ["check", "cbst", "--on", str(own), "--sample", "1"])
    assert done.exit_code != 2
    assert "s: no such folder" in " ".join(done.output.split()) or isinstance(
        done.exception, SegueError
    )
