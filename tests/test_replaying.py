"""`segue replay` tells whether a run's first iterations come out the same again."""

import json
import shutil

import pytest

from segue.cli import commands as cli
from segue.errors import SegueError
from segue.running.replay import replay
from segue.running.run import run
from segue.storage import checkpoint

NAME = "grouping-demo"
SETTINGS = (
    "stages.warm_up.iterations=4",
    "stages.warm_up.checkpoint_every=2",
    "stages.train_1.iterations=3",
)


@pytest.fixture(scope="module")
def whole(tiny_recipe, tmp_path_factory):
    return run(tiny_recipe(NAME, *SETTINGS), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copied(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_agrees_and_leaves_the_run_alone(whole):
    before = contents(whole)
    found = replay(whole)
    assert str(found) == (
        "warm_up, the first 2 iterations: metrics and weights agree to the bit (2 lines)"
    )
    assert not found.differences
    assert contents(whole) == before


def test_a_later_stage_and_more_of_it(whole):
    found = replay(whole, stage="train_1", iterations=100)
    assert (found.stage, found.iterations, found.lines) == ("train_1", 3, 3)
    assert found.weights
    assert not found.differences


def test_what_differs_is_told(copied, capsys):
    path = copied / "warm_up/metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    right = rows[1]["loss/segmentation"]
    rows[1]["loss/segmentation"] += 1e-6
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = json.loads((copied / "environment.json").read_text())
    told["versions"]["torch"] = "1.0"
    (copied / "environment.json").write_text(json.dumps(told))
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", str(copied)])
    assert ended.value.code == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "metrics and weights differ; iteration 2: loss/segmentation was " in said
    assert f"and is {right!r}; then and now: torch 1.0 and " in said


def test_other_weights_are_told(copied):
    path = checkpoint.path_of(copied / "warm_up/checkpoints", 2)
    state = checkpoint.load(path)
    weight = next(iter(state["networks"]["segmenter"]["module"].values()))
    weight += 1e-3
    checkpoint.save(path.parent, 2, {k: v for k, v in state.items() if k != "format"}, keep=9)
    (first, *_) = replay(copied).differences
    assert first.startswith("weights of segmenter.")


def test_what_cannot_be_replayed_is_told(copied, tmp_path):
    with pytest.raises(SegueError, match="holds no run"):
        replay(tmp_path)
    with pytest.raises(
        SegueError, match="unknown train stage 'evaluate'; There are: train_1, warm_up"
    ):
        replay(copied, stage="evaluate")
    told = json.loads((copied / "environment.json").read_text())
    (copied / "environment.json").write_text(json.dumps({**told, "processes": 2}))
    with pytest.raises(SegueError, match="was run by 2 processes, and this is 1; torchrun --nproc"):
        replay(copied)
    (copied / "warm_up/metrics.jsonl").unlink()
    with pytest.raises(SegueError, match="has no line of metrics to compare"):
        replay(copied)
