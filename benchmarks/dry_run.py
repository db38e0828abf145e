"""Two steps of every stage at the papers' own sizes, on generated files of the real sets' sizes.

    .venv/bin/python benchmarks/dry_run.py                   # the four systems, both pairs
    .venv/bin/python benchmarks/dry_run.py --only coarse-to-fine-gta5

Only lengths are cut: two iterations, one round of self-training, random weights in place of
ImageNet's. Networks, sizes, losses, views and rules are the recipes'. What it took is printed, and
written into docs/results.md, a line for each that is done.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from results import markdown, write

from segue.datasets.gta5 import gta5
from segue.datasets.synthia import SYNTHIA_IDS
from segue.demo.worlds import write_worlds
from segue.recipe import load
from segue.recipe.files import resolve
from segue.recipe.schema import TrainStage
from segue.work_dir import SECONDS

SYSTEMS = ("local-alignment", "grouping", "coarse-to-fine", "category-adaptive")
PAIRS = ("gta5", "synthia")
GTA5, SYNTHIA, CITYSCAPES = (1914, 1052), (1280, 760), (2048, 1024)
IMAGES = 3
TOLD = "dry_run.json"


def write_data(root: Path) -> dict[str, Path]:
    """Generated files in the layouts and sizes of the real sets, by kind of dataset."""
    roots = {"gta5": root / "gta5", "cityscapes": root / "cityscapes", "synthia": root / "synthia"}
    for kind, size, name in (("gta5", GTA5, "source"), ("cityscapes", CITYSCAPES, "target")):
        if not roots[kind].exists():
            world = root / f"worlds_{kind}"
            write_worlds(world, source=IMAGES, target_train=IMAGES, target_val=IMAGES, size=size)
            (world / name).rename(roots[kind])
    if not roots["synthia"].exists():
        world = root / "worlds_synthia"
        write_worlds(world, source=IMAGES, target_train=1, target_val=1, size=SYNTHIA)
        as_synthia(world / "source", roots["synthia"])
    return roots


def as_synthia(world: Path, root: Path) -> None:
    """The same images and labels in SYNTHIA's layout, 16-bit labels with the class in red."""
    raw = np.zeros(256, np.uint16)
    for synthia, train in SYNTHIA_IDS.items():
        raw[train] = synthia
    (root / "RGB").mkdir(parents=True)
    (root / "GT" / "LABELS").mkdir(parents=True)
    dataset = gta5(world)
    for index in range(len(dataset)):
        name = f"{index:07}.png"
        cv2.imwrite(str(root / "RGB" / name), dataset.image(index)[..., ::-1])
        label = dataset.label(index)
        bgr = np.zeros((*label.shape, 3), np.uint16)
        bgr[..., 2] = raw[label]
        cv2.imwrite(str(root / "GT" / "LABELS" / name), bgr)


def settings(name: str, roots: dict[str, Path]) -> list[str]:
    """Where the files lie, and what cuts the lengths."""
    stages = resolve(name, ())["stages"]
    cut = [f"data.{key}.root={roots[data['kind']]}" for key, data in load(name).data.items()]
    repeated = {key.rsplit("_", 1)[0] for key in stages if key.rsplit("_", 1)[-1] == "2"}
    cut += [f"stages.{key}.repeat=1" for key in ("rounds",) if repeated]
    trained = load(name, cut).stages
    for key, stage in trained.items():
        if isinstance(stage, TrainStage):
            cut += [f"stages.{key}.iterations=2", f"stages.{key}.log_every=1"]
            segmenter = stage.networks["segmenter"]
            if segmenter.arguments.get("weights") is not None:
                cut.append(f"stages.{key}.networks.segmenter.weights=null")
    return [*cut, "device=cpu"]


def run(name: str, roots: dict[str, Path], folder: Path) -> dict[str, object]:
    """Runs a recipe and tells seconds by stage and the most memory that was held."""
    words = [sys.executable, "-m", "segue", "run", name, *settings(name, roots)]
    process = subprocess.Popen([*words, "--work-dir", str(folder)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{name} failed")
    stages = [path.parent.name for path in folder.glob(f"*/{SECONDS}")]
    seconds = {
        one: json.loads((folder / one / SECONDS).read_text())["seconds"] for one in sorted(stages)
    }
    # Of the stages, not of this process: a run that was stopped goes on.
    told: dict[str, object] = {"minutes": sum(seconds.values()) / 60, "seconds": seconds}
    told["gigabytes"] = usage.ru_maxrss * 1024 / 1e9
    (folder / TOLD).write_text(json.dumps(told, indent=1))
    return told


def table(folders: dict[str, Path]) -> str:
    """What all runs took."""
    lines = [["recipe, its own sizes, two steps of each stage", "stages", "minutes", "most memory"]]
    for name, folder in folders.items():
        told = json.loads((folder / TOLD).read_text())
        cells = [str(len(told["seconds"])), f"{told['minutes']:.1f}"]
        lines.append([f"`{name}`", *cells, f"{told['gigabytes']:.1f} GB"])
    return markdown(lines)


def main() -> None:
    """Runs what is not done yet."""
    names = [f"{system}-{pair}" for pair in PAIRS for system in SYSTEMS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/dry-run"))
    chosen = parser.parse_args()
    roots = write_data(chosen.work_dir / "data")
    folders = {name: chosen.work_dir / name for name in names}
    for name in chosen.only:
        if not (folders[name] / TOLD).exists():
            print(name, json.dumps(run(name, roots, folders[name])), flush=True)
    write("dry-run", table({name: at for name, at in folders.items() if (at / TOLD).exists()}))


if __name__ == "__main__":
    main()
