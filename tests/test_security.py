"""Nothing let in: no code from files, nothing written outside, names that are only names."""

import csv
import io
import json
import os
import pickle
import sys
import time
import zipfile
from contextlib import contextmanager
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import bad_input
import numpy as np
import pytest
import torch
import yaml
from dataset_files import random_image, save_image
from PIL import Image
from rich.console import Console

from segue import models, predicting, recipe
from segue.cli import commands as cli
from segue.datasets import folder as folder_dataset
from segue.datasets.derived import image_paths
from segue.errors import SegueError, printable
from segue.figures import figure
from segue.figures import share_kept as kept
from segue.inference import model
from segue.models import table
from segue.models.weights import read_weights
from segue.recipe import plugins
from segue.recipe.safe_yaml import parsed
from segue.report.iou_table import Row, iou_table
from segue.report.page import Panel, write_page
from segue.running import sweep as sweeping
from segue.runtime.progress import Meter
from segue.storage import checkpoint
from segue.storage.tensors import read_sealed, write_sealed

ROOT = Path(__file__).resolve().parent.parent
NASTY = [
    "two words.png",
    "  spaces  .png",
    "två länder 漢字 😀.png",
    "two\nlines.png",
    "\x1b[31mred\x07.png",
    "[bold]markup[red] [link=x].png",
    "<img src=x onerror=alert(1)>.png",
    "-o.png",
    "{stem}%s$HOME`id`;#.png",
    "\u202efdp.png",
    "a\\b.png",
    "'\"&amp;.png",
]
MARKUP = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "a & b < c",
    "[bold]road[/]",
    "$\\frac{1}$",
    "two\nlines",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A good recipe with its data, and a run of it."""
    folder = tmp_path_factory.mktemp("project")
    bad_input.write_project(folder)
    bad_input.write_run(folder)
    return folder


def segue(folder, command):
    return bad_input.tried(bad_input.Bad("", command), folder)


# ---- no code from files


class Harm:
    """A pickle of it creates a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("read", [checkpoint.load, read_weights])
def test_pickles_are_not_opened(read, archive, tmp_path):
    harm, path = tmp_path / "harm", tmp_path / "iteration_000002.pt"
    state = {"format": 1, "iteration": 2, "state_dict": Harm(harm)}
    if archive:
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))
    with pytest.raises(SegueError):
        read(path)
    assert not harm.exists()
    if archive:
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert harm.exists(), "it would have done harm"


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch harm']",
        "!!python/object/new:subprocess.Popen [[touch, harm]]",
        "!!python/name:os.system",
        "!!python/module:os",
        '!!python/object/apply:builtins.exec [\'open("harm", "w")\']',
        "a: [&x !!python/object:__main__.Harm {}]",
        "!os.system [touch harm]",
    ],
)
def test_yaml_makes_no_objects(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SegueError, match=r"plain values|constructor"):
        parsed(text, where="recipe")
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SegueError):
        recipe.load("r.yaml")
    for override in (f"seed={text}", f"data.source.root={text}"):
        with pytest.raises(SegueError):
            recipe.load("source-only-demo", [override])
        with pytest.raises(SegueError):
            sweeping.combinations([override])
    assert not (tmp_path / "harm").exists()


def test_parts_are_named_by_tables_alone(project, monkeypatch):
    monkeypatch.chdir(project)
    for key in (
        "data.source.kind",
        "stages.train.kind",
        "stages.train.networks.segmenter.kind",
        "stages.train.networks.segmenter.optimiser.kind",
        "stages.train.networks.segmenter.schedule",
        "stages.train.terms.segmentation.kind",
        "stages.train.source.augment=[os.system]#",
    ):
        for name in ("os.system", "segue.recipe.plugins:load", "__import__", "builtins.exec"):
            with pytest.raises(SegueError, match=r"unknown|is not a YAML value|comment follows"):
                recipe.load("good.yaml", [f"{key}={name}"])


def test_a_model_file_names_no_other_file(project, tmp_path):
    """Its description is settings from outside too."""
    state, description = read_sealed(project / bad_input.MODEL)
    for weights in ("hub", str(tmp_path / "elsewhere.pth")):
        told = {**description, "network": {**description["network"], "weights": weights}}
        write_sealed(tmp_path / "model.safetensors", state, told)
        read = model.read(tmp_path / "model.safetensors")
        assert all(
            torch.equal(value, state[key]) for key, value in read.segmenter.state_dict().items()
        )


# ---- plugins

PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass
from segue.losses.cross_entropy import CrossEntropy

@dataclass(frozen=True)
class Twice(CrossEntropy):
    '''Cross-entropy, twice.'''
    def __call__(self, step):
        return 2 * super().__call__(step)

LOSSES = {"twice": Twice}
"""


@contextmanager
def put_back():
    """Puts the tables of parts, and what is imported, back as they were."""
    tables = [plugins._loaded, sys.modules]
    tables += [getattr(import_module(home), name) for name, home in plugins.TABLES.items()]
    before = [dict(table) for table in tables]
    with mock.patch.object(sys, "path", [*sys.path]):
        yield
    for one, old in zip(tables, before, strict=True):
        for key in one.keys() - old.keys():
            del one[key]


def test_own_parts_come_by_an_option_and_by_nothing_else(project, tmp_path):
    (tmp_path / "my_losses.py").write_text(PLUGIN)
    run = f"run {project}/good.yaml --work-dir out stages.train.terms.segmentation.kind=twice"
    for name in ("source", "target", "validation"):
        run += f" data.{name}.root={project}/data/{name}"
    code, _, err = segue(tmp_path, run)
    assert code == 1
    assert "unknown loss 'twice'" in err
    with put_back():
        for _ in range(2):
            code, _, err = segue(tmp_path, f"{run} --plugin my_losses.py")
            assert code == 0, err
        assert "Cross-entropy, twice." in segue(tmp_path, "list losses --plugin my_losses.py")[1]
        code, said, err = segue(tmp_path, "replay out --plugin my_losses.py")
        assert (code, err) == (0, "")
        assert "agree to the bit" in said
    told = json.loads((tmp_path / "out/environment.json").read_text())["plugins"]
    (path, digest) = next(iter(told.items()))
    assert path == str((tmp_path / "my_losses.py").resolve())
    assert len(digest) == 64
    # Who has not been given it does not get it from a run's folder.
    code, _, err = segue(tmp_path, "evaluate out")
    assert code == 1
    assert "unknown loss 'twice'" in err


def test_a_model_from_a_plugin_is_a_network_too(tmp_path):
    (tmp_path / "own_models_1.py").write_text(
        "def mine(num_classes): 'Mine.'\nMODELS = {'mine': mine}\n"
    )
    with put_back():
        plugins.load([tmp_path / "own_models_1.py"])
        assert models.MODELS["mine"] is table.NETWORKS["mine"]
        plugins.load([tmp_path / "own_models_1.py"])  # again is nothing new


def test_every_table_that_a_plugin_may_add_to_is_one():
    for name, home in plugins.TABLES.items():
        table = getattr(import_module(home), name)
        assert isinstance(table, dict), name
        assert all(callable(part) for part in table.values())


def test_help_says_that_a_plugin_is_run(capsys):
    for command in ("run", "check", "sweep", "replay", "list", "evaluate", "predict"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        told = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "--plugin" in told
        assert "its code is run" in told


# ---- nothing outside work_dir or output


@pytest.mark.parametrize(
    "name", ["../../x", "/x", "..", ".", "a/b", "a\\b", "c:x", "", "x" * 300, "a\nb"]
)
def test_names_that_become_folders_cannot_lead_out(name, project, monkeypatch):
    monkeypatch.chdir(project)
    whole = yaml.safe_load(bad_input.GOOD)
    network = {"kind": "generator", "width": 8}
    for changed in (
        {**whole, "name": name},
        {**whole, "stages": {name: whole["stages"]["train"]}},
        {**whole, "ablations": {name: {"where": "", "of": "", "rows": {"a": {}}}}},
        {**whole, "stages": {"train": {**whole["stages"]["train"], "networks": {
            **whole["stages"]["train"]["networks"], name: network}}}},
    ):  # fmt: skip
        Path("changed.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
        with pytest.raises(SegueError, match="names a folder and will not do"):
            recipe.load("changed.yaml")


def test_a_sweep_stays_in_its_folder():
    for value in ("../../x", "/etc", "..", "a\nb", "\0"):
        name = sweeping.label({"stages.train.source.data": value})
        assert Path(name).name == name
        assert name not in (".", "..")


@pytest.mark.parametrize("name", ["../../../out.png", "/out.png", "a/../../../../out.png"])
def test_names_in_a_zip_file_cannot_lead_out(name, tmp_path):
    """Translated images and pseudo-labels are called as what they are made of."""
    picture = io.BytesIO()
    Image.fromarray(random_image()).save(picture, "png")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as file:
        file.writestr("images/a.png", picture.getvalue())
        file.writestr(name, picture.getvalue())
    for root in (tmp_path, tmp_path / "data.zip"):
        with pytest.raises(SegueError, match="which leads out; pack it anew"):
            folder_dataset(root, images="**/*.png", with_labels=False)


def test_predictions_stay_in_the_output(project, tmp_path):
    """Also where a folder below the output is a link that leads out of it."""
    save_image(tmp_path / "in/deep/a.png", random_image())
    save_image(tmp_path / "in/b.png", random_image())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SegueError, match="leads out of the output"):
        predicting.plan([tmp_path / "in"], tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


# ---- links


def test_links_inside_a_dataset_are_followed_and_nothing_is_written_through_them(tmp_path):
    """As people keep data on other disks; what stages make lies in the work_dir all the same."""
    save_image(tmp_path / "disk/b.png", random_image())
    save_image(tmp_path / "data/images/a.png", random_image())
    (tmp_path / "data/images/b.png").symlink_to(tmp_path / "disk/b.png")
    (tmp_path / "data/more").symlink_to(tmp_path / "disk")
    dataset = folder_dataset(tmp_path / "data", images="images/*.png", with_labels=False)
    assert len(dataset) == 2
    assert dataset.image(1).shape == (8, 12, 3)
    made = image_paths(dataset, tmp_path / "run/translate")
    assert [path.name for path in made] == ["a.png", "b.png"]
    assert all(path.parent == tmp_path / "run/translate/images" for path in made)
    linked = folder_dataset(tmp_path / "data", images="more/*.png", with_labels=False)
    assert len(linked) == 1


def test_links_to_what_is_no_file_are_left_out_and_lost_ones_refused(tmp_path):
    save_image(tmp_path / "images/a.png", random_image())
    (tmp_path / "images/zero.png").symlink_to("/dev/zero")
    (tmp_path / "images/folder.png").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "images/pipe.png")
    assert len(folder_dataset(tmp_path, images="images/*.png", with_labels=False)) == 1
    (tmp_path / "images/round.png").symlink_to("round.png")
    (tmp_path / "images/lost.png").symlink_to("/nowhere/lost.png")
    with pytest.raises(
        SegueError, match=r"2 of 6 images are links that lead nowhere: images/lost\.png"
    ):
        folder_dataset(tmp_path, images="images/*.png", with_labels=False)


def test_a_link_to_what_is_no_image_tells_nothing_of_it(tmp_path):
    (tmp_path / "secret").write_text("password:x:0:0")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").symlink_to(tmp_path / "secret")
    dataset = folder_dataset(tmp_path, images="images/*.png", with_labels=False)
    with pytest.raises(SegueError) as told:
        dataset.image(0)
    assert "password" not in str(told.value)


# ---- names


def test_errors_are_one_line_and_steer_no_terminal():
    for name in NASTY:
        for error in (SegueError("x", where=Path(name)), SegueError(f"{name} is bad", fix=name)):
            told = str(error)
            assert told == printable(told)
            assert "\n" not in told
    assert str(SegueError("x", where="a  b.png")).startswith("a  b.png: "), "to be found again"


def with_names(folder, project):
    """The good project with images of these names."""
    for split in ("source", "target", "validation"):
        for name in ("a.png", "b.png"):
            (folder / f"data/{split}/images/{name}").unlink()
        for index, name in enumerate(NASTY):
            image = Image.fromarray(random_image(index, bad_input.SIZE))
            image.save(folder / f"data/{split}/images" / name, "png")
            if split != "target":
                label = Image.fromarray(np.full(bad_input.SIZE[::-1], index % 3, np.uint8))
                (folder / f"data/{split}/labels").mkdir(exist_ok=True)
                label.save(folder / f"data/{split}/labels" / f"{Path(name).stem}.png", "png")


def test_any_name_is_run_evaluated_and_predicted(tmp_path):
    bad_input.write_project(tmp_path)
    with_names(tmp_path, tmp_path)
    more = (
        "stages.labels={kind: pseudo_label, data: target, size: [64, 32], models: [train], "
        "rule: confidence}"
    )
    code, out, err = segue(tmp_path, f'run good.yaml --work-dir "a [/b] run" "{more}"')
    assert (code, err) == (0, "")
    assert "a [/b] run" in out, "a folder in a folder"
    lines = (tmp_path / "a [/b] run/train/metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["iteration"] for line in lines)
    made = {path.name for path in (tmp_path / "a [/b] run/labels/labels").iterdir()}
    assert made == {f"{Path(name).stem}.png" for name in NASTY}
    code, _, err = segue(tmp_path, 'report "a [/b] run" --panels 12 -o report.html')
    assert (code, err) == (0, "")
    seen = Seen((tmp_path / "report.html").read_text())
    assert "onerror" not in seen.attributes
    assert "<img src=x onerror=alert(1)>" in seen.text
    (tmp_path / "data/target/images/no\nimage [red].png").write_text("nothing")
    code, out, err = segue(tmp_path, 'predict "a [/b] run" data/target/images -o "[/c]"')
    assert code == 1
    assert err.count("\n") == 1
    assert "no\\nimage [red].png" in err
    assert "data/target/images/no\\nimage [red].png: not an image" in out
    assert len(list((tmp_path / "[/c]").iterdir())) == 2 * len(NASTY)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text(project, tmp_path, monkeypatch):
    """File systems take any bytes, and a console may take ASCII alone."""
    name = os.fsdecode(b"\xff\xfe.png")
    save_image(tmp_path / "in" / name, random_image())
    (tmp_path / "in" / os.fsdecode(b"\xff.png")).write_text("nothing")
    monkeypatch.chdir(tmp_path)
    for stream, errors in (("stdout", "strict"), ("stderr", "backslashreplace")):
        plain = io.TextIOWrapper(io.BytesIO(), "ascii", errors)
        monkeypatch.setattr(sys, stream, plain)
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(project / bad_input.DONE), "in", "-o", "out"])
    assert ended.value.code == 1
    plain.flush()
    said = plain.buffer.getvalue()
    assert b"Traceback" not in said
    assert rb"\udcff.png" in said
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_progress_shows_names_as_they_are():
    shown = Console(file=io.StringIO(), force_terminal=True, width=80)
    meter = Meter(shown, "[/b] stage", 3)
    meter.start()
    meter.say({"loss/[/x]": 1.0})
    meter.advance(1)
    meter.stop()


@pytest.mark.slow
def test_a_folder_of_100_000_files_is_listed_in_seconds(monkeypatch):
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        (folder / "images").mkdir()
        (folder / "labels").symlink_to("images")
        for number in range(100_000):
            os.close(os.open(folder / f"images/{number:06}.png", os.O_CREAT))
        looked, stat = [], os.stat
        monkeypatch.setattr(os, "stat", lambda *a, **more: looked.append("") or stat(*a, **more))
        begun = time.process_time()
        dataset = folder_dataset(folder, images="images/*.png")
        assert time.process_time() - begun < 10
        monkeypatch.undo()
    assert len(looked) < 100, "each folder is listed, no file is looked at by itself"
    assert len(dataset) == 100_000
    assert dataset.items[7].label == folder / "labels/000007.png"


# ---- what is shown


class Seen(HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_data(self, data):
        self.text += data


def page(folder, word):
    row = Row(word, {word: [0.5], "plain": [0.25]}, [0.4])
    other = Row(f"{word} 2", {word: [0.4], "plain": [0.3]}, [0.3])
    write_page(
        folder / "page.html",
        title=word,
        lead=word,
        table=iou_table([row, other], protocol=word, classes=[word, "plain"]),
        panels=[
            Panel(word, {word: np.zeros((4, 8, 3), np.uint8), "b": np.zeros((4, 8, 3), np.uint8)})
        ],
        legend=[(word, (1, 2, 3)), ("plain", (3, 2, 1))],
        facts={word: word, "path": f"/data/{word}"},
        curves={word: [(0, 1.0), (1, 0.5)]},
        curve_axes=(word, word),
        notes=[word],
    )
    return Seen((folder / "page.html").read_text())


@pytest.mark.parametrize("word", MARKUP)
def test_the_page_shows_names_as_text(word, tmp_path):
    plain, seen = page(tmp_path, "zebra"), page(tmp_path, word)
    assert seen.tags == plain.tags
    assert seen.attributes == plain.attributes
    assert seen.text.count(word) == plain.text.count("zebra") > 10


@pytest.mark.parametrize("word", MARKUP)
def test_pictures_tables_and_consoles_show_names_as_text(word, tmp_path):
    drawn = kept.draw({word: 0.5, "plain": None}, [(1, 2, 3), (3, 2, 1)], total=0.4, title=word)
    figure.save(drawn, tmp_path / "kept")
    table = iou_table([Row(word, {word: [0.5]}, [0.5])], protocol=word, classes=[word])
    shown = Console(file=io.StringIO(), width=200, markup=False)
    shown.print(table.to_rich(200))
    assert word.splitlines()[0].split()[0] in shown.file.getvalue()
    rows = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert table.to_latex().count("\\\\\n") >= 3


def test_a_class_may_be_called_anything(tmp_path, project):
    """From recipe to check, run, evaluation, sweep and their tables."""
    bad_input.write_project(tmp_path)
    text = bad_input.GOOD.replace("road", json.dumps(MARKUP[0])).replace(
        "car", json.dumps(MARKUP[5])
    )
    text = text.replace("sky", json.dumps(MARKUP[4]))
    (tmp_path / "good.yaml").write_text(text)
    code, out, err = segue(tmp_path, "check good.yaml")
    assert (code, err) == (0, ""), out
    assert "[bold]road[/]" in out
    code, out, err = segue(tmp_path, "sweep good.yaml stages.train.iterations=[1]")
    assert (code, err) == (0, "")
    told = json.loads(
        (tmp_path / "runs/sweep-good/run/seed_0/evaluate/evaluation.json").read_text()
    )
    assert told["classes"] == [MARKUP[0], MARKUP[5], MARKUP[4]]
    code, _, err = segue(tmp_path, "report runs/sweep-good/run/seed_0 -o report.html")
    assert (code, err) == (0, "")
    seen = Seen((tmp_path / "report.html").read_text())
    assert not {"onerror", "onload"} & set(seen.attributes)
    assert all(word in seen.text for word in told["classes"])


def test_a_sweep_writes_tables_whose_cells_stay_cells(tmp_path):
    point = sweeping.Point({"a": 'x | y\n"z"'}, [], miou=[0.5])
    sweeping._write([point], tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == ['x | y\n"z"', "0", "0.5"]
    lines = sweeping._markdown(sweeping._table([point], "3", {})).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith('| x \\| y "z" |')


# ---- dependencies


def test_dependencies_are_pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith(("#", " ", "-"))]
    assert len(pins) > 30
    assert all("==" in line for line in pins)
    assert "://" not in "".join(lines), "no registry address"
