"""`segue sweep --ablation`: the rows of a paper's table; and how `segue demo` shares its length."""

import csv
from unittest import mock

import pytest
import tiny

from segue.analysis.sweep_curve import measure
from segue.cli import commands as cli
from segue.demo import demo as demonstration
from segue.demo.demo import SYSTEMS, shortened, trained
from segue.errors import SegueError
from segue.figures import figure
from segue.recipe import load
from segue.recipe.files import shipped
from segue.recipe.recipe import TrainStage
from segue.running import sweep as sweeping
from segue.running.sweep import label, sweep

RECIPE = """
base: _demo
device: cpu
workers: 0
data:
  source: {{root: {data}/worlds/source}}
  target: {{root: {data}/worlds/target}}
  validation: {{root: {data}/worlds/target}}
templates:
  train: {{iterations: 1, batch_size: 1, log_every: 1, source: {{size: {size}}}}}
  adapt: {{target: {{size: {size}}}}}
  pseudo_label: {{size: {size}}}
  evaluate: {{size: {size}}}
stages:
  first: {{like: train}}
  rounds:
    repeat: 1
    start: {{train: first}}
    stages:
      labels: {{like: pseudo_label, models: [previous.train], rule: confidence}}
      train:
        like: adapt
        target: {{data: this.labels}}
        terms: {{pseudo_labels: {{kind: cross_entropy, view: target}}}}
  evaluate: {{like: evaluate, models: [last.train]}}
ablations:
  parts:
    where: table 9
    of: mine
    rows:
      nothing: {{settings: [stages.rounds.repeat=0], reported: {{"19": 12.5}}}}
      "+ one round": {{reported: {{"19": 20}}}}
      + jitter: {{below: [{lower}], settings: [stages.first.terms.segmentation.view=seen]}}
  unreported:
    where: nowhere
    of: mine
    rows:
      nothing: {{settings: [stages.rounds.repeat=0]}}
"""
LOWER = "stages: {first: {views: {seen: {kind: jittered, of: source}}}}\n"


@pytest.fixture(scope="module")
def mine(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "lower.yaml").write_text(LOWER)
    text = RECIPE.format(data=data.root, size=tiny.SIZE, lower=folder / "lower.yaml")
    (folder / "mine.yaml").write_text(text)
    (folder / "other.yaml").write_text("base: mine.yaml\n")
    (folder / "narrow.yaml").write_text("base: mine.yaml\nname: mine\nprotocols: [16]\n")
    return folder / "mine.yaml"


@pytest.fixture(autouse=True, scope="module")
def no_pictures():
    """Half of a second for each; test_pseudo_label_stage.py looks at them."""
    with mock.patch.object(figure, "save"):
        yield


@pytest.fixture(scope="module")
def swept(mine, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("swept")
    return work_dir, sweep(str(mine), [], ablation="parts", seeds=2, work_dir=work_dir)


def test_rows_are_run_with_every_seed(swept):
    work_dir, points = swept
    assert [point.choice for point in points] == [
        {"row": "nothing"},
        {"row": "+ one round"},
        {"row": "+ jitter"},
    ]
    assert [point.reported for point in points] == [{"19": 12.5}, {"19": 20}, {}]
    assert all(len(point.miou) == 2 for point in points)
    folders = [path.name for path in sorted(work_dir.iterdir()) if path.is_dir()]
    assert folders == ["row___jitter", "row___one_round", "row_nothing"]
    stages = {
        name: {path.name for path in (work_dir / name / "seed_1").iterdir() if path.is_dir()}
        for name in folders
    }
    assert stages["row_nothing"] == {"first", "evaluate"}
    assert stages["row___one_round"] == {"first", "labels_1", "train_1", "evaluate"}


def test_the_table_and_the_file(swept):
    work_dir, points = swept
    with (work_dir / "sweep.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["row", "seed", "miou"]
    assert [row[:2] for row in rows] == [
        [point.choice["row"], str(seed)] for point in points for seed in (0, 1)
    ]
    assert [float(row[2]) for row in rows] == [score for point in points for score in point.miou]
    lines = (work_dir / "sweep.md").read_text().splitlines()
    assert lines[0] == "| row | mIoU (protocol 19) | reported, table 9 |"
    assert lines[2] == f"| nothing | {points[0].text} | 12.5 |"
    assert lines[3] == f"| + one round | {points[1].text} | 20 |"
    assert lines[4] == f"| + jitter | {points[2].text} |  |"
    assert "\u00b1" in points[0].text, "the spread over two seeds"


def header_of(recipe, ablation, tmp_path):
    sweep(str(recipe), ["stages.rounds.repeat=0"], ablation=ablation, work_dir=tmp_path)
    return (tmp_path / "sweep.md").read_text().splitlines()[0]


@pytest.mark.parametrize("name", ["other", "narrow"])
def test_figures_of_another_recipe_or_protocol_are_named(mine, tmp_path, name, monkeypatch):
    monkeypatch.setattr(sweeping, "_score", lambda *_: {"x": 0.5})
    header = header_of(mine.with_name(f"{name}.yaml"), "parts", tmp_path)
    assert header.endswith("| reported, table 9, for mine (protocol 19) |")


def test_a_paper_with_two_protocols_has_a_column_of_each(mine, tmp_path, monkeypatch):
    """As tables 1 and 3 of local alignment have: 16 and 13 classes."""
    text = "base: mine.yaml\nname: mine\nprotocols: [16, 13]\nablations: {parts: {rows: "
    text += '{nothing: {reported: {"19": null, "16": 31.95, "13": 36.86}},'
    text += ' + one round: {reported: {"19": null, "16": 44.84}}}}}\n'
    two = mine.with_name("two.yaml")
    two.write_text(text)
    monkeypatch.setattr(sweeping, "_score", lambda *_: {"16": 0.5, "13": 0.6, "x": 0.7})
    sweep(str(two), ["stages.rounds.repeat=0"], ablation="parts", seeds=2, work_dir=tmp_path)
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    assert lines[0] == (
        "| row | mIoU (protocol 16) | mIoU (protocol 13) | reported, table 9 (protocol 16) "
        "| reported, table 9 (protocol 13) |"
    )
    assert lines[2] == "| nothing | 50.0 \u00b1 0.0 | 60.0 \u00b1 0.0 | 31.95 | 36.86 |"
    assert lines[3] == "| + one round | 50.0 \u00b1 0.0 | 60.0 \u00b1 0.0 | 44.84 |  |"
    assert (tmp_path / "sweep.csv").read_text().startswith("row,seed,miou\nnothing,0,0.5\n")


@pytest.mark.parametrize(
    ("name", "ablation", "setting", "values"),
    [
        ("grouping-gta5", "groups", "groups", [1, 2, 4, 8, 16]),
        ("local-alignment-gta5", "patches", "patch", [32, 64, 128, 256, 512, None]),
    ],
)
def test_a_papers_curve_is_drawn_of_its_ablation(
    name, ablation, setting, values, tmp_path, monkeypatch
):
    """Grouping's figure 6 and local alignment's 8a: `segue analyse k-sweep` and `patch-sweep`."""
    monkeypatch.setattr(sweeping, "_score", lambda *_: {"19": 0.5})
    sweep(name, [], ablation=ablation, seeds=2, work_dir=tmp_path)
    found = measure(tmp_path, setting)
    assert [one.value for one in found] == values
    assert all(one.scores == (50.0, 50.0) for one in found)


def test_without_figures_there_is_no_column(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "_score", lambda *_: {"x": 0.5})
    assert header_of(mine, "unreported", tmp_path) == "| row | mIoU (protocol x) |"
    assert (tmp_path / "sweep.md").read_text().splitlines()[-1] == "| nothing | 50.0 |"


def test_it_goes_on_where_it_was_stopped(mine, swept, tmp_path, monkeypatch):
    """Runs that are done stay as they are; what was told is told again."""
    real, count = sweeping.run, iter(range(2))

    def limited(*args, **kwargs):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "run", limited)
        with pytest.raises(KeyboardInterrupt):
            sweep(str(mine), [], ablation="parts", seeds=2, work_dir=tmp_path)
    assert not (tmp_path / "sweep.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 2
    sweep(str(mine), [], ablation="parts", seeds=2, work_dir=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in ("sweep.csv", "sweep.md"):
        assert (tmp_path / name).read_bytes() == (swept[0] / name).read_bytes()


def test_settings_are_laid_over_every_row(mine, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(sweeping, "_score", lambda recipe, *_: seen.append(recipe) or {"19": 0.1})
    settings = ["templates.train.iterations=3", "stages.first.source.size=[64, 32]"]
    sweep(str(mine), settings, ablation="parts", work_dir=tmp_path)
    assert [recipe.stages["first"].iterations for recipe in seen] == [3, 3, 3]
    assert {recipe.stages["first"].source.size for recipe in seen} == {(64, 32)}
    assert [len(recipe.stages) for recipe in seen] == [2, 4, 4]


def test_mistakes_are_told_before_the_first_run(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SegueError, match=r"unknown ablation 'part'; did you mean 'parts'\?"):
        sweep(str(mine), [], ablation="part")
    # Not every row has this stage.
    with pytest.raises(SegueError, match=r"stages\.train_1: `kind` is missing"):
        sweep(str(mine), ["stages.train_1.iterations=3"], ablation="parts")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        cli.main(["sweep", "source-only-demo", "--ablation", "parts"])
    assert capsys.readouterr().err.startswith("segue: source-only-demo: unknown ablation 'parts'")


@pytest.mark.parametrize("name", [name for name in shipped() if load(name).ablations])
def test_no_two_rows_of_a_shipped_ablation_share_a_folder(name):
    for ablation in load(name).ablations.values():
        folders = [label({"row": row}) for row in ablation.rows]
        assert len(set(folders)) == len(folders)


# The demo's length.


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_shorter_demo_keeps_the_proportions_of_its_stages(system):
    name = f"{system}-demo"
    recipe = load(name)
    whole = sum(trained(recipe).values())
    half = load(name, shortened(recipe, whole // 2))
    assert list(trained(half)) == list(trained(recipe))
    for stage, length in trained(recipe).items():
        assert abs(trained(half)[stage] - length / 2) <= 1
    assert abs(sum(trained(half).values()) - whole // 2) <= len(trained(recipe))
    assert trained(load(name, shortened(recipe, whole))) == trained(recipe)
    assert set(trained(load(name, shortened(recipe, 1))).values()) == {1}, "each runs once at least"


def test_what_trains_no_segmenter_keeps_its_length():
    recipe = load("bdl-demo")
    assert list(trained(recipe)) == ["source_only", "warm_up", "train"]
    short = load("bdl-demo", shortened(recipe, 10))
    assert short.stages["cyclegan"].iterations == recipe.stages["cyclegan"].iterations


def test_every_system_has_its_demo_at_the_length_of_source_only():
    lengths = {name: sum(trained(load(f"{name}-demo")).values()) for name in SYSTEMS}
    assert set(lengths.values()) == {sum(trained(load("source-only-demo")).values())}, lengths
    assert demonstration.DEFAULT in SYSTEMS
    for name in ("source-only", *SYSTEMS):
        short = shortened(load(f"{name}-demo"), demonstration.ITERATIONS)
        assert sum(trained(load(f"{name}-demo", short)).values()) == demonstration.ITERATIONS
    for name in SYSTEMS:
        stages = load(f"{name}-demo").stages
        assert all(s.batch_size == 4 for s in stages.values() if isinstance(s, TrainStage))
