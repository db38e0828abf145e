"""From how large a patch of a label map on can one tell which domain it is from?"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.analysis.label_patches import LabelMap, LabelPatches
from segue.analysis.patch_curves import THRESHOLD, Curve, by_size, draw, suggest
from segue.errors import SegueError
from segue.figures.figure import save as save_figure
from segue.storage.whole import write_whole

__all__ = ["Curve", "LayoutShift", "Settings", "measure", "save", "suggest"]

Patch = int | Literal["whole"]
Progress = Callable[[int, int, str], None]
_Pair = tuple[Sequence[LabelMap], Sequence[LabelMap]]

WHERE = "layout-shift"
FEW_MAPS = 100  # at an error of 20 %, 100 + 100 crops leave a standard error of 3 %


@dataclass(frozen=True)
class Settings:
    """What a measurement was made with; `measure` says what each setting means."""

    num_classes: int
    patches: tuple[Patch, ...]
    size: tuple[int, int]
    iterations: int
    every: int
    batch_size: int
    runs: int
    lr: float
    momentum: float
    weight_decay: float
    mask_void: bool
    seed: int
    device: str

    def __post_init__(self) -> None:
        counts = {
            "num_classes": self.num_classes,
            "size": min(self.size),
            "iterations": self.iterations,
            "every": self.every,
            "runs": self.runs,
        }
        for name, value in counts.items():
            if value < 1:
                raise SegueError(f"{name} is below 1", where=WHERE, fix="give a positive number")
        if self.batch_size < 2 or self.batch_size % 2:
            raise SegueError(
                f"batch_size {self.batch_size} cannot be halved between the domains",
                where=WHERE,
                fix="give an even number",
            )
        if self.seed < 0:
            raise SegueError(f"seed {self.seed} is negative", where=WHERE, fix="give 0 or more")
        for patch in self.patches:
            if patch != "whole" and (not isinstance(patch, int) or patch < 1):
                raise SegueError(
                    f"patch {patch!r} is no size", where=WHERE, fix='give pixels or "whole"'
                )

    def due(self, iteration: int) -> bool:
        """Whether the error is measured after this iteration, as it is after the last."""
        return iteration % self.every == 0 or iteration == self.iterations

    def cut(self, patch: Patch) -> LabelPatches:
        """What cuts patches of that size."""
        extent = (self.size[1], self.size[0]) if patch == "whole" else (patch, patch)
        return LabelPatches(self.num_classes, self.size, extent, self.mask_void)


@dataclass(frozen=True)
class LayoutShift:
    """The curves from the smallest patch to the whole map, and the patch size they suggest.

    Args:
        curves: one for each patch size.
        suggested: the largest patch whose final error is above `THRESHOLD`; the smallest where
            there is none, which `notes` then says.
        settings: what it was measured with.
        maps: how many label maps each of the four sets has.
        notes: what the reader of the curves must know, one sentence each.
    """

    curves: tuple[Curve, ...]
    suggested: Curve
    settings: Settings
    maps: Mapping[str, int]
    notes: tuple[str, ...]


def measure(
    source_train: Sequence[LabelMap],
    source_validation: Sequence[LabelMap],
    target_train: Sequence[LabelMap],
    target_validation: Sequence[LabelMap],
    *,
    num_classes: int,
    patches: Sequence[Patch] = (32, 64, 128, 256, 512, "whole"),
    size: tuple[int, int] = (1024, 512),
    iterations: int = 3000,
    every: int = 100,
    batch_size: int = 16,
    runs: int = 3,
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    mask_void: bool = True,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> LayoutShift:
    """Measures how well a ResNet-18 guesses the domain from patches of label maps.

    Cicek et al., "Spatial Class Distribution Shift in Unsupervised Domain Adaptation", ACCV 2020,
    figure 1 and section 4.1. Maps are resized to `size`, cropped at random, and the crop is resized
    to `size` again, nearest. Half of each batch is of each domain; each validation map gives one
    crop, the same in every run; the error is the mean of the two domains' errors.

    Differs: with `mask_void`, each crop also ignores what is void at the same place in a random map
    of the other domain, for void shapes (bonnet, frame) betray a domain; the paper keeps them.

    Args:
        source_train: [H, W] uint8 train ids, 255 is ignored; sizes may vary. Any sequence, so that
            one which reads files when asked keeps nothing in memory. So are the other three.
        source_validation: maps of the source that are not trained on; the paper has 500.
        target_train: maps of the target.
        target_validation: maps of the target that are not trained on; the paper has 500.
        num_classes: channels of the one-hot input; ignored pixels are zero in all.
        patches: sides of square patches, in pixels of a map of `size`; "whole" is all of it.
        size: width and height that maps and crops are resized to, in pixels.
        iterations: steps of training for each patch size and run.
        every: iterations between two measurements of the error.
        runs: how often each patch size is measured, from other weights and crops.
        seed: crops are a function of (seed, run, iteration).
        progress: called as (iterations done, iterations in all, what is going on).

    Raises:
        SegueError: a set is empty, no patch fits, a setting or map is unusable, training diverges.
    """
    settings = Settings(
        num_classes, tuple(dict.fromkeys(patches)), size, iterations, every, batch_size, runs,
        lr, momentum, weight_decay, mask_void, seed, device,
    )  # fmt: skip
    train = (source_train, target_train)
    validation = (source_validation, target_validation)
    maps = _count(train, validation)
    kept, notes = _fitting(settings)
    fewest = min(maps["source_validation"], maps["target_validation"])
    if fewest < FEW_MAPS:
        notes.append(f"With {fewest} validation maps in one domain the error is a rough estimate.")
    curves = []
    for number, patch in enumerate(kept):
        report = _part(progress, number, len(kept), settings.runs * iterations)
        curves.append(_curve(patch, train, validation, settings, report))
    curves = by_size(curves)
    suggested = suggest(curves)
    notes += _doubts(suggested, largest=curves[-1])
    return LayoutShift(tuple(curves), suggested or curves[0], settings, maps, tuple(notes))


def _doubts(suggested: Curve | None, *, largest: Curve) -> list[str]:
    """What keeps a suggestion from being one."""
    if suggested is None:
        return [
            f"No patch stays above {THRESHOLD:.0%}: the smallest is suggested, but it too betrays "
            "the domain; try smaller ones."
        ]
    if suggested is largest:
        return [f"The largest patch measured stays above {THRESHOLD:.0%}: no limit was found."]
    return []


def save(result: LayoutShift, folder: Path | str, *, title: str = "") -> tuple[Path, ...]:
    """Writes `layout_shift` as .csv, .json, .png and .svg and returns these paths.

    Args:
        result: what `measure` returned.
        folder: made where it is missing; files of the same names are replaced.
        title: above the figure, for example "GTA5 → Cityscapes".

    Raises:
        SegueError: the folder cannot be written to.
    """
    folder = Path(folder)
    paths = tuple(folder / f"layout_shift.{suffix}" for suffix in ("csv", "json", "png", "svg"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("patch", "fraction", "run", "iteration", "error"))
        writer.writerows(_rows(result))
        table, summary = text.getvalue(), json.dumps(_summary(result), indent=2) + "\n"
        write_whole(paths[0], lambda file: file.write(table.encode()))
        write_whole(paths[1], lambda file: file.write(summary.encode()))
        figure = draw(result.curves, result.suggested, title)
        save_figure(figure, paths[2].with_suffix(""))
    except OSError as error:
        raise SegueError(
            f"cannot write the results ({error.strerror or error})",
            where=folder,
            fix="give a folder that can be written to and has space left",
        ) from error
    return paths


def _count(train: _Pair, validation: _Pair) -> dict[str, int]:
    counts = {
        "source_train": len(train[0]),
        "source_validation": len(validation[0]),
        "target_train": len(train[1]),
        "target_validation": len(validation[1]),
    }
    for name, count in counts.items():
        if count == 0:
            raise SegueError("no label maps", where=name, fix="give at least one labelled image")
    return counts


def _fitting(settings: Settings) -> tuple[list[Patch], list[str]]:
    width, height = settings.size
    kept: list[Patch] = []
    notes = []
    for patch in settings.patches:
        if patch == "whole" or patch <= min(width, height):
            kept.append(patch)
        else:
            notes.append(f"Patch {patch} is skipped: larger than the map of {width}x{height}.")
    if not kept:
        raise SegueError(
            f"no patch fits a map of {width}x{height}", where=WHERE, fix="give smaller patches"
        )
    return kept, notes


def _part(
    progress: Progress | None, number: int, count: int, length: int
) -> Callable[[int, str], None]:
    def report(done: int, text: str) -> None:
        if progress is not None:
            progress(number * length + done, count * length, text)

    return report


def _curve(
    patch: Patch,
    train: _Pair,
    validation: _Pair,
    settings: Settings,
    progress: Callable[[int, str], None],
) -> Curve:
    patches = settings.cut(patch)
    rng = np.random.default_rng([settings.seed, 0, 0])
    fixed = tuple(
        patches.draw(own, other, range(len(own)), rng)
        for own, other in (validation, validation[::-1])
    )
    iterations: list[int] = []
    errors: list[list[float]] = []
    for run in range(settings.runs):
        measured: dict[int, float] = {}
        text, known = f"patch {patch}, run {run + 1}/{settings.runs}", ""
        for iteration, network in _training(patches, train, settings, run):
            if settings.due(iteration):
                error = _error(network, patches, fixed, settings)
                measured[iteration] = error
                known = f", error {error:.1%}"
            progress(run * settings.iterations + iteration, text + known)
        iterations = list(measured)
        errors.append(list(measured.values()))
    return Curve(str(patch), patches.extent[0] / settings.size[1], iterations, errors)


def _training(
    patches: LabelPatches, train: _Pair, settings: Settings, run: int
) -> Iterator[tuple[int, nn.Module]]:
    network = _classifier(settings, run)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    half = settings.batch_size // 2
    domains = torch.arange(2, device=settings.device).repeat_interleave(half)
    for iteration in range(1, settings.iterations + 1):
        rng = np.random.default_rng([settings.seed, run + 1, iteration])
        crops = [
            patches.draw(own, other, rng.integers(len(own), size=half).tolist(), rng)
            for own, other in (train, train[::-1])
        ]
        loss = F.cross_entropy(network(patches.encode(torch.cat(crops), settings.device)), domains)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if settings.due(iteration) and not torch.isfinite(loss):
            raise SegueError(
                f"training diverged by iteration {iteration}", where=WHERE, fix="lower `lr`"
            )
        yield iteration, network


def _classifier(settings: Settings, run: int) -> nn.Module:
    first = int(np.random.SeedSequence([settings.seed, run + 1]).generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(first)
        network: nn.Module = timm.create_model(
            "resnet18",
            pretrained=False,
            in_chans=settings.num_classes,
            num_classes=2,
            zero_init_last=False,
        )
    return network.to(settings.device).train()


@torch.no_grad()
def _error(
    network: nn.Module, patches: LabelPatches, fixed: tuple[Tensor, ...], settings: Settings
) -> float:
    network.eval()
    shares = []
    for domain, crops in enumerate(fixed):
        guesses = [
            network(patches.encode(chunk, settings.device)).argmax(dim=1)
            for chunk in torch.split(crops, settings.batch_size)
        ]
        shares.append((torch.cat(guesses) != domain).double().mean().item())
    network.train()
    return sum(shares) / 2


def _rows(result: LayoutShift) -> Iterator[tuple[str, float, int, int, float]]:
    for curve in result.curves:
        for run, errors in enumerate(curve.errors):
            for iteration, error in zip(curve.iterations, errors, strict=True):
                yield curve.patch, curve.fraction, run, iteration, error


def _summary(result: LayoutShift) -> dict[str, object]:
    suggested = result.suggested
    return {
        "suggested": {
            "patch": suggested.patch,
            "fraction": suggested.fraction,
            "final_error": suggested.final_error,
            "above_threshold": suggested.final_error > THRESHOLD,
        },
        "threshold": THRESHOLD,
        "notes": result.notes,
        "maps": dict(result.maps),
        "settings": asdict(result.settings),
        "curves": [{**asdict(c), "final_error": c.final_error} for c in result.curves],
    }
