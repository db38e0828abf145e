"""Sweeps as jobs: submitit itself on this machine, and with a SLURM that only pretends."""

import csv
import io
import json
import os
import signal
import sys

import pytest
import tiny
import torch
from rich.console import Console

from segue.cli import commands as cli
from segue.errors import SegueError
from segue.recipe import load
from segue.running import run as running
from segue.running import submit as submitting
from segue.running.run import DONE
from segue.running.submit import Cluster, Task, run_all
from segue.runtime.signals import Stopped
from segue.storage.whole import write_json

NAME = "source-only-demo"
SBATCH = """#!/bin/sh
echo x >> "{folder}/submitted"
cp "$1" "{folder}/job.sh"
echo "Submitted batch job $(wc -l < "{folder}/submitted")"
"""
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
for job in 1 2 3; do for run in 0 1; do echo "${{job}}_$run|$(cat "{folder}/state")|one"; done; done
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder of a SLURM whose jobs are in the `state` that a file there says."""
    pytest.importorskip("submitit", reason="segue[cluster] is not installed")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "sacct": SACCT, "srun": "#!/bin/sh\n"}.items():
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(0o755)
    (folder / "state").write_text("RUNNING")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


@pytest.fixture
def runs(data, tmp_path):
    settings = tiny.overrides(NAME, data)
    return [
        (load(NAME, [*settings, f"seed={seed}"]), tmp_path / f"sweep/run/seed_{seed}")
        for seed in (0, 1)
    ]


def jobs_of(slurm):
    submitted = slurm / "submitted"
    return len(submitted.read_text().split()) if submitted.exists() else 0


def go(runs, tmp_path, console=None):
    asked = Cluster.of("slurm", ["timeout_min=600", "gpus_per_node=2", "slurm_partition=long"])
    run_all(runs, asked, tmp_path / "sweep/jobs", console)


def test_jobs_are_asked_for_once_and_waited_for(slurm, runs, tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(submitting.time, "sleep", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            go(runs, tmp_path)
        assert jobs_of(slurm) == 1, "one array of two; the second time they are running"
    script = (slurm / "job.sh").read_text()
    wanted = ("array=0-1", "time=600", "gpus-per-node=2", "partition=long", "signal=USR2@90")
    assert all(f"#SBATCH --{one}" in script for one in wanted), script
    assert "--kill-on-bad-exit=1" in script
    notes = [tmp_path / f"sweep/jobs/run-seed_{seed}.json" for seed in (0, 1)]
    assert [json.loads(note.read_text())["job"] for note in notes] == ["1_0", "1_1"]


def test_jobs_that_ended_early_are_told_and_asked_for_again(slurm, runs, tmp_path, monkeypatch):
    from submitit import SlurmJob

    monkeypatch.setattr(SlurmJob, "_results_timeout_s", 0)
    (slurm / "state").write_text("FAILED")
    shown = io.StringIO()
    for times in (1, 2):
        with pytest.raises(SegueError, match="sweep: 2 of 2 runs are not finished") as caught:
            go(runs, tmp_path, Console(file=shown, width=100))
        assert jobs_of(slurm) == times
        first, second = caught.value.__notes__
        assert first.startswith("run/seed_0: ended early; ")
        assert str(tmp_path / f"sweep/jobs/{times}_0") in first
        assert second.startswith("run/seed_1: ")
    assert "2 jobs submitted, 0 were queued or running" in shown.getvalue()
    # What is finished needs no job.
    for recipe, where in runs:
        for name in recipe.stages:
            write_json(where / name / DONE, {"fingerprint": recipe.fingerprint(name)})
    go(runs, tmp_path)
    assert jobs_of(slurm) == 2


def test_a_work_dir_of_other_settings_is_told_before_any_job(slurm, runs, tmp_path):
    _, where = runs[1]
    write_json(where / "train" / running.SETTINGS, {"fingerprint": "another"})
    with pytest.raises(SegueError, match="was begun with other settings"):
        go(runs, tmp_path)
    assert jobs_of(slurm) == 0


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("slurn", [], r"--submit: unknown cluster 'slurn'; did you mean 'slurm'\?"),
        ("slurm", ["timeout_min"], "--job: 'timeout_min' is no setting; give key=value"),
        (None, ["timeout_min=1"], "--job: is for jobs alone; add --submit slurm"),
    ],
)
def test_mistakes_in_what_is_asked(kind, options, told):
    with pytest.raises(SegueError, match=told):
        Cluster.of(kind, options)


@pytest.mark.parametrize("option", ["time=60", "slurm_prtition=long", "timeout_min=soon"])
def test_what_submitit_does_not_know_is_one_line(slurm, runs, tmp_path, option):
    key = option.partition("=")[0].removeprefix("slurm_")
    with pytest.raises(SegueError, match=f"--job: .*{key}.*; see submitit's parameters"):
        run_all(runs, Cluster.of("slurm", [option]), tmp_path / "jobs", None)


def test_no_slurm_and_no_submitit(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SystemExit):
        cli.main(["sweep", NAME, "--work-dir", str(tmp_path / "s"), "--submit", "slurm"])
    told = capsys.readouterr().err
    assert told == "segue: --submit: submitit is not installed; `pip install segue[cluster]`\n"
    monkeypatch.undo()
    pytest.importorskip("submitit", reason="segue[cluster] is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SegueError, match='--submit: Could not detect "srun"'):
        go(runs, tmp_path)


@pytest.mark.parametrize("asked", [signal.SIGUSR2, signal.SIGTERM])
def test_time_that_is_nearly_up_saves_and_then_queues_again(runs, monkeypatch, asked):
    """A cancelled job, which gets SIGTERM, does not come back."""
    submitit = pytest.importorskip("submitit", reason="segue[cluster] is not installed")
    monkeypatch.setattr(submitit.JobEnvironment, "__new__", lambda cls: Alone())
    done = []

    def until_told(*_, **__):
        from segue.runtime import signals as stopping

        with stopping.listening():
            signal.raise_signal(asked)
            done.append("went on")

    monkeypatch.setattr(submitting, "run", until_told)
    before = signal.signal(signal.SIGUSR2, lambda *_: done.append("queued again"))
    try:
        with pytest.raises(Stopped):
            Task(*runs[0])()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert done == (["queued again"] if asked == signal.SIGUSR2 else [])


class Alone:
    """The environment of a job with one task."""

    num_tasks = 1


class Failed:
    """A job of which the second process told what is wrong, and the first was ended for it."""

    num_tasks = 2

    def __init__(self, number=None):
        self.number = number

    def task(self, number):
        return Failed(number)

    def exception(self):
        told = "Traceback:\n  ...\nsegue.errors.SegueError: a.png: not an image; remove it\n---"
        return RuntimeError(told if self.number == 1 else "has not produced any output")


def test_what_segue_said_in_a_job_is_told():
    assert submitting._reason(Failed()) == "a.png: not an image; remove it"


@pytest.mark.slow
def test_a_sweep_on_this_machine(runs, tmp_path, capfd):
    """Through submitit and back, a job of two processes."""
    pytest.importorskip("submitit", reason="segue[cluster] is not installed")
    (tmp_path / "mine.yaml").write_text(runs[0][0].as_yaml())
    words = ["sweep", str(tmp_path / "mine.yaml"), "stages.train.batch_size=1"]
    words += ["--work-dir", str(tmp_path / "swept"), "--submit", "local"]
    for told in ("1 jobs submitted", ""):
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--job", "tasks_per_node=2"])
        said = capfd.readouterr()
        assert not ended.value.code, said
        assert told in said.out
    assert "jobs submitted" not in said.out, "all is done"
    with (tmp_path / "swept/sweep.csv").open() as file:
        assert len(list(csv.reader(file))) == 2
    checkpoint = next((tmp_path / "swept").rglob("iteration_*.pt"))
    assert torch.load(checkpoint, weights_only=True)["processes"] == 2
