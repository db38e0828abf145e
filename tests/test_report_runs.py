"""`segue report` of tiny finished runs, with and without target labels."""

import io
import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import tiny
from rich.console import Console

from segue import recipe
from segue.cli import commands as cli
from segue.cli import listing as showing
from segue.datasets import Dataset
from segue.errors import SegueError
from segue.recipe.recipe import EvaluateStage, Paper, PseudoLabelStage
from segue.report import facts, sections
from segue.report.making import Shown, report, scenes_of, scores
from segue.report.panels import at_random, chosen_panels, most_changed, worst
from segue.running import run as running
from segue.training.tracker import WARNINGS
from segue.work_dir import runs_of

FEW = Shown(panels=3)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """One without and one with rounds of pseudo-labels."""
    root = tmp_path_factory.mktemp("report")
    for name in ("source-only", "category-adaptive"):
        whole = recipe.load(f"{name}-demo", tiny.overrides(f"{name}-demo", data))
        running.run(whole, root / name)
    return [root / "source-only", root / "category-adaptive"]


@pytest.fixture(scope="module")
def unlabelled(runs, tmp_path_factory):
    """The second as if nobody had any label of the target."""
    folder = tmp_path_factory.mktemp("unlabelled") / "run"
    shutil.copytree(runs[1], folder, ignore=shutil.ignore_patterns("evaluate*"))
    stages = recipe.load(folder / "recipe.yaml").stages.items()
    measured = [name for name, stage in stages if isinstance(stage, PseudoLabelStage)]
    scored = [name for name, stage in stages if isinstance(stage, EvaluateStage)]
    removed = ["data.validation", *(f"stages.{name}" for name in scored)]
    removed += [f"stages.{name}.measure_on" for name in measured]
    whole = recipe.load(folder / "recipe.yaml", [f"{key}=null" for key in removed])
    (folder / "recipe.yaml").write_text(whole.as_yaml())
    for name in measured:
        told = json.loads((folder / name / "pseudo_labels.json").read_text())
        told.pop("measured", None)
        (folder / name / "pseudo_labels.json").write_text(json.dumps(told))
    return folder


def page_of(folder: Path, work_dirs, shown=FEW) -> str:
    report(work_dirs, folder / "report.html", shown)
    return (folder / "report.html").read_text()


def headings(text: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", text)


def captions(text: str) -> list[str]:
    panel = text[text.index("<article") : text.index("</article>")]
    return [unescape(one) for one in re.findall(r"<figcaption>(.*?)</figcaption>", panel)]


def test_two_runs_side_by_side(runs, tmp_path):
    text = page_of(tmp_path, runs)
    assert headings(text) == [
        "Pictures", "IoU per class", "Confusion", "Entropy", "Pseudo-labels", "Learning curves",
        "Warnings", "What was run",
    ]  # fmt: skip
    assert captions(text) == ["image", "ground truth", "source-only", "category-adaptive"]
    assert "3 of 4 images of validation, drawn at random with seed 0." in text
    assert len(re.findall("<article", text)) == 3
    assert len(re.findall('<table class="matrix">', text)) == 2
    assert "Training warned of nothing." in text
    assert page_of(tmp_path, runs) == text, "the same again"


def test_a_lone_run_compares_its_first_training_with_its_last(runs, tmp_path):
    assert captions(page_of(tmp_path, [runs[1]])) == [
        "image", "ground truth", "after warm_up", "after train_2"
    ]  # fmt: skip
    text = page_of(tmp_path, [runs[0]])
    assert captions(text) == ["image", "ground truth", "source-only-demo"]
    assert "share of image shown over source-only-demo" in text
    with pytest.raises(SegueError, match="needs a prediction before; give two runs, or --before"):
        page_of(tmp_path, [runs[0]], Shown(rule="most-changed"))


def test_before_is_what_one_asks_for(runs, tmp_path):
    first, second = runs
    stage = Shown(panels=1, before=second / "warm_up")
    assert captions(page_of(tmp_path, [first], stage))[2:] == [
        "category-adaptive/warm_up", "source-only-demo"
    ]  # fmt: skip
    assert captions(page_of(tmp_path, runs, Shown(panels=1, before=second)))[2:] == [
        "category-adaptive", "source-only"
    ]  # fmt: skip
    with pytest.raises(SegueError, match="is not there; give --before a work_dir"):
        page_of(tmp_path, runs, Shown(before=tmp_path / "nowhere"))


def test_without_target_labels(unlabelled, tmp_path, monkeypatch):
    """No label of the target is opened: those that are read are the rounds' own."""
    opened, read = [], Dataset.label
    monkeypatch.setattr(
        Dataset, "label", lambda self, *of: opened.append(self.name) or read(self, *of)
    )
    text = page_of(tmp_path, [unlabelled], Shown(panels=2, rule="most-changed"))
    assert set(opened) == {"pseudo_labels_1", "pseudo_labels_2"}
    assert headings(text) == [
        "Pictures", "Entropy", "Pseudo-labels", "Learning curves", "Warnings", "What was run"
    ]  # fmt: skip
    assert captions(text) == ["image", "after warm_up", "after train_2"]
    assert "no label had a say" in text
    assert "mean entropy of predictions" in text
    assert " right</span>" not in text, "precision needs labels"
    with pytest.raises(SegueError, match="`worst` needs target labels; choose random or"):
        page_of(tmp_path, [unlabelled], Shown(rule="worst"))


def test_rules_choose_what_they_say(runs):
    scenes = scenes_of(runs_of(runs), None)
    before, after = scenes.models()
    images = [scenes.dataset.image(index) for index in range(4)]
    found = [after.predict(image) for image in images]
    pairs = zip(images, found, strict=True)
    changed = [float((before.predict(image) != label).mean()) for image, label in pairs]
    chosen, told = most_changed(scenes, 2, 0, None)
    assert chosen == list(np.argsort([-c for c in changed], kind="stable")[:2])
    assert told.startswith("The 2 of 4 images of validation on which source-only and")
    right = [scenes.right(index, label) for index, label in enumerate(found)]
    chosen, told = worst(scenes, 2, 0, None)
    assert chosen == list(np.argsort(right, kind="stable")[:2])
    assert "labels chose here what is shown" in told
    assert at_random(scenes, 9, 0)[0] == [0, 1, 2, 3]
    assert len({tuple(at_random(scenes, 2, seed)[0]) for seed in range(20)}) > 3
    with pytest.raises(SegueError, match="unknown rule 'worts'"):
        chosen_panels(scenes, rule="worts", count=1, seed=0, console=None)


def test_no_panels_open_no_image(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(Dataset, "image", None)
    text = page_of(tmp_path, runs, Shown(panels=0))
    assert "<img" not in text
    assert headings(text)[0] == "IoU per class"


def test_what_was_run(runs):
    (run,) = runs_of([runs[1]])
    told = facts.facts(run)
    assert told["recipe"][0] == "category-adaptive-demo"
    assert told["first weights"] == ("warm_up: drawn at random",)
    (weights,) = told["trained weights"]
    assert weights == f"train_2/model.safetensors, {facts.sha256(runs[1] / weights.split(',')[0])}"
    trained = [run.recipe.stages[name] for name in ("warm_up", "train_1", "train_2")]
    seen = sum(one.iterations * one.batch_size * (1 + (one.target is not None)) for one in trained)
    assert told["training"][1] == f"6 iterations, {seen} images seen"
    assert told["machine"][1] == "cpu"
    assert told["most memory"][0].endswith("GiB in one process")
    assert "torch " in told["versions"][0]


def test_warnings_and_shares_kept_are_shown(runs, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(runs[1], folder)
    (folder / "train_1" / WARNINGS).write_text('{"iteration": 7, "warning": "no <bus>"}\n')
    text = page_of(tmp_path, [folder], Shown(panels=0))
    assert "train_1, iteration 7: no &lt;bus&gt;" in text
    kept = json.loads((folder / "pseudo_labels_1/pseudo_labels.json").read_text())["total"]
    assert f'<span class="number">{100 * kept["share_kept"]:.1f}</span>' in text


def test_what_a_paper_reported_stands_apart(runs):
    found = runs_of(runs)
    assert sections.protocols(found, scores(found)) is None
    paper = Paper(title="A", venue="ACCV", where="table 3", reported={"19": 46.98})
    title = "GTA5 to Cityscapes"
    changed = found[1].recipe.model_copy(update={"paper": paper, "title": title})
    object.__setattr__(found[1], "recipe", changed)
    (grid,) = sections.protocols(found, scores(found)).blocks
    assert grid.head[3:] == ("paper, mIoU %", "reported on")
    assert [row[3][0] for row in grid.rows] == ["\N{EN DASH}", "46.98"]
    assert grid.rows[1][4] == (title, "A, ACCV, table 3")
    assert grid.rows[1][2] == ("validation, 4 images",)


def test_a_papers_classes_stand_beside_ours(runs, tmp_path):
    """Of a run whose recipe has them: in the page's table, and where its scores are printed."""
    folder = tmp_path / "copy"
    shutil.copytree(runs[0], folder)
    whole = recipe.load(folder / "recipe.yaml")
    paper = recipe.load("local-alignment-gta5").paper
    (folder / "recipe.yaml").write_text(whole.model_copy(update={"paper": paper}).as_yaml())
    text = page_of(tmp_path, [runs[1], folder], Shown(panels=0))
    heads = re.findall(r'<button type="button">(.*?)</button></th>', text)
    assert [one.rpartition("/")[2] for one in heads][2:4] == ["copy", "copy"]
    assert heads[2] == f"paper, {heads[3]}"
    assert 'data-value="86.2700"' in text, "car"
    console = Console(file=io.StringIO(), width=80)
    showing.show_evaluations(folder, console)
    told = console.file.getvalue()
    (road,) = [line for line in told.splitlines() if line.startswith("road")]
    assert re.fullmatch(r"road +89\.7 +\d+\.\d *", road), told


def test_the_command(runs, tmp_path, capsys):
    words = [*map(str, runs), "-o", str(tmp_path / "new/page.html"), "--panels", "1"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", *words, "--rule", "worst"])
    assert stop.value.code == 0
    assert "page.html, 0." in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(tmp_path)])
    assert stop.value.code == 1
    assert "holds no run" in capsys.readouterr().err
