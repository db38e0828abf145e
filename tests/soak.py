"""Ends runs of the four systems at random points and looks whether anything is lost.

`make soak` runs it for a set time; test_faults.py for a handful of faults; `--systems` takes the
other shipped recipes, too. A run is begun, hurt
once or several times by what the seed says, begun again until it is finished, and compared bit by
bit with one that nothing happened to. Children are forked, so that torch is imported once.
"""

import argparse
import errno
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tiny
import torch

from segue import predicting, recipe, work_dir
from segue.errors import SegueError
from segue.figures import figure
from segue.recipe import files as recipe_files
from segue.recipe.recipe import Recipe, TrainStage
from segue.running import run as running
from segue.runtime import signals as stopping
from segue.runtime.signals import Stopped
from segue.storage import checkpoint

SYSTEMS = ("local-alignment", "grouping", "coarse-to-fine", "category-adaptive")
DEMOS = tuple(
    sorted(name.removesuffix("-demo") for name in recipe_files.shipped() if name.endswith("-demo"))
)
# Checkpoints and windows of metrics that do not end together.
SHORT = {"iterations": 5, "checkpoint_every": 2, "log_every": 3}
# What is no two times the same, and what tells of the faults.
APART = ("timing.jsonl", "seconds.json", "environment.json", ".lock")
ERROR, BROKEN = 1, 99


@dataclass
class Reference:
    """A run that nothing happened to.

    Args:
        recipe: what was run.
        folder: its work_dir.
        calls: how many functions were called, from Python and by Python.
        written: bytes.
        seconds: how long it took.
    """

    recipe: Recipe
    folder: Path
    calls: int = 0
    written: int = 0
    seconds: float = 0.0


def main(words: Sequence[str] | None = None) -> None:
    """Prints counts; exit code 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="begin no run after so long")
    parser.add_argument("--faults", type=int, default=10**9, help="or after so many faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--systems", nargs="+", choices=DEMOS, default=SYSTEMS)
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="segue-soak-") as folder:
        lost = soak(Path(folder), given.seconds, given.faults, given.seed, given.systems)
    sys.exit(lost)


def soak(root: Path, seconds: float, faults: int, seed: int, systems: Sequence[str]) -> int:
    """Runs until the time is up, system after system."""
    begun, rng = time.monotonic(), random.Random(seed)
    figure.save = lambda *_: None  # half of a second for each picture
    data = tiny.write_data(root / "data")
    references: dict[str, Reference] = {}
    injected, recovered, lost, runs = Counter(), Counter(), Counter(), 0
    while time.monotonic() - begun < seconds and injected.total() < faults:
        system = systems[runs % len(systems)]
        if system not in references:
            references[system] = uninterrupted(system, data, root)
        happened, wrong = one_run(references[system], root, rng)
        runs += 1
        injected += happened
        (lost if wrong else recovered).update(happened)
        told = ", ".join(f"{count} x {kind}" for kind, count in happened.items()) or "nothing"
        print(f"{system}: {told}{': ' + '; '.join(wrong) if wrong else ''}", flush=True)
    for kind in sorted(injected):
        print(f"{kind}: {injected[kind]} injected, {recovered[kind]} recovered, {lost[kind]} lost")
    total = (injected.total(), recovered.total(), lost.total())
    print("{} runs, faults: {} injected, {} recovered, {} lost".format(runs, *total))
    return 1 if lost else 0


def uninterrupted(system: str, data: tiny.Data, root: Path) -> Reference:
    """Runs a system whole, in this process's image."""
    name = f"{system}-demo"
    stages = recipe.load(name, tiny.overrides(name, data)).stages
    more = [
        f"stages.{key}.{setting}={value}"
        for key, stage in stages.items()
        if isinstance(stage, TrainStage)
        for setting, value in SHORT.items()
    ]
    reference = Reference(recipe.load(name, tiny.overrides(name, data, *more)), root / system)
    count, begun = root / f"{system}.calls", time.monotonic()
    ended = child(reference.recipe, reference.folder, counting(count))
    assert ended == 0, f"{system} does not even run whole"
    reference.seconds = time.monotonic() - begun
    reference.calls = int(count.read_text())
    files = [path for path in reference.folder.rglob("*") if path.is_file()]
    reference.written = sum(path.stat().st_size for path in files)
    return reference


def one_run(reference: Reference, root: Path, rng: random.Random) -> tuple[Counter, list[str]]:
    """A run with one to three faults: what happened to it, and what is wrong in the end."""
    folder = root / "run"
    shutil.rmtree(folder, ignore_errors=True)
    happened: Counter = Counter()
    for _ in range(rng.randint(1, 3)):
        kind, ended = hurt(reference, folder, rng)
        if ended == 0:
            break
        happened[kind] += 1
        wanted = {"SIGTERM": 128 + 15, "SIGINT": 128 + 2, "disk full": ERROR, "limit": ERROR}
        if ended != wanted.get(kind, -signal.SIGKILL):
            return happened, [f"{kind} ended with {ended}"]
        if rng.random() < 0.3 and (spoilt := spoil(folder, rng)):
            happened[spoilt] += 1
    ended = child(reference.recipe, folder)
    if ended != 0:
        return happened, [f"does not go on: {ended}"]
    return happened, differences(folder, reference.folder)


def hurt(reference: Reference, folder: Path, rng: random.Random) -> tuple[str, int]:
    """Begins or continues a run and lets something happen to it; its kind, how the run ended."""
    kind = rng.choice(["SIGKILL at a call"] * 4 + ["SIGKILL", "SIGTERM", "SIGINT"] * 2
                      + ["disk full", "limit"])  # fmt: skip
    after = rng.randrange(reference.calls)
    match kind:
        case "SIGKILL at a call":
            return kind, child(reference.recipe, folder, signalled(signal.SIGKILL, after))
        case "SIGTERM" | "SIGINT":
            return kind, child(reference.recipe, folder, signalled(signal.Signals[kind], after))
        case "SIGKILL":
            late = rng.uniform(0, reference.seconds)
            return kind, child(reference.recipe, folder, kill_after=late)
        case "disk full":
            room = rng.randrange(reference.written)
            return kind, child(reference.recipe, folder, disk_full(room))
    most = rng.randrange(100, 10**6)
    return kind, child(reference.recipe, folder, limited(most))


def spoil(folder: Path, rng: random.Random) -> str:
    """Cuts the newest checkpoint of a stage short, or alters a byte, where there is one before."""
    stages = [path for path in folder.glob("*/checkpoints") if len(checkpoint.found(path)) > 1]
    stages = [path for path in stages if not (path.parent / running.DONE).exists()]
    if not stages:
        return ""
    path = checkpoint.found(stages[0])[-1][1]
    whole = bytearray(path.read_bytes())
    place = rng.randrange(len(whole))
    if rng.random() < 0.5:
        path.write_bytes(whole[:place])
        return "truncated checkpoint"
    whole[place] ^= rng.randrange(1, 256)
    path.write_bytes(whole)
    return "altered checkpoint"


def child(
    chosen: Recipe,
    folder: Path,
    prepare: Callable[[], Callable[[], None]] | None = None,
    kill_after: float | None = None,
) -> int:
    """Runs a recipe and predicts with what it leaves, in a forked process; how that ended."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os._exit(in_child(chosen, folder, prepare))
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(chosen: Recipe, folder: Path, prepare: Callable[[], Callable[[], None]] | None) -> int:
    """What a process does instead of returning."""
    finish = prepare() if prepare is not None else lambda: None
    try:
        with stopping.listening():
            return finished(chosen, folder, finish)
    except Stopped as stopped:
        return stopped.exit_code
    except SegueError as error:
        return ERROR if "\n" not in str(error) else BROKEN
    except BaseException:
        traceback.print_exc()
        return BROKEN


def finished(chosen: Recipe, folder: Path, finish: Callable[[], None]) -> int:
    """Runs a recipe to its end and predicts."""
    running.run(chosen, folder)
    images = [Path(chosen.data["validation"]["root"]) / "leftImg8bit/val"]
    predicting.predict(work_dir.load(folder), images, folder / "predictions")
    finish()
    return 0


def counting(path: Path) -> Callable[[], Callable[[], None]]:
    """Counts calls, and writes their number in the end."""

    def prepare() -> Callable[[], None]:
        calls = [0]

        def count(frame: object, event: str, argument: object) -> None:
            calls[0] += 1

        def finish() -> None:
            sys.setprofile(None)
            path.write_text(str(calls[0]))

        sys.setprofile(count)
        return finish

    return prepare


def signalled(number: int, after: int) -> Callable[[], Callable[[], None]]:
    """Sends a signal to itself at the call of that number."""

    def prepare() -> Callable[[], None]:
        left = [after]

        def count(frame: object, event: str, argument: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)

        sys.setprofile(count)
        return lambda: sys.setprofile(None)

    return prepare


def disk_full(room: int) -> Callable[[], Callable[[], None]]:
    """Lets so many bytes be written, all files together, and then none."""

    def prepare() -> Callable[[], None]:
        real, left = Path.open, [room]

        def open_(path: Path, mode: str = "r", *more: object, **kwargs: object) -> object:
            file = real(path, mode, *more, **kwargs)
            return Limited(file, left) if set("wa") & set(mode) else file

        Path.open = open_
        return lambda: None

    return prepare


class Limited:
    """A file on a disk with so little room left."""

    def __init__(self, file, left):
        self.file, self.left = file, left

    def write(self, data):
        self.left[0] -= len(data)
        if self.left[0] < 0:
            self.file.write(data[: max(0, self.left[0] + len(data))])
            self.left[0] = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def limited(most: int) -> Callable[[], Callable[[], None]]:
    """Has the kernel refuse files that become larger."""

    def prepare() -> Callable[[], None]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        return lambda: None

    return prepare


def differences(one: Path, other: Path) -> list[str]:
    """Where two work_dirs differ: names, bytes, and the values of the last checkpoints."""
    mine, theirs = (comparable(folder) for folder in (one, other))
    wrong = [f"{path} is in one alone" for path in sorted(mine ^ theirs)]
    wrong += [told(one / path, other / path) for path in mine & theirs
              if (one / path).read_bytes() != (other / path).read_bytes()]  # fmt: skip
    for place in other.glob("*/checkpoints"):
        number, last = checkpoint.found(place)[-1]
        found = one / place.relative_to(other) / last.name
        if not found.is_file() or not same(checkpoint.load(found), checkpoint.load(last)):
            wrong.append(f"{found.relative_to(one)} at {number}")
    return wrong


def told(one: Path, other: Path) -> str:
    """Which lines of two files differ, and how."""
    if one.suffix not in (".jsonl", ".json", ".yaml"):
        return str(one)
    lines = (path.read_text().splitlines() for path in (one, other))
    parts = [
        f"{number}: {set(mine.split(', ')) ^ set(theirs.split(', '))}"
        for number, (mine, theirs) in enumerate(itertools.zip_longest(*lines, fillvalue=""))
        if mine != theirs
    ]
    return f"{one.parent.name}/{one.name} line {'; '.join(parts)}"


def comparable(folder: Path) -> set[Path]:
    """Files that must be the same to the byte; of a file half written none may be left."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file()
        and path.name not in APART
        and not {"tensorboard", "checkpoints"} & set(path.relative_to(folder).parts)
    } | {path.relative_to(folder) for path in folder.rglob("*.partial")}


def same(one: object, other: object) -> bool:
    """Equal in type, structure and every bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


if __name__ == "__main__":
    main()
