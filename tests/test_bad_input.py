"""Every bad input of the table gets the one line that docs/errors.md says it gets."""

import importlib.util
import shutil

import pytest
import torch
from bad_input import tried, write_project, write_run
from bad_input_table import GROUPS
from pages import DOCS

from segue.recipe import plugins

CASES = [(group, bad) for group, cases in GROUPS.items() for bad in cases]
NAMES = [f"{group}: {bad.what}" for group, bad in CASES]


@pytest.fixture(scope="module")
def maker():
    """What writes the page."""
    path = DOCS / "make_errors_table.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded(maker):
    return maker.recorded()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A good recipe with its data, and a run of it."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    write_run(folder)
    return folder


@pytest.mark.parametrize(("group", "bad"), CASES, ids=NAMES)
def test_bad_input_gets_its_line(group, bad, project, recorded, tmp_path, monkeypatch):
    if "device=cuda" in bad.command and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(plugins, "_loaded", {})
    here = tmp_path / "a" / "folder"
    shutil.copytree(project, here)
    code, out, err = tried(bad, here)
    assert err.count("\n") == 1, err
    assert err.strip() == f"segue: {recorded[group, bad.what]}"
    assert code == bad.code
    assert "Traceback" not in out
    assert not (here / "harm").exists(), "code from outside was run"
    assert {*tmp_path.rglob("*")} == {here.parent, here, *here.rglob("*")}, "written elsewhere"


def test_there_are_many_and_no_two_alike():
    assert len(CASES) >= 60
    assert len(set(NAMES)) == len(CASES)


def test_every_line_says_what_to_do(recorded):
    for place, line in recorded.items():
        assert any(mark in line for mark in ("; ", "did you mean", "There are", "use ")), place
        assert len(line) <= 450, place


def test_the_page_of_errors_is_the_table(maker, recorded):
    told = "run `.venv/bin/python docs/make_errors_table.py`"
    assert maker.PAGE.read_text() == maker.page(recorded), told
