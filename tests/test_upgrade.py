"""What the first release wrote stays readable.

`fixtures/release_1.tar.xz` holds a finished run and one that was stopped after two of four
iterations, as 0.1.0 left them; each weight was then replaced by its tensor's mean, which packs
well.
"""

import json
import tarfile
from pathlib import Path

import pytest

from segue import load
from segue.recipe import load as load_recipe
from segue.running.replay import replay
from segue.running.run import run
from segue.storage import checkpoint
from segue.storage.whole import read_rows
from segue.work_dir import evaluations

FIXTURE = Path(__file__).with_name("fixtures") / "release_1.tar.xz"


@pytest.fixture
def release_1(tmp_path, data, monkeypatch):
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "worlds").symlink_to(data.root / "worlds")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_means_what_it_meant(release_1):
    for folder in ("finished", "unfinished"):
        recipe = load_recipe(f"{folder}/recipe.yaml")
        told = json.loads(Path(folder, "train/settings.json").read_text())
        assert recipe.format == told["format"] == 1
        assert recipe.fingerprint("train") == told["fingerprint"]


def test_an_unfinished_run_goes_on(release_1):
    before = read_rows(Path("unfinished/train/metrics.jsonl"))
    path = Path("unfinished/train/checkpoints/iteration_000002.pt")
    assert checkpoint.load(path)["format"] == 1
    run(load_recipe("unfinished/recipe.yaml"), "unfinished")
    rows = read_rows(Path("unfinished/train/metrics.jsonl"))
    assert rows[:2] == before
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    newest = checkpoint.found(path.parent)[-1][1]
    assert checkpoint.load(newest)["format"] == checkpoint.FORMAT
    assert evaluations(Path("unfinished"))["evaluate"].images == 4


def test_a_finished_run_stays_finished_and_its_model_usable(release_1, data):
    path = Path("finished/train/model.safetensors")
    before = path.stat().st_mtime_ns
    run(load_recipe("finished/recipe.yaml"), "finished")
    assert path.stat().st_mtime_ns == before
    assert 0 <= evaluations(Path("finished"))["evaluate"].miou["19"] <= 1
    image = next((data.target / "leftImg8bit/val").rglob("*.png"))
    assert load("finished").predict(image).shape == (32, 64)


def test_its_weights_can_be_gone_on_from(release_1):
    base = "stages.train.networks"
    other = "finished/train/networks/discriminator.safetensors"
    given = [f"{base}.segmenter.load_from=finished", f"{base}.discriminator.load_from={other}"]
    run(load_recipe("finished/recipe.yaml", given), "anew")


def test_it_can_be_replayed(release_1):
    found = replay(Path("finished"))
    assert found.lines == 2
