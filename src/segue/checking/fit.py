"""Whether a recipe's training fits this machine: measured, with what to change where it does not.

Every train stage that differs from those before it takes a real step in a process of its own, on
generated images, so that running out of memory ends nothing else.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from segue.checking.report import MOST_SHOWN
from segue.errors import SegueError
from segue.parts import split_kind
from segue.recipe.recipe import NetworkSettings, Recipe, TrainStage
from segue.recipe.safe_yaml import parsed

Change = dict[str, Any]  # settings by key, as on the command line

TIGHT = 0.9  # of the memory there is: the rest is for reading processes and fragments
SMALLER = (0.75, 0.5)  # of an image's sides
GIB = 2**30
OUT_OF_MEMORY = "memory ran out"
_OWN_PROCESS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Measured:
    """What one step took.

    Args:
        device: where, in words.
        available: bytes that there were.
        peak: bytes at most; None where it did not run.
        seconds: of an iteration.
        fault: why it did not run.
        notes: what was measured otherwise than it will run.
    """

    device: str = ""
    available: int = 0
    peak: int | None = None
    seconds: float | None = None
    fault: str = ""
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it ran and left a little memory."""
        return self.peak is not None and self.peak <= TIGHT * self.available


@dataclass(frozen=True)
class StageFit:
    """What a train stage takes.

    Args:
        names: of this stage and those that are like it.
        iterations: of each.
        measured: as the recipe has it.
        changes: what was tried because that does not fit.
    """

    names: tuple[str, ...]
    iterations: int
    measured: Measured
    changes: list[tuple[Change, Measured]] = field(default_factory=list)


@dataclass(frozen=True)
class Fit:
    """What training by a recipe takes on this machine."""

    recipe: str
    stages: list[StageFit]

    @property
    def problems(self) -> list[str]:
        """One line for each stage that does not fit."""
        return [str(_refused(one)) for one in self.stages if not one.measured.fits]

    def to_rich(self) -> RenderableType:
        """Tables for a rich console; `problems` holds the lines unwrapped."""
        device = next((s.measured.device for s in self.stages if s.measured.device), "no device")
        parts: list[RenderableType] = [Text(f"{self.recipe} on {device}", "bold"), _table(self)]
        for stage in self.stages:
            if stage.changes:
                parts += [Text(), Text(f"if {_named(stage)} is changed", "bold"), _tried(stage)]
        notes = [note for stage in self.stages for note in stage.measured.notes]
        notes.append("memory and time of reading files are not counted")
        parts += [Text(), *(Text(note, "dim") for note in dict.fromkeys(notes[-MOST_SHOWN:]))]
        parts += [Text(line, "red") for line in self.problems]
        fits = not self.problems
        parts.append(
            Text("it fits" if fits else "it does not fit", "bold green" if fits else "red")
        )
        return Group(*parts)


def fit(recipe: Recipe, *, console: Console | None = None) -> Fit:
    """Measures peak memory and time of an iteration of each train stage that differs.

    What would help is measured too where less than a tenth of the memory is left.

    Args:
        recipe: what is to be run; none of its data is opened.
        console: where to show progress; None keeps silent.

    Raises:
        SegueError: a step fails for another reason than memory.
    """
    found = []
    for names in alike(recipe):
        name = names[0]
        stage = recipe.stages[name]
        assert isinstance(stage, TrainStage)
        _show(console, name, {})
        measured = step_of(recipe, name)
        one = StageFit(names, stage.iterations, measured)
        if not measured.fits and measured.fault in ("", OUT_OF_MEMORY):
            single, stronger = changes(recipe, name, stage)
            _try(recipe, one, single, console)
            for change in stronger:
                if not any(tried.fits for _, tried in one.changes):
                    _try(recipe, one, [change], console)
        found.append(one)
    return Fit(recipe.name, found)


def _try(
    recipe: Recipe, stage: StageFit, changes: Iterable[Change], console: Console | None
) -> None:
    for change in changes:
        _show(console, stage.names[0], change)
        tried = step_of(changed(recipe, change), stage.names[0])
        # A network may have no blocks to compute again, a loss no use for so small an image.
        if tried.fault in ("", OUT_OF_MEMORY):
            stage.changes.append((change, tried))


def alike(recipe: Recipe) -> list[tuple[str, ...]]:
    """Train stages in groups whose steps take the same."""
    groups: dict[str, list[str]] = {}
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainStage):
            groups.setdefault(json.dumps(_decisive(recipe, stage)), []).append(name)
    return [tuple(names) for names in groups.values()]


def _decisive(recipe: Recipe, stage: TrainStage) -> dict[str, Any]:
    """All of a stage that memory and time depend on."""
    plain = stage.model_dump(
        mode="json", exclude={"checkpoint_every", "log_every", "source", "target"}
    )
    for network in plain["networks"].values():
        network.pop("load_from")
    for role in (stage.source, stage.target):
        if role is not None:
            plain[f"role {len(plain)}"] = [role.size, role.augment]
    from segue.recipe.build import pseudo_labelled

    plain["labelled"] = stage.target is not None and pseudo_labelled(recipe, stage.target.data)
    return plain


def changes(recipe: Recipe, name: str, stage: TrainStage) -> tuple[list[Change], list[Change]]:
    """What may make a stage fit: single settings, and stronger ones that take all of them."""
    at = f"stages.{name}"
    again = _checkpointing(at, stage.networks) if not recipe.compile else {}
    half = {"precision": "bfloat16"} if recipe.precision == "float32" else {}
    split: Change = {}
    if stage.batch_size > 1:
        split = {f"{at}.batch_size": 1, f"{at}.accumulate": stage.batch_size * stage.accumulate}
    single = [one for one in (split, again, half) if one]
    every = {**split, **again, **half}
    stronger = [every] if len(single) > 1 else []
    return single, stronger + [{**every, **_smaller(at, stage, share)} for share in SMALLER]


def _checkpointing(at: str, networks: Mapping[str, NetworkSettings]) -> Change:
    segmenter = networks.get("segmenter")
    if segmenter is None or segmenter.optimiser is None or segmenter.checkpointing:
        return {}
    return {f"{at}.networks.segmenter.checkpointing": True}


def _smaller(at: str, stage: TrainStage, share: float) -> Change:
    """Smaller crops where there are any, else smaller images."""
    found: Change = {}
    for role, settings in (("source", stage.source), ("target", stage.target)):
        if settings is None:
            continue
        kinds = [split_kind(part, where=at)[0] for part in settings.augment]
        if "random_crop" in kinds:
            found[f"{at}.{role}.augment"] = [
                {**part, "size": _shrunk(part["size"], share)}
                if isinstance(part, dict) and kind == "random_crop" else part
                for kind, part in zip(kinds, settings.augment, strict=True)
            ]  # fmt: skip
        else:
            found[f"{at}.{role}.size"] = _shrunk(settings.size, share)
    return found


def _shrunk(size: Sequence[int], share: float) -> list[int]:
    return [round(share * side) for side in size]


def changed(recipe: Recipe, change: Change) -> Recipe:
    """The recipe with settings laid over it."""
    plain = parsed(recipe.as_yaml(), where="recipe")
    for key, value in change.items():
        *path, last = key.split(".")
        place = plain
        for part in path:
            place = place[part]
        place[last] = value
    return Recipe.model_validate(plain)


def step_of(recipe: Recipe, name: str) -> Measured:
    """What a step of a stage takes, in a process of its own.

    Raises:
        SegueError: it ended for another reason than memory, with no line of its own.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _OWN_PROCESS}
    asked = json.dumps({"recipe": recipe.as_yaml(), "stage": name})
    done = subprocess.run(
        [sys.executable, "-m", "segue.checking.one_step"],
        input=asked, capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    told: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        told |= json.loads(line)
    place = {"device": told.get("device", ""), "available": told.get("available", 0)}
    # The system ends what takes too much; libraries that cannot go on abort.
    if told.get("ran_out") or -done.returncode in (signal.SIGKILL, signal.SIGABRT):
        return Measured(**place, fault=OUT_OF_MEMORY)
    if "error" in told:
        return Measured(**place, fault=told["error"])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SegueError(f"a step failed: {last}", where=f"stages.{name}", fix="mend it first")
    return Measured(**place, peak=told["peak"], seconds=told["seconds"], notes=tuple(told["notes"]))


def _refused(stage: StageFit) -> SegueError:
    measured, where = stage.measured, f"stages.{stage.names[0]}"
    if measured.fault and measured.fault != OUT_OF_MEMORY:
        return SegueError(measured.fault)
    what = f"a step takes {_gib(measured.peak)} of {_gib(measured.available)}"
    if measured.peak is None:
        what = f"a step takes more than the {_gib(measured.available)} that there are"
    helping = [change for change, tried in stage.changes if tried.fits]
    if not helping:
        return SegueError(what, where=where, fix="use a smaller network, or a larger machine")
    return SegueError(what, where=where, fix=f"set {shown(helping[0])}")


def shown(change: Change, between: str = " ") -> str:
    """Settings as the command line takes them.

    Example:
        >>> shown({"precision": "bfloat16", "stages.train.source.size": [960, 540]})
        'precision=bfloat16 stages.train.source.size=[960,540]'
    """
    return between.join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in change.items()
    )


def _table(fit: Fit) -> Table:
    table = _columns("stage", "peak", "of", "s/iteration", "iterations", "hours")
    for one in fit.stages:
        hours = "" if one.measured.seconds is None else _hours(one)
        table.add_row(
            Text(_named(one)), *_figures(one.measured), str(one.iterations), hours,
            style="" if one.measured.fits else "red",
        )  # fmt: skip
    return table


def _tried(stage: StageFit) -> Table:
    table = _columns("to", "peak", "of", "s/iteration", "")
    for change, tried in stage.changes:
        verdict = "fits" if tried.fits else "too much"
        table.add_row(Text(_briefly(change)), *_figures(tried), verdict)
    return table


def _columns(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(first, overflow="fold")
    for other in others:
        table.add_column(other, justify="right", no_wrap=True)
    return table


def _figures(measured: Measured) -> tuple[str, str, str]:
    if measured.peak is None or measured.seconds is None:
        why = "all" if measured.fault == OUT_OF_MEMORY else "failed"
        return why, _gib(measured.available), ""
    return _gib(measured.peak), _gib(measured.available), f"{measured.seconds:.3g}"


def _briefly(change: Change) -> str:
    """Settings without where they stand, for a narrow table."""
    place = re.compile(r"^stages\.[^.]+\.(networks\.segmenter\.)?")
    return shown({place.sub("", key): value for key, value in change.items()}, "\n")


def _named(stage: StageFit) -> str:
    more = len(stage.names) - 1
    return stage.names[0] + (f" and {more} like it" if more else "")


def _hours(stage: StageFit) -> str:
    assert stage.measured.seconds is not None
    each = stage.measured.seconds * stage.iterations / 3600
    return f"{each:.3g}" + (f" x {len(stage.names)}" if len(stage.names) > 1 else "")


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.1f} GiB"


def _show(console: Console | None, name: str, change: Change) -> None:
    if console is not None:
        told = f" with {shown(change)}" if change else ""
        console.print(f"a step of {name}{told} ...", style="dim", highlight=False, markup=False)
