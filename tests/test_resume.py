"""A run that was stopped anywhere and started again leaves the bits of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from pkgutil import resolve_name

import pytest
import safetensors.torch
import tiny
import torch
from rich.console import Console

from segue import recipe
from segue.errors import SegueError
from segue.inference.model import FILE
from segue.recipe import build as assembly
from segue.running.run import run
from segue.runtime.processes import World
from segue.stages import train
from segue.storage import checkpoint
from segue.storage.whole import read_rows
from segue.training import state
from segue.training.resume import resume
from segue.training.tracker import WARNINGS, Tracker

NAME = "local-alignment-demo"
SMALL = "stages.train.networks.discriminator.widths=[8, 8, 8, 8]"
# Two checkpoints and two windows of metrics that do not end together.
SHORT = (
    SMALL,
    "stages.train.iterations=6",
    "stages.train.log_every=3",
    "stages.train.checkpoint_every=2",
)
FROM = "stages.train.networks.segmenter.load_from"
ITERATION, MODEL = "segue.training.loop.begin", "segue.stages.train.save_networks"
EVALUATION = "segue.stages.evaluate.evaluate"


@pytest.fixture(scope="module")
def uninterrupted(tiny_recipe, tmp_path_factory):
    return run(tiny_recipe(NAME, *SHORT), tmp_path_factory.mktemp("whole"))


class StoppedError(Exception):
    """Stands for whatever ends a run."""


@pytest.fixture
def stopped(monkeypatch):
    """Runs a recipe until a function is called once more than it may be."""

    def stop(tried, work_dir, where, allowed=0):
        original, count = resolve_name(where), iter(range(allowed))

        def limited(*args, **kwargs):
            if next(count, None) is None:
                raise StoppedError
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(where, limited)
            with pytest.raises(StoppedError):
                run(tried, work_dir)

    return stop


@pytest.mark.parametrize("iterations", range(6))
def test_interrupted_after_any_iteration(iterations, uninterrupted, tiny_recipe, tmp_path, stopped):
    stopped(tiny_recipe(NAME, *SHORT), tmp_path, ITERATION, iterations)
    assert [number for number, _ in checkpoint.found(tmp_path / "train/checkpoints")] == [
        number for number in (2, 4) if number <= iterations
    ]
    assert not (tmp_path / "train" / FILE).exists()
    run(tiny_recipe(NAME, *SHORT), tmp_path)
    assert_same_files(tmp_path, uninterrupted)


def test_interrupted_again(uninterrupted, tiny_recipe, tmp_path, stopped):
    stopped(tiny_recipe(NAME, *SHORT), tmp_path, ITERATION, 3)
    stopped(tiny_recipe(NAME, *SHORT), tmp_path, ITERATION, 1)
    stopped(tiny_recipe(NAME, *SHORT), tmp_path, ITERATION, 2)
    run(tiny_recipe(NAME, *SHORT), tmp_path)
    assert_same_files(tmp_path, uninterrupted)


@pytest.mark.parametrize("where", [MODEL, EVALUATION])
def test_interrupted_after_the_last_iteration(where, uninterrupted, tiny_recipe, tmp_path, stopped):
    stopped(tiny_recipe(NAME, *SHORT), tmp_path, where)
    run(tiny_recipe(NAME, *SHORT), tmp_path)
    assert_same_files(tmp_path, uninterrupted)


def test_interrupted_after_a_last_line_of_fewer_iterations(tiny_recipe, tmp_path, stopped):
    """It is written once."""
    shorter = (*SHORT, "stages.train.iterations=5")
    stopped(tiny_recipe(NAME, *shorter), tmp_path / "stopped", MODEL)
    run(tiny_recipe(NAME, *shorter), tmp_path / "stopped")
    assert_same_files(tmp_path / "stopped", run(tiny_recipe(NAME, *shorter), tmp_path / "whole"))


def test_a_line_cut_short_by_a_crash_is_written_anew(uninterrupted, tiny_recipe, tmp_path, stopped):
    stopped(tiny_recipe(NAME, *SHORT), tmp_path, MODEL)
    newest = tmp_path / "train/checkpoints/iteration_000006.pt"
    newest.rename(newest.with_name(newest.name + ".partial"))
    metrics = tmp_path / "train/metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])
    run(tiny_recipe(NAME, *SHORT), tmp_path)
    assert_same_files(tmp_path, uninterrupted)


def test_lines_lost_by_damage_are_told(tiny_recipe, tmp_path, stopped):
    stopped(tiny_recipe(NAME, *SHORT), tmp_path, MODEL)
    metrics = tmp_path / "train/metrics.jsonl"
    first, second = metrics.read_text().splitlines()
    metrics.write_text(f"{first}\n{second[:30]}\0{second[31:]}\n")
    said = Console(file=StringIO())
    run(tiny_recipe(NAME, *SHORT), tmp_path, console=said)
    told = "metrics.jsonl is damaged: its lines after iteration 3 and up to here are lost"
    assert told in " ".join(said.file.getvalue().split())
    (row,) = read_rows(tmp_path / "train" / WARNINGS)
    assert row == {"iteration": 6, "warning": told}


def test_killed_from_outside(data, tiny_recipe, tmp_path):
    """SIGKILL at whatever instruction, checkpoints being written all the time."""
    more = [SMALL, "stages.train.iterations=14", "stages.train.log_every=4"]
    often = [*tiny.overrides(NAME, data), *more, "stages.train.checkpoint_every=1"]
    code = (
        "import json, sys; from segue import recipe; from segue.running import run as running\n"
        f"running.run(recipe.load({NAME!r}, json.loads(sys.argv[1])), sys.argv[2])"
    )
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", code, json.dumps(often), str(killed)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 120
        while len(done := checkpoint.found(killed / "train/checkpoints")) < 2 or done[-1][0] < 3:
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline, "no checkpoint in two minutes"
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 3 <= checkpoint.found(killed / "train/checkpoints")[-1][0] < 14
    run(tiny_recipe(NAME, *more), killed)
    whole = run(tiny_recipe(NAME, *more), tmp_path / "whole")
    assert_same_files(killed, whole)


def assert_same_files(one: Path, other: Path) -> None:
    for name in ("train/metrics.jsonl", "train/model.safetensors", "evaluate/evaluation.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    number, path = checkpoint.found(other / "train/checkpoints")[-1]
    mine, theirs = (checkpoint.load(checkpoint.path_of(folder / "train/checkpoints", number))
                    for folder in (one, other))  # fmt: skip
    assert path.is_file()
    assert mine["networks"]["discriminator"]["optimiser"]["state"], "Adam's moments are there"
    assert_same(mine, theirs)


def assert_same(one, other, at="state") -> None:
    """Equal in type, structure and every bit."""
    assert type(one) is type(other), at
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, at
        assert torch.equal(one, other), at
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for key in one:
            assert_same(one[key], other[key], f"{at}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), at
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{at}.{index}")
    else:
        assert one == other, at


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "stages.train.networks.segmenter.optimiser.lr=0.5",
        "stages.train.terms.alignment.weight=0.5",
        "stages.train.iterations=7",
        "stages.evaluate.size=[48, 32]",
    ],
)
def test_a_work_dir_of_other_settings_is_refused(change, uninterrupted, tiny_recipe):
    before = contents(uninterrupted)
    with pytest.raises(SegueError, match="was begun with other settings; choose another work_dir"):
        run(tiny_recipe(NAME, *SHORT, change), uninterrupted)
    assert contents(uninterrupted) == before, "a refused run leaves nothing behind"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_how_often_state_is_saved_may_change(uninterrupted, tiny_recipe):
    before = (uninterrupted / "train" / FILE).stat().st_mtime_ns
    run(tiny_recipe(NAME, *SHORT, "stages.train.checkpoint_every=5"), uninterrupted)
    assert (uninterrupted / "train" / FILE).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "was made with seed 0, not 5; go on with seed 0"),
        ({"world": World(1, 2)}, "was made with processes 1, not 2; go on with processes 1"),
    ],
)
def test_a_checkpoint_that_drew_otherwise_is_refused(
    uninterrupted, tiny_recipe, tmp_path, change, message
):
    stage = tiny_recipe(NAME, *SHORT).stages["train"]
    networks = assembly.networks(tiny_recipe(NAME), "train", stage)
    other = state.Training(networks, [], 6, lambda *_: iter(()), **change)
    tracker = Tracker(tmp_path, iterations=6, every=3, world=World())
    with pytest.raises(SegueError, match=message):
        resume(other, tracker, uninterrupted / "train/checkpoints")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:1000])


def altered(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (cut_short, "cannot be read as a checkpoint"),
        (altered, "is damaged: its checksum is not that of its contents"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(
    uninterrupted, tiny_recipe, tmp_path, stopped, spoil, told
):
    stopped(tiny_recipe(NAME, *SHORT), tmp_path, MODEL)
    newest = checkpoint.found(tmp_path / "train/checkpoints")[-1][1]
    spoil(newest)
    said = Console(file=StringIO())
    run(tiny_recipe(NAME, *SHORT), tmp_path, console=said)
    text = " ".join(said.file.getvalue().split())
    assert f"{newest} {told}; going on from iteration 4" in text
    assert newest.with_name(newest.name + ".damaged").is_file()
    assert_same_files(tmp_path, uninterrupted)


class TestLoadFrom:
    """`load_from` takes the segmenter's weights and nothing else."""

    def start(self, tiny_recipe, work_dir, *more):
        """Networks of a stage before its first iteration."""
        loaded = tiny_recipe(NAME, *SHORT, *more)
        stage = loaded.stages["train"]
        networks = assembly.networks(loaded, "train", stage)
        train.load_from(networks, stage, work_dir, where="stages.train.networks")
        return networks

    def test_weights_only(self, uninterrupted, tiny_recipe, tmp_path):
        fresh = self.start(tiny_recipe, tmp_path)
        for given in (uninterrupted, uninterrupted / "train", uninterrupted / "train" / FILE):
            networks = self.start(tiny_recipe, tmp_path, f"{FROM}={given}")
            saved = safetensors.torch.load_file(uninterrupted / "train" / FILE)
            for key, value in networks["segmenter"].state_dict().items():
                if not key.endswith("num_batches_tracked"):
                    assert torch.equal(value, saved[key]), key
            for key, value in networks["discriminator"].state_dict().items():
                assert torch.equal(value, fresh["discriminator"].state_dict()[key]), key
            for network in networks.table.values():
                assert not network.optimiser.state_dict()["state"]

    def test_a_checkpoint_free_start_at_iteration_0(self, uninterrupted, tiny_recipe, tmp_path):
        given = f"{FROM}={uninterrupted / 'train' / FILE}"
        run(tiny_recipe(NAME, *SHORT, given), tmp_path)
        rows = (tmp_path / "train/metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["iteration"] for row in rows] == [3, 6]

    def test_an_earlier_stage_by_name(self, tiny_recipe, tmp_path):
        """A rate of 0 leaves what was loaded to be seen."""
        still = "{kind: sgd, lr: 0, weight_decay: 0}"
        again = (
            "stages.again={like: train, networks: {segmenter: "
            f"{{load_from: train, batch_norm: running, optimiser: {still}}}}}}}"
        )
        run(tiny_recipe(NAME, *SHORT, again), tmp_path)
        first, second = (
            safetensors.torch.load_file(tmp_path / name / FILE) for name in ("train", "again")
        )
        assert first.keys() == second.keys()
        for key, value in first.items():
            if not key.endswith("num_batches_tracked"):
                assert torch.equal(value, second[key]), key

    def test_weights_of_another_network(self, uninterrupted, tiny_recipe, tmp_path):
        given = f"{FROM}={uninterrupted / 'train' / FILE}"
        head = "stages.train.networks.segmenter.second_head=true"
        with pytest.raises(SegueError, match=r"model.safetensors: fills \d+ of .* use weights of"):
            self.start(tiny_recipe, tmp_path, given, head)
        classes = "label_space={name: two, classes: [a, b]}"
        two = recipe.load(NAME, [given, classes, "protocols=null"])
        stage = two.stages["train"]
        with pytest.raises(SegueError, match="the number of classes that the weights were made"):
            train.load_from(assembly.networks(two, "train", stage), stage, tmp_path, where="")

    def test_what_holds_no_weights(self, uninterrupted, tiny_recipe, tmp_path):
        with pytest.raises(
            SegueError,
            match=r"segmenter\.load_from: nowhere/x has no network 'segmenter'; name an earlier",
        ):
            self.start(tiny_recipe, tmp_path, f"{FROM}=nowhere/x")
        with pytest.raises(SegueError, match="holds no trained model; give a work_dir"):
            self.start(tiny_recipe, tmp_path, f"{FROM}={tmp_path}")
        run(tiny_recipe("ensemble-demo"), tmp_path / "two")
        with pytest.raises(SegueError, match="holds several models; name one of its stages"):
            self.start(
                tiny_recipe,
                tmp_path,
                f"{FROM}={tmp_path / 'two'}",
            )
        trash = tmp_path / "trash.safetensors"
        trash.write_bytes(os.urandom(64))
        with pytest.raises(SegueError, match=r"trash\.safetensors: not a safetensors file"):
            self.start(tiny_recipe, tmp_path, f"{FROM}={trash}")
