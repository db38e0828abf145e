"""From the loop to its newest checkpoint and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import SegueError
from segue.runtime import memory
from segue.runtime import processes as distributed
from segue.storage import checkpoint
from segue.training.guard import refuse_poisoned
from segue.training.tracker import Tracker

if TYPE_CHECKING:
    from segue.training.state import Training


def save(training: Training, tracker: Tracker, folder: Path, done: int) -> None:
    """Writes a checkpoint, from the leading process.

    Raises:
        SegueError: a weight is not finite, processes disagree, or it cannot be written.
    """
    refuse_poisoned(training.networks, where=f"iteration {done}")
    distributed.refuse_disagreement(training.networks, training.world)
    state = {**training.state_dict(), **drawn_by(training), "tracker": tracker.state_dict()}
    if training.world.leads:
        checkpoint.save(folder, done, state)


def drawn_by(training: Training) -> dict[str, int]:
    """What decides, beside the recipe, which images an iteration sees."""
    return {"seed": training.seed, "processes": training.world.size}


def resume(training: Training, tracker: Tracker, folder: Path) -> int:
    """Restores the newest whole checkpoint and returns how many iterations are done.

    Raises:
        SegueError: all are damaged, it holds no state of this stage, or it was made with another
            seed or number of processes, which would go on with other images.
    """
    state, damaged = checkpoint.newest(folder)
    done = 0 if state is None else int(state["iteration"])
    if done > training.iterations:
        raise SegueError(
            f"goes beyond the stage's {training.iterations} iterations",
            where=checkpoint.path_of(folder, done),
            fix=f"delete {folder.parent} to start the stage anew",
        )
    for name, now in drawn_by(training).items():
        with _fits(folder, done):
            then = now if state is None else state[name]
        if then != now:
            raise SegueError(
                f"was made with {name} {then}, not {now}",
                where=checkpoint.path_of(folder, done),
                fix=f"go on with {name} {then}, or choose another work_dir",
            )
    if len(set(distributed.gather(done, training.world))) > 1:
        fix = "let all processes see the same files"
        raise SegueError("processes find other checkpoints", where=folder, fix=fix)
    for error in damaged:
        tracker.tell(f"{error.where} {error.what}; going on from iteration {done}")
        if training.world.leads:
            checkpoint.set_aside(Path(str(error.where)))
    if state is None:
        return 0
    with _fits(folder, done):
        training.load_state_dict(state)
        tracker.load_state_dict(state["tracker"])
    return done


@contextmanager
def _fits(folder: Path, done: int) -> Iterator[None]:
    """Makes one line of a state that lacks something or is of other networks.

    Settings of another stage were refused before, and damage by the seal: it was written so.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if memory.ran_out(error):
            raise
        raise SegueError(
            "holds no state of this stage",
            where=checkpoint.path_of(folder, done),
            fix=f"delete {folder.parent} to start the stage anew",
        ) from error
