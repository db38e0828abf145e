"""An error ends the process, whatever it was doing, and leaves no reading process behind."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest
import tiny

from segue import recipe
from segue.datasets.loading import Role, batches
from segue.errors import SegueError
from segue.recipe import build
from segue.running.run import run

# What fails, in the middle of which recipe, and what of the recipe is run before it.
FAILURES = {
    "a number that is none": (
        "source-only-demo", None, ["stages.train.networks.segmenter.optimiser.lr=1e30"],
    ),
    "training": ("source-only-demo", "segue.training.loop.backward", []),
    "an update": ("source-only-demo", "segue.training.networks.Network.update", []),
    "a checkpoint": ("source-only-demo", "segue.training.loop.save", []),
    "centres": ("coarse-to-fine-demo", "segue.stages.centres.by_class", []),
    "groups": (
        "source-only-demo",
        "segue.stages.groups.Step",
        [
            "stages.evaluate=null",
            "stages.groups={kind: groups, model: train, source: {data: source, size: [96, 48]}, "
            "target: {data: target, size: [96, 48]}}",
        ],
    ),
}  # fmt: skip


class FaultError(Exception):
    """Of a kind that nobody handles."""


@pytest.mark.parametrize("what", FAILURES)
def test_no_reading_process_is_left(what, data, monkeypatch, tmp_path):
    name, where, more = FAILURES[what]

    def fail(*_, **__):
        raise FaultError

    if where:
        monkeypatch.setattr(where, fail)
    whole = recipe.load(name, [*tiny.overrides(name, data, *more), "workers=2"])
    with pytest.raises(SegueError if where is None else FaultError) as kept:
        run(whole, tmp_path)
    # The exception still refers to every frame, and so to every generator that was in use.
    assert kept.value.__traceback__ is not None
    assert not reading()


def reading():
    """Processes of this one, without the servers that start them."""
    return multiprocessing.active_children()


def test_a_script_that_forgets_to_close_ends(data, tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from segue.recipe import build, load\n"
        "from segue.datasets.loading import batches\n"
        "whole = load('source-only-demo', sys.argv[1:])\n"
        "roles = build.readings(whole, whole.stages['train'], Path())\n"
        "draws = batches(roles, batch_size=1, seed=0, start=0, stop=100, workers=2)\n"
        "next(draws)\n"
        "raise KeyError('forgotten')\n"
    )
    more = tiny.overrides("source-only-demo", data)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *more], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("KeyError: 'forgotten'")
    assert time.monotonic() - started < 100


def test_the_command_ends_with_its_line(data, tmp_path):
    """The whole command, as a cluster's job runs it; nothing of its group is left."""
    more = [
        *tiny.overrides("source-only-demo", data),
        *("workers=2", "stages.train.networks.segmenter.optimiser.lr=1e30"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "segue", "run", "source-only-demo", *more, "--work-dir", tmp_path],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert errors.startswith("segue: iteration ")
    deadline = time.monotonic() + 10
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.1)


def test_drawing_is_closed_by_leaving(data, tmp_path):
    whole = recipe.load("source-only-demo", tiny.overrides("source-only-demo", data))
    stage = whole.stages["train"]
    role = build.reading(whole, stage.source, labels=True, work_dir=tmp_path)
    assert isinstance(role, Role)
    draws = batches({"source": role}, batch_size=1, seed=0, start=0, stop=100, workers=1)
    next(draws)
    assert reading()
    draws.close()
    assert not reading()
