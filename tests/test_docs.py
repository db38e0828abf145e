"""The documentation is run: its code, recipes, commands, links and tables.

A python block that cannot run carries `<!-- not run: reason -->` on the line before it, a YAML
block that is no whole recipe `<!-- only ...: reason -->`. A whole recipe begins with `# name.yaml`.
"""

import ast
import doctest
import importlib.util
import re
import subprocess
import sys
import tempfile
import typing
from pathlib import Path

import numpy as np
import pytest
import test_losses
import tiny
import torch
import yaml
from dataset_files import random_ids, random_image, save_image
from pages import (
    DOCS,
    PAGES,
    ROOT,
    blocks,
    commands,
    heading_slugs,
    parsed,
    segue_arguments,
    write_recipes,
)
from typer.testing import CliRunner

from segue import recipe
from segue.analysis import layout_shift, layout_shift_command  # noqa: F401
from segue.cli import listing as showing  # noqa: F401
from segue.cli.commands import app

# Those that bind `recipe.load` are here so that none does while it is replaced.
from segue.demo import worlds as procedural
from segue.errors import SegueError
from segue.losses import LOSSES
from segue.models.batch_norm import Mode
from segue.recipe import files as recipe_files
from segue.recipe import recipe as recipe_module
from segue.recipe import schema
from segue.recipe.recipe import PhaseSettings
from segue.running import run as running
from segue.stages import STAGES
from segue.storage.whole import read_rows

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
OWN_LOSS = "maximum_squares"


def module_of(path, name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def own_loss(tmp_path, monkeypatch):
    """Follows docs/adding-a-loss.md: writes its file, edits the table, and puts it in place."""
    page = DOCS / "adding-a-loss.md"
    loss, *_ = blocks(page, "python")
    (tmp_path / f"{OWN_LOSS}.py").write_text(loss.text)
    module = module_of(tmp_path / f"{OWN_LOSS}.py", f"segue.losses.{OWN_LOSS}", monkeypatch)
    table = (ROOT / "src/segue/losses/__init__.py").read_text()
    (diff,) = blocks(page, "diff")
    for hunk in diff.text.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] == " ")
        assert table.count(old) == 1, f"losses/__init__.py no longer holds {old}"
        table = table.replace(old, "".join(line[1:] for line in lines))
    (tmp_path / "table.py").write_text(table)
    edited = module_of(tmp_path / "table.py", "edited_table", monkeypatch).LOSSES
    assert {OWN_LOSS} == edited.keys() - LOSSES.keys()
    monkeypatch.setitem(LOSSES, OWN_LOSS, edited[OWN_LOSS])
    return module


def test_added_loss_is_twenty_lines_and_right(own_loss):
    (loss, *_) = blocks(DOCS / "adding-a-loss.md", "python")
    tree = ast.parse(loss.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = node.body[1:]  # without the docstring
    assert len([line for line in ast.unparse(tree).splitlines() if line]) <= 20
    assert doctest.testmod(own_loss).attempted
    assert not doctest.testmod(own_loss).failed

    def value(logits):
        step = test_losses.step_of(logits, logits, logits.shape[2:])
        return own_loss.MaximumSquares()(step).item()

    logits = test_losses.random(2, 4, 8, 8)
    p = torch.tensor(logits).softmax(1)
    pixels = p.numel() / p.shape[1]
    assert value(logits) == pytest.approx(float(-(p**2).sum() / (2 * pixels)), rel=1e-5)
    assert value(0 * logits) == pytest.approx(-1 / 8)
    assert value(1e3 * logits) == pytest.approx(-1 / 2, rel=1e-3)


def test_added_loss_passes_the_tests_that_walk_the_table(own_loss):
    test_losses.test_every_loss_tells_what_it_is(OWN_LOSS)
    test_losses.test_every_loss_works_from_its_defaults(OWN_LOSS)
    test_losses.test_every_loss_is_a_mean_over_images(OWN_LOSS)


def test_added_loss_trains(own_loss, tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (name,) = write_recipes(DOCS / "adding-a-loss.md", tmp_path)
    whole = recipe.load(name, tiny.overrides(name, data))
    running.run(whole, tmp_path / "run")
    rows = read_rows(tmp_path / "run/train/metrics.jsonl")
    assert len(rows) == tiny.ITERATIONS == 2
    assert all(-1 / 2 <= row["loss/squares"] <= -1 / (2 * 19) for row in rows)
    assert whole.stages["train"].terms["squares"].weight == 0.005


def make_small(monkeypatch, data):
    """Shipped recipes, drawn worlds and analyses that blocks ask for become tiny."""
    load, draw, measure = recipe.load, procedural.write_worlds, layout_shift.measure

    def load_small(name, overrides=()):
        load(name, overrides)  # what is written must be right as it is
        with monkeypatch.context() as usual:
            usual.setattr(recipe, "load", load)
            small = tiny.overrides(str(name), data)
        return load(name, [*overrides, *small])

    def draw_few(root, *, source, target_train, target_val, **more):
        few = {"source": 2, "target_train": 2, "target_val": 2}
        assert min(source, target_train, target_val) >= 2
        draw(root, **few, **more)

    def measure_briefly(*maps, iterations, **more):
        return measure(*maps, iterations=2, every=1, runs=1, batch_size=2, **more)

    monkeypatch.setattr(recipe, "load", load_small)
    monkeypatch.setattr(procedural, "write_worlds", draw_few)
    monkeypatch.setattr(layout_shift, "measure", measure_briefly)


def given(page):
    """What the text around a page's blocks says is there already."""
    if page.name != "layout-shift.md":
        return {}
    sets = ("source_train", "source_validation", "target_train", "target_validation")
    return {name: [random_ids(seed, (32, 16), 19)] * 2 for seed, name in enumerate(sets)}


@pytest.mark.parametrize("name", NAMES)
def test_python_blocks_run(name, tmp_path, data, monkeypatch, own_loss):
    """One after the other, in an empty folder that holds the images that they name."""
    page = ROOT / name
    wanted = [block for block in blocks(page, "python") if "<!-- not run: " not in block.before]
    if not wanted:
        pytest.skip("it has no python that is to run")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    make_small(monkeypatch, data)
    namespace = {"__name__": __name__, **given(page)}
    for block in wanted:
        for image in re.findall(r'"([^"/][^"]*\.(?:jpg|png))"', block.text):
            save_image(work / image, random_image(0, tiny.FILES))
        # Line numbers of the page in tracebacks.
        code = compile("\n" * (block.line - 1) + block.text, name, "exec")
        exec(code, namespace)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_in_pages_load(name, tmp_path, own_loss):
    page = ROOT / name
    for file in write_recipes(page, tmp_path):
        try:
            loaded = recipe.load(tmp_path / file)
        except SegueError as error:
            pytest.fail(f"{name}, {file}: {error}")
        again = recipe.load(write(tmp_path / "again.yaml", loaded.as_yaml()))
        # A paper's tables belong to its recipe, not to a run.
        assert again == loaded.model_copy(update={"ablations": {}})
    for block in blocks(page, "yaml"):
        assert block.file or block.before.startswith("<!-- only "), (
            f"{name}:{block.line}: begin it with `# name.yaml`, or say what is checked"
        )


def write(path, text):
    path.write_text(text)
    return path


def test_phases_that_are_shown_have_the_right_shape():
    (shown,) = (b for b in blocks(DOCS / "recipes.md", "yaml") if not b.file)
    phases = [PhaseSettings(**one) for one in yaml.safe_load(shown.text)["phases"]]
    assert [phase.repeat for phase in phases] == [1, 1, 4]


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name, tmp_path, monkeypatch, own_loss):
    """Their options exist and their values will do; nothing is executed."""
    page = ROOT / name
    monkeypatch.chdir(tmp_path)
    write_recipes(page, tmp_path)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(page):
        text = " ".join(words)
        if words[:1] == ["make"]:
            assert set(words[1:]) <= set(targets), text
        for word in words:
            if word.endswith(".py") and word != "squares.py":  # the page's own file
                assert (ROOT / word).is_file(), text
        arguments = segue_arguments(words)
        if arguments is None:
            continue
        try:
            parameters = parsed(arguments)
        except Exception as error:
            pytest.fail(f"{name}: `{text}`: {error!r}")
        named = parameters.get("recipe")
        # Capitals stand for a name of the reader's.
        if named and not named.isupper():
            # Of a sweep each value is a list of what is tried.
            given_to = () if arguments[0] == "sweep" else parameters["settings"] or ()
            recipe.load(named, given_to, on=parameters.get("on"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["runn", "x"], "no command runn"),
        (["run", "x", "--work", "y"], "No such option"),
        (["run"], "(?i)missing|required"),
        (["demo", "--seeds", "many"], "valid integer"),
    ],
)
def test_wrong_commands_would_be_found(arguments, told):
    with pytest.raises(Exception, match=told):
        parsed(arguments)


def own_data(root):
    """Folders as docs/own-data.md describes them."""
    raw, classes = np.array([0, 1, 4, 7, 8, 9, 10, 11], np.uint8), 7
    for index in range(4):
        image, ids = random_image(index, tiny.FILES), raw[random_ids(index, tiny.FILES, len(raw))]
        save_image(root / f"labelled/images/{index:04}.jpg", image)
        save_image(root / f"labelled/labels/{index:04}.png", ids)
        save_image(root / f"camera/day{index % 2}/{index:04}.jpg", image)
    for index in range(2):
        save_image(root / f"validation/images/{index}.jpg", random_image(index, tiny.FILES))
        save_image(root / f"validation/labels/{index}.png", random_ids(index, tiny.FILES, classes))


def test_own_data(tmp_path, monkeypatch):
    """Its commands as they stand, on generated folders, with recipes made tiny."""
    page = DOCS / "own-data.md"
    monkeypatch.chdir(tmp_path)
    own_data(Path("my-data"))
    files = write_recipes(page, tmp_path)
    small = {file: tiny.overrides(file, tiny.Data(Path("my-data"))) for file in files}
    for words in commands(page):
        arguments = segue_arguments(words)
        parameters = parsed(arguments)
        settings = parameters.get("settings") or []
        named = parameters.get("recipe")
        if parameters.get("on"):
            small[named] = tiny.overrides(named, tiny.Data(Path("my-data")), on=parameters["on"])
        for override in small.get(named, ()):
            removed = any(override.startswith(f"{one.removesuffix('=null')}.") for one in settings)
            arguments = arguments if removed else [*arguments, override]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{words}: {result.output} {result.exception!r}"
    ran = {"my", "my-alignment", "my-system", "unscored"}
    ran |= {"coarse-to-fine-my-pair", "category-adaptive-my-pair"}
    assert {path.name for path in Path("runs").iterdir()} == ran
    assert len(list(Path("predictions").rglob("*_label.png"))) == 4
    assert len(list(Path("predictions").rglob("*_colour.png"))) == 4
    assert list(recipe.load("runs/unscored/recipe.yaml").stages) == ["train"]


def test_a_run_leaves_what_the_page_says(tmp_path, tiny_recipe):
    """And nothing else."""
    running.run(tiny_recipe("local-alignment-demo"), tmp_path)
    (tree,) = blocks(DOCS / "recipes.md", "text")
    told, stage = set(), Path()
    for line in tree.text.splitlines()[1:]:
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        stage = Path() if indent == 2 else stage
        told.add(stage / name)
        if indent == 2 and name.endswith("/"):
            stage = Path(name)
    stages = [tmp_path, tmp_path / "train", tmp_path / "evaluate"]
    left = {path.relative_to(tmp_path) for folder in stages for path in folder.iterdir()}
    assert told == left


def test_every_key_of_a_recipe_is_explained():
    text = (DOCS / "recipes.md").read_text() + (DOCS / "own-data.md").read_text()
    models = [
        value
        for value in (vars(recipe_module) | vars(schema)).values()
        if hasattr(value, "model_fields")
    ]
    keys = {key for model in models for key in model.model_fields} - {"format"}
    assert {"accumulate", "clip", "repeat", "ids", "heads"} - keys == {"ids"}
    unexplained = {key for key in keys if not re.search(rf"\b{key}\b", text)}
    assert not unexplained
    parts = (DOCS / "recipes.md").read_text()
    named = re.findall(r"^\| `(\w+)` \|", parts, re.MULTILINE)
    known = [*STAGES, "batch_norm", *typing.get_args(Mode)]
    assert sorted(named) == sorted(known)


def test_methods_tables_are_what_recipes_and_docstrings_say(monkeypatch):
    tables = module_of(DOCS / "make_methods_table.py", "make_methods_table", monkeypatch)
    page = tables.PAGE.read_text()
    assert page == tables.rewritten(page), "run `.venv/bin/python docs/make_methods_table.py`"
    for name in recipe_files.shipped():
        reported = recipe.load(name).paper
        (row,) = (line for line in page.splitlines() if f"| `{name}` |" in line)
        for protocol, value in (reported.reported if reported else {}).items():
            assert f"{value} ({protocol})" in row
    for path in (path for kind in ("*.py", "*.yaml") for path in (ROOT / "src").rglob(kind)):
        for line in path.read_text().splitlines():
            told = line.strip().removeprefix("# ")
            if told.startswith("Differs:"):
                assert told.removeprefix("Differs:") in page, f"{path}: {line}"
                assert str(path.relative_to(ROOT)) in page


@pytest.mark.parametrize("name", NAMES)
def test_links_and_file_names_resolve(name):
    page = ROOT / name
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name} links to {target}"
        assert not anchor or anchor in heading_slugs(linked), f"{name} links to {target}"
    for path in re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./-]+)`", text):
        if "maximum_squares" not in path:
            assert (ROOT / path).exists(), f"{name} names {path}"


def test_contributing_is_one_screen():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 60
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert "### Results may change" in changes
    assert changes.count("\n## [") == 1


def test_no_file_names_a_place_of_this_machine():
    told = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if told.returncode:
        pytest.skip("not a git checkout")
    places = {str(ROOT), str(Path.home()), str(Path(tempfile.gettempdir()) / "brief")}
    # A checkout directly below the root tells its neighbours apart by that one name.
    places |= {str(ROOT.parent)} - {"/"}
    here = re.compile("|".join(rf"(?<![\w./-]){re.escape(one)}/\w" for one in sorted(places)))
    homes = re.compile(r"(?<![\w./-])/(?:home|Users)/\w")
    for name in filter(None, told.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file() or path.suffix in (".png", ".jpg", ".safetensors"):
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        found = here.search(text) or homes.search(text)
        assert not found, f"{name} names {found and found[0]}..."
