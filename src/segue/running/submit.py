"""Runs as jobs of a cluster, through submitit: a job for each, asked for once, waited for."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from segue.errors import SegueError
from segue.parts import choose
from segue.recipe import plugins
from segue.recipe.files import setting
from segue.recipe.recipe import Recipe
from segue.running.run import DONE, finished, refuse_other, run
from segue.runtime.progress import Meter
from segue.runtime.signals import Stopped
from segue.storage.whole import write_json

JOB_CLASSES = {"slurm": "SlurmJob", "local": "LocalJob"}
# submitit's own are 5 minutes on SLURM and 2 on this machine, and 3 times.
USUAL = {
    "timeout_min": 24 * 60,
    "stderr_to_stdout": True,
    # Else the others wait for a process that is no more.
    "slurm_srun_args": ["--kill-on-bad-exit=1"],
}
MOST_TIMES = 100  # that a job whose time is up is queued again


@dataclass(frozen=True)
class Cluster:
    """Where jobs run and what each of them asks for.

    Args:
        kind: slurm; or local, processes of this machine that start all at once.
        asks: submitit's parameters, such as timeout_min, gpus_per_node or slurm_partition.
    """

    kind: str
    asks: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str | None, options: Sequence[str]) -> Cluster | None:
        """The cluster that a command line names, if any.

        Example:
            >>> Cluster.of("slurm", ["gpus_per_node=2", "slurm_partition=long"]).asks
            {'gpus_per_node': 2, 'slurm_partition': 'long'}

        Raises:
            SegueError: there is none of this kind, or an option will not do.
        """
        if kind is None:
            if options:
                raise SegueError("is for jobs alone", where="--job", fix="add --submit slurm")
            return None
        choose(JOB_CLASSES, kind, where="--submit", what="cluster")
        for option in options:
            if "=" not in option:
                raise SegueError(f"{option!r} is no setting", where="--job", fix="give key=value")
        return cls(kind, dict(map(setting, options)))


@dataclass(frozen=True)
class Task:
    """What a job does: it runs a recipe, or goes on with it.

    Args:
        recipe: as it was when the job was asked for.
        work_dir: where to.
        plugins: files with parts of one's own.
    """

    recipe: Recipe
    work_dir: Path
    plugins: tuple[Path, ...] = ()

    def __call__(self) -> None:
        """Runs in the job; where it has several tasks, in each of them, as one of many processes.

        Raises:
            SegueError: as `segue run` does.
            Stopped: the job was cancelled.
        """
        plugins.load(self.plugins)
        submitit = _submitit()
        if submitit.JobEnvironment().num_tasks > 1:
            # `distributed.join` chooses the GPU.
            submitit.helpers.TorchDistributedEnvironment().export(
                set_cuda_visible_devices=False, overwrite=True
            )
        follows = os.environ.get("RANK", "0") != "0"
        with _queued_again():
            run(self.recipe, self.work_dir, console=Console(width=100, quiet=follows))

    def checkpoint(self) -> Any:
        """What submitit queues again when time is up or others go first: the same, to go on."""
        return _submitit().helpers.DelayedSubmission(self)


@contextmanager
def _queued_again() -> Iterator[None]:
    """Saves before submitit, told by SIGUSR2 that time is nearly up, queues the job again.

    Its own handler would end the process where it is, and lose what came after a checkpoint.
    """
    handler = signal.getsignal(signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, lambda *_: signal.raise_signal(signal.SIGUSR1))
    try:
        yield
    except Stopped as stopped:
        if stopped.number == signal.SIGUSR1 and callable(handler):
            handler(signal.SIGUSR2, None)
        raise
    finally:
        signal.signal(signal.SIGUSR2, handler)


def run_all(
    runs: Sequence[tuple[Recipe, Path]], cluster: Cluster, folder: Path, console: Console | None
) -> None:
    """Sees to it that every run is finished, by a job for each that is not, and waits for them.

    Stopped and called again it waits for the jobs that are still queued or running on SLURM, and
    asks for none twice. Jobs on this machine end with it.

    Args:
        runs: recipes and their work_dirs.
        cluster: where.
        folder: for submitit's files, logs among them.
        console: where progress is shown.

    Raises:
        SegueError: submitit is not installed, the cluster refuses, or, when all have ended, some
            runs are not finished: its notes hold one line for each.
    """
    submitit = _submitit()
    for recipe, where in runs:
        for name in recipe.stages:
            refuse_other(where / name, recipe.fingerprint(name))
    left = {where.absolute(): recipe for recipe, where in runs if not _is_done(recipe, where)}
    notes = {where: folder / f"{where.parent.name}-{where.name}.json" for where in left}
    jobs = {
        where: job
        for where, note in notes.items()
        if (job := _noted(submitit, cluster, note, folder)) is not None
    }
    own = tuple(map(Path, plugins.loaded()))
    fresh = [Task(recipe, where, own) for where, recipe in left.items() if where not in jobs]
    if console is not None and left:
        told = f"{len(fresh)} jobs submitted, {len(jobs)} were queued or running; logs in {folder}"
        console.print(told, style="dim", highlight=False, soft_wrap=True)
    submitted = _submit(submitit, fresh, cluster, folder) if fresh else []
    for task, job in zip(fresh, submitted, strict=True):
        jobs[task.work_dir] = job
        told_of = {"cluster": cluster.kind, "job": job.job_id, "tasks": job.num_tasks}
        write_json(notes[task.work_dir], told_of)
    _wait(jobs.values(), cluster, Meter(console, folder.parent.name, len(jobs), "jobs"))
    failed = {where: _reason(jobs[where]) for where in left if not _is_done(left[where], where)}
    if failed:
        raise _summary(failed, len(runs), console)


def _submitit() -> Any:
    """The package, which is not among those that Segue always brings.

    Raises:
        SegueError: it is not installed.
    """
    try:
        return import_module("submitit")
    except ImportError as error:
        fix = "`pip install segue[cluster]`"
        raise SegueError("submitit is not installed", where="--submit", fix=fix) from error


def _is_done(recipe: Recipe, work_dir: Path) -> bool:
    stages = ((work_dir / name / DONE, recipe.fingerprint(name)) for name in recipe.stages)
    return all(finished(path, fingerprint) for path, fingerprint in stages)


def _noted(submitit: Any, cluster: Cluster, note: Path, folder: Path) -> Any | None:
    """The job that was asked for earlier, if it is still to come to an end."""
    if not note.is_file():
        return None
    told = json.loads(note.read_text())
    if told["cluster"] != cluster.kind or cluster.kind == "local":
        return None
    kind = getattr(submitit, JOB_CLASSES[cluster.kind])
    job = kind(folder=folder, job_id=told["job"], tasks=range(told["tasks"]))
    return None if job.done(force_check=True) else job


def _submit(submitit: Any, tasks: Sequence[Task], cluster: Cluster, folder: Path) -> list[Any]:
    with _told_as("--submit", "submit where SLURM is, or leave it out"):
        executor = submitit.AutoExecutor(
            folder, cluster=cluster.kind, slurm_max_num_timeout=MOST_TIMES
        )
    with _told_as("--job", "see submitit's parameters"):
        executor.update_parameters(**{"name": folder.parent.name, **USUAL, **cluster.asks})
    # In a batch they are one array of jobs.
    with _told_as("--submit", "mend it, then the same command goes on"), executor.batch():
        return [executor.submit(task) for task in tasks]


@contextmanager
def _told_as(where: str, fix: str) -> Iterator[None]:
    """Tells in one line what submitit, or sbatch through it, tells in its own way."""
    try:
        yield
    # Of every kind: NameError, AssertionError, RuntimeError, its own.
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SegueError(lines[0] if lines else repr(error), where=where, fix=fix) from error


def _wait(jobs: Iterable[Any], cluster: Cluster, meter: Meter) -> None:
    left = list(jobs)
    total = len(left)
    meter.start()
    try:
        while left:
            left = [job for job in left if not job.done()]
            meter.advance(total - len(left))
            time.sleep(1 if left else 0)
    except BaseException:
        for job in left if cluster.kind == "local" else ():
            job.cancel(check=False)
        raise
    finally:
        meter.stop()


def _reason(job: Any) -> str:
    """Why a job did not finish its run: what Segue said in it, or where its log lies."""
    tasks = [job.task(number) for number in range(job.num_tasks)]
    told = [str(error) for task in tasks if (error := task.exception()) is not None]
    said = [line for text in told for line in re.findall(r"SegueError: (.+)", text)]
    return said[0] if said else f"ended early; {tasks[0].paths.stdout} tells more"


def _summary(failed: Mapping[Path, str], total: int, console: Console | None) -> SegueError:
    first = next(iter(failed))
    summary = SegueError(
        f"{len(failed)} of {total} runs are not finished",
        where=first.parents[1],
        fix="mend what is told of them, then the same command goes on",
    )
    for where, reason in failed.items():
        line = f"{where.parent.name}/{where.name}: {reason}"
        summary.add_note(line)
        if console is not None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return summary
