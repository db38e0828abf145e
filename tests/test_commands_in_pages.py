"""Every command in a shell block of the documentation is executed, on tiny recipes and images.

What cannot be (it needs a cluster, a camera, a night) says so on the line before its block:
`<!-- not run: reason -->`. Its options are looked at in test_docs.py all the same.
"""

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import cv2
import pytest
import tiny
from dataset_files import random_image, save_image
from pages import (
    DOCS,
    NOT_RUN,
    PAGES,
    ROOT,
    SHELLS,
    blocks,
    commands_of,
    parsed,
    segue_arguments,
    write_recipes,
)
from typer.testing import CliRunner

from segue import recipe
from segue.analysis import layout_shift_command
from segue.cli import listing as showing  # noqa: F401
from segue.cli.commands import app

# Those that bind `recipe.load` are here so that none does while it is replaced.
from segue.recipe.files import shipped
from segue.running import run as running
from segue.running import sweep as sweeping

pytestmark = pytest.mark.slow

OWN = (DOCS / "own-data.md", DOCS / "adding-a-loss.md")  # test_docs.py runs them, data and all
SHELL_BLOCKS = {
    f"{page.name}:{block.line}": (page, block)
    for page in PAGES
    for block in blocks(page, *SHELLS)
    if page not in OWN and not block.before.startswith(NOT_RUN)
}
LOAD = recipe.load


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """(recipe) -> the folder of a tiny finished run of it, made once."""

    @cache
    def make(name):
        folder = tmp_path_factory.mktemp("finished") / name
        with pytest.MonkeyPatch.context() as usual:
            usual.setattr(recipe, "load", LOAD)
            return running.run(LOAD(name, tiny.overrides(name, data)), folder)

    return make


@pytest.fixture
def small(monkeypatch, data):
    """Recipes that commands load are tiny; sweeps have their last row; figures few iterations."""
    combined, rows_of = sweeping.combined, sweeping.rows_of
    measure = layout_shift_command.measure

    def load_small(name, overrides=(), **more):
        told = [*tiny.fewer_rounds(str(name)), *overrides]
        whole = LOAD(name, told, **more)  # what is written must be right as it is
        return LOAD(name, [*told, *tiny.shrunk(whole, data)], **more)

    for module in (recipe, sweeping, layout_shift_command):
        monkeypatch.setattr(module, "load", load_small)
    monkeypatch.setattr(sweeping, "combined", lambda *told: combined(*told)[-1:])
    monkeypatch.setattr(sweeping, "rows_of", lambda *told: rows_of(*told)[-1:])
    monkeypatch.setattr(
        layout_shift_command,
        "measure",
        lambda *maps, **told: measure(
            *maps, **told | {"iterations": 2, "every": 1, "runs": 1, "batch_size": 2}
        ),
    )


@pytest.mark.parametrize("name", SHELL_BLOCKS)
def test_commands_do_what_they_say(name, small, data, finished, tmp_path, monkeypatch):
    page, block = SHELL_BLOCKS[name]
    monkeypatch.chdir(tmp_path)
    write_recipes(page, tmp_path)
    for words in commands_of(block):
        arguments = segue_arguments(words)
        if words[:1] == ["make"]:
            subprocess.run(
                ["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True
            )
        elif words[:1] == [".venv/bin/pre-commit"]:
            subprocess.run([Path(sys.executable).with_name("pre-commit"), "--version"], check=True)
        elif arguments is not None:
            if arguments[0] not in ("run", "sweep"):  # whose work_dir is theirs to make
                _prepare(parsed(arguments), finished)
            result = CliRunner().invoke(app, _briefly(arguments))
            assert result.exit_code == 0, f"{words}: {result.output} {result.exception!r}"
        else:
            assert not words, f"{name}: {words} is not run; say why: {NOT_RUN}reason -->"


def _prepare(parameters, finished):
    """The runs and images that a command asks for."""
    images = parameters.get("images")  # to predict; of some commands their number
    for image in images if isinstance(images, list | tuple) else ():
        _write_images(Path(image))
    for key, value in parameters.items():
        for path in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(path, Path) or path.exists() or key == "output":
                continue
            if (source := _recipe_of(path)) is not None:
                shutil.copytree(finished(source), path)


def _recipe_of(path):
    """The recipe of which a page's folder is a run: its name says it, or any will do."""
    name = path.parent.name if re.fullmatch(r"seed_\d", path.name) else path.name
    known = [*shipped()]
    if path.parts[:1] != ("runs",) and not str(path).isupper():  # RUN: one of the reader's
        return None
    for one in (name, f"{name}-demo", f"{name}-gta5"):
        if one in known:
            return one
    return "local-alignment-demo"


def _write_images(path):
    if path.exists():
        return
    if path.suffix == ".mp4":
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, tiny.FILES)
        for index in range(3):
            writer.write(random_image(index, tiny.FILES))
        writer.release()
        return
    names = ["1.png", "2.png"]
    if path.parts[0] == "leftImg8bit":
        names = [f"lindau/lindau_00000{index}_000019_leftImg8bit.png" for index in range(2)]
    if path.parts[0] == "rgb_anon":
        path = Path(*("night" if part == "*" else part for part in path.parts))
        names = [f"GOPR0355/GOPR0355_frame_00000{index}_rgb_anon.png" for index in range(2)]
    files = [path] if path.suffix else [path / name for name in names]
    for index, file in enumerate(files):
        save_image(file, random_image(index, tiny.FILES))


def _briefly(arguments):
    """One seed instead of several."""
    if "--seeds" not in arguments:
        return arguments
    index = arguments.index("--seeds") + 1
    return [*arguments[:index], "1", *arguments[index + 1 :]]


def test_what_is_not_run_says_why():
    """And is not most of what there is."""
    told = [
        block
        for page in PAGES
        for block in blocks(page, *SHELLS, "python")
        if block.before.startswith(NOT_RUN)
    ]
    assert all(len(block.before) > len(NOT_RUN) + 10 for block in told)
    assert len(told) < len(SHELL_BLOCKS)
