"""`segue sweep --ablation`: the rows of a paper's table; and how `segue demo` shares its length."""

import csv
import io
from unittest import mock

import pytest
import tiny
from rich.console import Console

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
from segue.running.ablation import rows_of
from segue.running.sweep import label, sweep
from segue.work_dir import evaluations

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
      before: {{like: evaluate, models: [previous.train]}}
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
  read:
    where: table 8
    of: mine
    rows:
      start: {{model: first}}
      + one round: {{}}
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
    assert stages["row___one_round"] == {"first", "before_1", "labels_1", "train_1", "evaluate"}


def test_rows_that_show_another_model_are_read_from_one_run(mine, tmp_path, monkeypatch):
    """The start's score and the round's, of one training; a run of no rounds has the same."""
    real, seen = sweeping.run, []
    monkeypatch.setattr(
        sweeping, "run", lambda *args, **kw: (seen.append(args[1]), real(*args, **kw))
    )
    start, whole = sweep(str(mine), [], ablation="read", work_dir=tmp_path)
    assert seen == [tmp_path / "row___one_round" / "seed_0"]
    found = evaluations(seen[0])
    assert start.miou == [found["before_1"].miou["19"]]
    assert whole.miou == [found["evaluate"].miou["19"]]
    alone = load(str(mine), ["stages.rounds.repeat=0", "seed=0"])
    real(alone, tmp_path / "alone")
    assert start.miou == [evaluations(tmp_path / "alone")["evaluate"].miou["19"]]


def test_a_row_must_show_a_model_that_is_scored(mine, tmp_path):
    text = "base: mine.yaml\nablations: {read: {rows: {start: {model: train_2}}}}\n"
    wrong = mine.with_name("wrong.yaml")
    wrong.write_text(text)
    with pytest.raises(SegueError, match="no evaluate stage scores 'train_2' alone; add one, of"):
        sweep(str(wrong), [], ablation="read", work_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


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


@pytest.fixture
def scored(monkeypatch):
    """Nothing is run; every run has the scores that a test states. Holds the recipes."""
    seen = []
    monkeypatch.setattr(sweeping, "run", lambda recipe, *_, **__: seen.append(recipe))

    def state(**scores):
        monkeypatch.setattr(sweeping, "_score", lambda *_: scores)
        return seen

    return state


@pytest.mark.parametrize("name", ["other", "narrow"])
def test_figures_of_another_recipe_or_protocol_are_named(mine, tmp_path, name, scored):
    scored(x=0.5)
    header = header_of(mine.with_name(f"{name}.yaml"), "parts", tmp_path)
    assert header.endswith("| reported, table 9, for mine (protocol 19) |")


def test_a_paper_with_two_protocols_has_a_column_of_each(mine, tmp_path, scored):
    """As tables 1 and 3 of local alignment have: 16 and 13 classes."""
    text = "base: mine.yaml\nname: mine\nprotocols: [16, 13]\nablations: {parts: {rows: "
    text += '{nothing: {reported: {"19": null, "16": 31.95, "13": 36.86}},'
    text += ' + one round: {reported: {"19": null, "16": 44.84}}}}}\n'
    two = mine.with_name("two.yaml")
    two.write_text(text)
    scored(**{"16": 0.5, "13": 0.6, "x": 0.7})
    sweep(str(two), ["stages.rounds.repeat=1"], ablation="parts", seeds=2, work_dir=tmp_path)
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
def test_a_papers_curve_is_drawn_of_its_ablation(name, ablation, setting, values, tmp_path, scored):
    """Grouping's figure 6 and local alignment's 8a: `segue analyse k-sweep` and `patch-sweep`."""
    scored(**{"19": 0.5})
    sweep(name, [], ablation=ablation, seeds=2, work_dir=tmp_path)
    found = measure(tmp_path, setting)
    assert [one.value for one in found] == values
    assert all(one.scores == (50.0, 50.0) for one in found)


def test_without_figures_there_is_no_column(mine, tmp_path, scored):
    scored(x=0.5)
    assert header_of(mine, "unreported", tmp_path) == "| row | mIoU (protocol x) |"
    assert (tmp_path / "sweep.md").read_text().splitlines()[2] == "| nothing | 50.0 |"


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


def test_settings_reach_every_row(mine, tmp_path, scored):
    seen = scored(**{"19": 0.1})
    settings = ["templates.train.iterations=3", "stages.first.source.size=[64, 32]"]
    sweep(str(mine), settings, ablation="parts", work_dir=tmp_path)
    assert [recipe.stages["first"].iterations for recipe in seen] == [3, 3, 3]
    assert {recipe.stages["first"].source.size for recipe in seen} == {(64, 32)}
    assert [len(recipe.stages) for recipe in seen] == [2, 5, 5]


def test_a_row_lies_over_the_settings_and_what_does_nothing_is_said(mine, tmp_path, scored):
    """Not every row has every stage, and what a row is about is the row's to say."""
    seen, console = scored(**{"19": 0.1}), Console(record=True, width=200, file=io.StringIO())
    settings = ["stages.train_1.iterations=3", "stages.rounds.repeat=2"]
    sweep(str(mine), settings, ablation="parts", work_dir=tmp_path, console=console)
    assert [list(recipe.stages)[-2] for recipe in seen] == ["first", "train_2", "train_2"]
    assert [recipe.stages["train_1"].iterations for recipe in seen[1:]] == [3, 3]
    notes = [f"nothing: {text} changes nothing here" for text in settings]
    for told in (console.export_text(), (tmp_path / "sweep.md").read_text()):
        assert [line for line in told.splitlines() if "changes nothing" in line] == notes


def of_every_stage(recipes):
    """An override for each stage of recipes, of what that kind of stage has."""
    kinds = {name: stage for one in recipes for name, stage in one.stages.items()}
    found = {}
    for name, stage in kinds.items():
        key, value = ("iterations", 7) if isinstance(stage, TrainStage) else ("size", [64, 32])
        if not hasattr(stage, key):
            key, value = "source.size", [64, 32]
        found[name] = (key, value)
    return found


@pytest.mark.parametrize(
    ("name", "ablation"),
    [
        (name, one)
        for name in shipped()
        for one in load(name).ablations
        if name.endswith(("-gta5", "-demo", "-native"))
    ],
)
def test_every_ablation_takes_a_setting_of_every_stage(name, ablation):
    """Each row has it where it has the stage, or says that it does nothing there."""
    recipe = load(name)
    rows = recipe.ablations[ablation].rows.values()
    plain = [load(name, one.settings, below=one.below) for one in rows]
    every = of_every_stage(plain)
    settings = [f"stages.{stage}.{key}={value}" for stage, (key, value) in every.items()]
    for point, row in zip(rows_of(name, recipe, ablation, settings), plain, strict=True):
        found = load(name, point.settings, below=point.below)
        assert list(found.stages) == list(row.stages)
        for text, (stage, (key, value)) in zip(settings, every.items(), strict=True):
            setting = found.stages.get(stage)
            for part in key.split("."):
                setting = getattr(setting, part, None)
            same = setting == (tuple(value) if isinstance(value, list) else value)
            assert same != (text in point.without), (point.name, text)


def test_mistakes_are_told_before_the_first_run(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SegueError, match=r"unknown ablation 'part'; did you mean 'parts'\?"):
        sweep(str(mine), [], ablation="part")
    with pytest.raises(SegueError, match=r"no row has a stage 'trian_1'; did you mean 'train_1'"):
        sweep(str(mine), ["stages.trian_1.iterations=3"], ablation="parts")
    with pytest.raises(SegueError, match=r"stages\.first\.iteratoins: unknown key"):
        sweep(str(mine), ["stages.first.iteratoins=3"], ablation="parts")
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
    assert list(trained(recipe)) == ["source_only", "warm_up", "train_1", "train_2"]
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
