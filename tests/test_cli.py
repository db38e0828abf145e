"""The command line as people meet it: help at once, whole runs, one line for each mistake."""

import errno
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from PIL import Image

from segue.cli import commands as cli
from segue.demo import demo as demonstration
from segue.errors import SegueError
from segue.training import tracker as tracking


def segue(capsys, *words):
    """Runs a command in this process; returns its exit code, output and errors."""
    try:
        cli.main([str(word) for word in words])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture
def overrides(data):
    return tiny.overrides("local-alignment-demo", data)


def test_help_answers_without_torch():
    begun = time.monotonic()
    script = (
        "import sys; from segue.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'cv2', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for command in ("demo", "run", "sweep", "evaluate", "predict", "check", "list", "analyse"):
        assert command in ran.stdout
    # Well under a second on a quiet machine; tests run side by side on a busy one.
    assert time.monotonic() - begun < 5


def test_run_evaluate_predict_and_check(capsys, overrides, tmp_path):
    work_dir, photos = tmp_path / "run", tmp_path / "my photos"
    code, out, _ = segue(capsys, "check", "local-alignment-demo", *overrides)
    assert (code, "ready" in out) == (0, True), out
    words = ("run", "local-alignment-demo", *overrides, "--work-dir", work_dir)
    code, out, err = segue(capsys, *words)
    assert code == 0, err
    assert "mIoU (protocol 19)" in out
    written = {path.name: path.read_bytes() for path in work_dir.glob("*/*.json")}
    code, out, _ = segue(capsys, "evaluate", work_dir)
    assert (code, "mIoU (protocol 19)" in out) == (0, True)
    assert {path.name: path.read_bytes() for path in work_dir.glob("*/*.json")} == written
    photos.mkdir()
    Image.fromarray(np.full((37, 91, 3), 90, np.uint8)).save(photos / "straße 1.png")
    code, out, _ = segue(capsys, "predict", work_dir, photos, "-o", tmp_path / "out")
    assert (code, "1 image labelled" in out) == (0, True)
    with Image.open(tmp_path / "out" / "straße 1_label.png") as label:
        assert label.size == (91, 37)


def test_list_names_every_part(capsys):
    code, out, _ = segue(capsys, "list")
    assert code == 0
    for name in ("local-alignment-gta5", "adversarial", "cityscapes", "deeplab_v2"):
        assert name in out
    code, out, _ = segue(capsys, "list", "losses")
    assert "adversarial" in out
    assert "cityscapes" not in out


def test_sweep_compares_values_and_goes_on(capsys, overrides, tmp_path):
    key = "stages.train.terms.alignment.patch"
    settings = [item for item in overrides if not item.startswith(key)]
    words = ("sweep", "local-alignment-demo", f"{key}=[32,40]", "--seeds", 2)
    listed = [item.replace("=[", "=[[") + "]" if "=[" in item else item for item in settings]
    code, _, err = segue(capsys, *words, *listed, "--work-dir", tmp_path)
    assert code == 0, err
    rows = (tmp_path / "sweep.csv").read_text().splitlines()
    assert rows[0] == f"{key},seed,miou"
    assert [row.split(",")[:2] for row in rows[1:]] == [
        ["32", "0"],
        ["32", "1"],
        ["40", "0"],
        ["40", "1"],
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    assert len(before) == 4
    assert segue(capsys, *words, *listed, "--work-dir", tmp_path)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_sweep_fills_a_table_of_a_paper(capsys, overrides, tmp_path):
    settings = "[stages.train.terms.alignment{}]".format
    rows = (
        f"rows: {{nothing: {{settings: {settings('=null')}}}, "
        f"all: {{settings: {settings('.patch=32')}}}}}"
    )
    (tmp_path / "mine.yaml").write_text(
        "base: local-alignment-demo\n"
        f"ablations: {{parts: {{where: table 9, of: local-alignment-gta5, {rows}}}}}\n"
    )
    kept = [one for one in overrides if ".alignment." not in one and "discriminator" not in one]
    words = ("sweep", tmp_path / "mine.yaml", *kept, "--ablation", "parts")
    code, out, err = segue(capsys, *words, "--work-dir", tmp_path / "sweep")
    assert code == 0, err
    assert "nothing" in out
    rows = (tmp_path / "sweep/sweep.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["row", "nothing", "all"]


def test_layout_shift_writes_figure_and_numbers(capsys, overrides, tmp_path):
    roots = [item for item in overrides if item.startswith("data.")]
    sizes = ("--size", 64, 32, "--patches", "16,whole", "--iterations", 2, "--every", 1)
    words = ("analyse", "layout-shift", "source-only-demo", *roots, *sizes)
    code, out, err = segue(capsys, *words, "--runs", 1, "-o", tmp_path)
    assert code == 0, err
    assert "suggested" in out
    for ending in ("csv", "json", "png", "svg"):
        assert (tmp_path / f"layout_shift.{ending}").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "local-alignmnt-demo"), "did you mean 'local-alignment-demo'?"),
        (("run", "missing.yaml"), "no such recipe file"),
        (("run", "source-only-demo", "sed=1"), "did you mean 'seed'?"),
        (("run", "source-only-demo", "seed=minus"), "seed: 'minus' will not do"),
        (("run", "source-only-demo", "seed"), "is not key=value"),
        (("run", "source-only-demo", "data.source.root=nowhere"), "nowhere"),
        (("run", "source-only-demo", "device=tpu9"), "no such device"),
        (("evaluate", "nowhere"), "holds no run"),
        (("predict", "nowhere", "a.png", "-o", "out"), "holds no trained model"),
        (("list", "reciples"), "did you mean 'recipes'?"),
        (("demo", "--system", "coarse-to-find"), "did you mean 'coarse-to-fine'?"),
        (("sweep", "grouping-demo", "--ablation", "looses"), "did you mean 'losses'?"),
        (("sweep", "source-only-demo", "--ablation", "parts"), "unknown ablation 'parts'"),
        (("analyse", "layout-shift", "source-only-demo", "--source", "sauce"), "'sauce'"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(capsys, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    code, _, err = segue(capsys, *words)
    assert code == 1
    assert err.startswith("segue: ")
    assert len(err.strip().splitlines()) == 1, err
    assert told in err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_disk_refuses_is_one_line(capsys, overrides, tmp_path, monkeypatch, number):
    def refuse(path, row):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(tracking, "_append", refuse)
    words = ("run", "local-alignment-demo", *overrides, "--work-dir", tmp_path)
    code, _, err = segue(capsys, *words)
    assert code == 1
    assert len(err.strip().splitlines()) == 1, err
    assert "metrics.jsonl" in err
    assert os.strerror(number) in err


def test_check_lists_problems_and_fails(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = segue(capsys, "check", "source-only-demo")
    assert code == 1
    assert "problem" in out


@pytest.mark.parametrize("system", [None, "local-alignment"])
def test_the_demo_ends_in_a_table_and_a_page(capsys, tmp_path, monkeypatch, system):
    for name, count in (("SOURCE", 6), ("TARGET", 6), ("VALIDATION", 4)):
        monkeypatch.setattr(demonstration, f"{name}_IMAGES", count)
    monkeypatch.setattr(demonstration, "PANELS", 2)
    chosen = ("--system", system) if system else ()
    words = ("demo", "--work-dir", tmp_path, "--iterations", 2, *chosen)
    code, out, err = segue(capsys, *words)
    assert code == 0, err
    assert "source only" in out
    assert "difference" in out
    page = (tmp_path / "demo.html").read_text()
    assert page.count("ground truth") >= 2
    assert (system or demonstration.DEFAULT) in page
    for told in (" ".join(out.split()), " ".join(page.split())):
        assert ("gains most for its minutes" in told) is (system is None)
    assert "http://" not in page.replace("http://www.w3.org", "")
    begun = time.monotonic()
    assert segue(capsys, *words)[0] == 0
    assert time.monotonic() - begun < 30, "the second time nothing is trained"


def test_the_names_of_the_package_lead_somewhere():
    import segue

    assert segue.SegueError is SegueError
    for name in segue.__all__:
        assert callable(getattr(segue, name))
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = segue.laod
