"""Every analysis on a tiny finished run: three files, its columns, the same numbers again."""

import csv
import json
import shutil

import pytest
import tiny

from segue.analysis import ANALYSES
from segue.cli import commands as cli
from segue.running import run as running

COLUMNS = {
    "entropy": ["run", "class", "pixels", "mean_entropy"],
    "confusion": ["run", "label", "predicted", "pixels", "share_of_label"],
    "kept": ["run", "round", "rule", "class", "share_kept", "precision"],
    "translations": [
        "image", "picture", "mean_l", "mean_a", "mean_b", "colour_to_target", "change_of_255",
    ],
    "centres": ["model", "class", "other", "distance"],
    "groups": ["domain", "group", "share", "class", "share_of_group"],
    "tsne": ["run", "domain", "class", "class_by", "x", "y"],
    "grouping-kinds": [
        "grouping", "stage", "domain", "agreement", "common", "group", "share",
    ],
    "k-sweep": ["groups", "seeds", "miou_mean", "miou_spread"],
    "patch-sweep": ["patch", "seeds", "miou_mean", "miou_spread"],
}  # fmt: skip
# Further options that keep them small.
MORE = {
    "entropy": ("--images", 2, "--shown", 1),
    "translations": ("--shown", 1),
    "groups": ("--shown", 1),
    "tsne": ("--images", 2, "--pixels", 20),
    "grouping-kinds": ("--images", 2),
}
SWEEPS = {"k-sweep": "groups", "patch-sweep": "patch"}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run with a translation, pseudo-labels and groups."""
    folder = tmp_path_factory.mktemp("analyses") / "run"
    whole = tiny.recipe.load("grouping-demo", tiny.overrides("grouping-demo", data))
    running.run(whole, folder)
    return folder


def segue(capsys, *words):
    """Exit code, output and errors of a command in this process."""
    try:
        cli.main([str(word) for word in words])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def subject(name, finished, tmp_path):
    """What an analysis is given."""
    if name not in SWEEPS:
        return finished
    return sweep_of(tmp_path, f"stages.train.{SWEEPS[name]}")


def sweep_of(folder, key):
    rows = [f"{key},seed,miou", "4,0,0.2", "4,1,0.3", "16,0,0.4", "16,1,0.4", "None,0,0.1"]
    (folder / "sweep.csv").write_text("\n".join(rows) + "\n")
    return folder


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_analysis_is_tested():
    assert set(COLUMNS) == set(ANALYSES) - {"layout-shift"}  # test_layout_shift.py has that one


@pytest.mark.parametrize("name", COLUMNS)
def test_figure_and_numbers_the_same_twice(name, finished, tmp_path, capsys):
    given, stem = subject(name, finished, tmp_path), name.replace("-", "_")
    for turn in ("one", "two"):
        words = ("analyse", name, given, "-o", tmp_path / turn, *MORE.get(name, ()))
        code, out, err = segue(capsys, *words)
        assert code == 0, err
        assert f"{stem}.csv" in out
        left = sorted(path.name for path in (tmp_path / turn).iterdir())
        assert left == [f"{stem}.csv", f"{stem}.png", f"{stem}.svg"]
    for ending in ("csv", "svg"):
        first, second = (tmp_path / turn / f"{stem}.{ending}" for turn in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
    rows = rows_of(tmp_path / "one" / f"{stem}.csv")
    assert list(rows[0]) == COLUMNS[name]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        *((name, "holds no run") for name in COLUMNS if name not in SWEEPS),
        *((name, "holds no sweep") for name in SWEEPS),
    ],
)
def test_a_folder_without_a_run_is_one_line(name, told, tmp_path, capsys):
    code, _, err = segue(capsys, "analyse", name, tmp_path, "-o", tmp_path / "out")
    assert (code, len(err.splitlines())) == (1, 1), err
    assert told in err


def without_stages(finished, folder, *kinds):
    """The run as if its recipe had no stage of these kinds."""
    shutil.copytree(finished, folder)
    whole = tiny.recipe.load(folder / "recipe.yaml")
    left = {name: one for name, one in whole.stages.items() if one.kind not in kinds}
    (folder / "recipe.yaml").write_text(whole.model_copy(update={"stages": left}).as_yaml())
    return folder


def test_runs_that_lack_what_is_needed(finished, tmp_path, capsys, data):
    scored = without_stages(finished, tmp_path / "unscored", "evaluate")
    plain = tmp_path / "plain"
    plain.mkdir()
    recipe = tiny.recipe.load("source-only-demo", tiny.overrides("source-only-demo", data))
    (plain / "recipe.yaml").write_text(recipe.as_yaml())
    other = sweep_of(tmp_path, "stages.train.iterations")
    for words, told in (
        (("confusion", scored), "was never scored"),
        (("kept", plain), "makes no pseudo-labels"),
        (("groups", plain), "trained no grouping network"),
        (("grouping-kinds", plain), "trained no grouping network"),
        (("centres", plain), "model.safetensors"),
        (("entropy", plain), "is not finished"),
        (("entropy", finished, "--data", "sauce"), "did you mean 'source'?"),
        (("centres", finished, "--feature", "layer9"), "layer9"),
        (("k-sweep", other), "did not vary groups"),
    ):
        code, _, err = segue(capsys, "analyse", *words, "-o", tmp_path / "out")
        assert (code, len(err.splitlines())) == (1, 1), err
        assert told in err


def test_what_is_kept_needs_no_labels(finished, tmp_path, capsys):
    folder = tmp_path / "bare"
    shutil.copytree(finished, folder)
    path = folder / "pseudo_labels_1" / "pseudo_labels.json"
    told = json.loads(path.read_text())
    told.pop("measured", None)
    path.write_text(json.dumps(told))
    code, _, err = segue(capsys, "analyse", "kept", folder, "-o", tmp_path)
    assert code == 0, err
    first = rows_of(tmp_path / "kept.csv")[0]
    assert (first["class"], first["precision"]) == ("all", "")
    assert float(first["share_kept"]) == pytest.approx(told["total"]["share_kept"], abs=1e-6)


def test_target_without_labels(finished, tmp_path, capsys):
    words = ("analyse", "tsne", finished, "--data", "target", "-o", tmp_path, *MORE["tsne"])
    code, _, err = segue(capsys, *words)
    assert code == 0, err
    assert {row["class_by"] for row in rows_of(tmp_path / "tsne.csv")} == {"prediction"}


def test_sweep_has_mean_and_spread(tmp_path, capsys):
    sweep_of(tmp_path, "stages.train.terms.alignment.patch")
    assert segue(capsys, "analyse", "patch-sweep", tmp_path, "-o", tmp_path / "out")[0] == 0
    rows = rows_of(tmp_path / "out" / "patch_sweep.csv")
    assert [row["patch"] for row in rows] == ["4.0", "16.0", "whole"]
    assert [float(row["miou_mean"]) for row in rows] == pytest.approx([25, 40, 10])
    assert float(rows[0]["miou_spread"]) == pytest.approx(50**0.5, abs=1e-5)
    assert rows[2]["miou_spread"] == ""
