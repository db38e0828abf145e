"""Training at paper sizes on a GPU beside the field's common code; fills docs/performance.md.

    .venv/bin/python benchmarks/gpu.py                     # on a machine with a CUDA device
    .venv/bin/python benchmarks/gpu.py --only grouping

For each system: iterations per second and peak memory of Segue's step (bfloat16) and of the step as
it is commonly written (float32, channels first, one joint backward pass, everything upsampled to
the size of the image before the discriminator), in turn, in one run. Then local alignment with its
loader, on generated files of the real sets' sizes: how much of the time training waits for images,
and how busy the GPU is. Numbers stand in docs/gpu.json. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench import write
from plain_steps import PLAIN, SETTINGS, as_torch_has_it

from segue.checking.fit import changed
from segue.checking.one_step import generated, prepared
from segue.recipe import load
from segue.recipe.recipe import Recipe, TrainStage
from segue.runtime.processes import World
from segue.training.loop import iterate

NUMBERS = Path(__file__).parents[1] / "docs" / "gpu.json"
WARM, ITERATIONS, ROUNDS = 5, 20, 3
FASTER, MEMORY = 4.0, 0.5  # aims for the adversarial step
IMAGES, GTA5, CITYSCAPES = 12, (1914, 1052), (2048, 1024)
Step = Callable[[int], object]


@dataclass(frozen=True)
class System:
    """A stage that is measured."""

    recipe: str
    stage: str


SYSTEMS = {
    "local-alignment": System("local-alignment-gta5", "train"),
    "grouping": System("grouping-gta5", "warm_up"),
    "coarse-to-fine": System("coarse-to-fine-gta5", "fine_1"),
    "category-adaptive": System("category-adaptive-gta5", "train_1"),
}


def recipe_of(name: str, **settings: Any) -> tuple[Recipe, TrainStage]:
    """The recipe as it is measured, and its stage."""
    system = SYSTEMS[name]
    recipe = changed(load(system.recipe), {**SETTINGS[name], **settings})
    stage = recipe.stages[system.stage]
    assert isinstance(stage, TrainStage)
    return recipe, stage


def ours(name: str, world: World, **settings: Any) -> Step:
    """An iteration of Segue's."""
    recipe, stage = recipe_of(name, **settings)
    training, _ = prepared(recipe, SYSTEMS[name].stage, stage, world)
    training.examine_every = None
    drawn = [
        generated(recipe, SYSTEMS[name].stage, stage, micro) for micro in range(stage.accumulate)
    ]
    return lambda iteration: iterate(training, iteration, drawn)


def common(name: str, world: World, **settings: Any) -> Step:
    """An iteration as it is commonly written, of the same networks on the same images."""
    recipe, stage = recipe_of(name, **settings)
    training, _ = prepared(recipe, SYSTEMS[name].stage, stage, World())
    drawn = [
        generated(recipe, SYSTEMS[name].stage, stage, micro) for micro in range(stage.accumulate)
    ]
    for module in training.networks.values():
        module.to(world.device)  # and nothing else, as `Networks.to` would do
        as_torch_has_it(module)
    step = PLAIN[name](training.networks)

    def iteration(_: int) -> None:
        step([{role: one.to(world.device) for role, one in micro.items()} for micro in drawn])

    return iteration


def timed(build: Callable[[], Step], device: torch.device) -> dict[str, float]:
    """Iterations per second and peak bytes of a step that is built, run and let go of."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step = build()
    for iteration in range(WARM):
        step(iteration)
    torch.cuda.synchronize(device)
    begun = time.perf_counter()
    for iteration in range(ITERATIONS):
        step(WARM + iteration)
    torch.cuda.synchronize(device)
    rate = ITERATIONS / (time.perf_counter() - begun)
    return {"rate": rate, "bytes": float(torch.cuda.max_memory_allocated(device))}


def sides(name: str) -> dict[str, Callable[[World], Step]]:
    """What is compared."""
    half = {"precision": "bfloat16"}
    return {
        "common": lambda world: common(name, world),
        "float32": lambda world: ours(name, world),
        "bfloat16": lambda world: ours(name, world, **half),
        "compiled": lambda world: ours(name, world, **half, compile=True),
    }


def compared(name: str, world: World) -> dict[str, Any]:
    """Medians of every side, in turn, and their ratios to the common code."""
    found: dict[str, list[dict[str, float]]] = {}
    faults: dict[str, str] = {}
    for _ in range(ROUNDS):
        for side, build in sides(name).items():
            if side in faults:
                continue
            try:
                one = timed(lambda build=build: build(world), world.device)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                faults[side] = str(error).splitlines()[0]
                found.pop(side, None)
            else:
                found.setdefault(side, []).append(one)
    told: dict[str, Any] = {"faults": faults}
    for side, several in found.items():
        told[side] = {key: statistics.median(one[key] for one in several) for key in several[0]}
    return told


def fed(world: World) -> dict[str, Any]:
    """Local alignment with its loader: how long training waits for it, how busy the GPU is."""
    from segue.datasets.loading import batches
    from segue.demo.worlds import write_worlds
    from segue.recipe import build as assembly

    root = Path(tempfile.mkdtemp(prefix="segue-gpu-"))
    write_worlds(root / "g", source=IMAGES, target_train=1, target_val=1, size=GTA5)
    write_worlds(root / "c", source=1, target_train=IMAGES, target_val=1, size=CITYSCAPES)
    recipe, stage = recipe_of(
        "local-alignment",
        **{
            "precision": "bfloat16",
            "data.source.root": str(root / "g/source"),
            "data.target.root": str(root / "c/target"),
        },
    )
    roles = assembly.readings(recipe, stage, root)
    training, _ = prepared(recipe, "train", stage, world)
    training.examine_every = None
    count = WARM + 10 * ITERATIONS

    def draws() -> Iterator[Any]:
        return batches(
            roles, batch_size=1, seed=0, start=0, stop=count, workers=recipe.workers,
            device=world.device,
        )  # fmt: skip

    alone = rate_of(draws())
    waits, begun, drawn = 0.0, 0.0, draws()
    with watched() as busy:
        for iteration in range(count):
            if iteration == WARM:
                torch.cuda.synchronize(world.device)
                begun, waits = time.perf_counter(), 0.0
                busy.clear()
            asked = time.perf_counter()
            micro_batches = next(drawn)
            waits += time.perf_counter() - asked
            iterate(training, iteration, micro_batches)
        torch.cuda.synchronize(world.device)
        whole = time.perf_counter() - begun
    return {
        "loader_rate": alone,
        "rate": (count - WARM) / whole,
        "waiting": waits / whole,
        "busy": statistics.mean(busy) / 100 if busy else None,
    }


def rate_of(draws: Iterator[Any]) -> float:
    """Iterations per second of the loader alone, once its processes have started."""
    for _ in range(WARM):
        next(draws)
    begun, count = time.perf_counter(), 0
    for _ in draws:
        count += 1
    return count / (time.perf_counter() - begun)


@contextmanager
def watched() -> Iterator[list[float]]:
    """How busy the GPU is in percent, by its driver, twice a second; empty where it cannot say."""
    ended, told = threading.Event(), list[float]()
    asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def watch() -> None:
        while not ended.wait(0.5):
            try:
                said = subprocess.run(asked, capture_output=True, text=True, check=True)
                told.append(float(said.stdout.splitlines()[torch.cuda.current_device()]))
            except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        ended.set()
        thread.join()


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| system | common, it/s | float32 | bfloat16 | compiled | ratio | memory, GB | share |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, told in found["systems"].items():
        rates = [f"{told[side]['rate']:.2f}" if side in told else "-" for side in
                 ("common", "float32", "bfloat16", "compiled")]  # fmt: skip
        ratio, memory, share = "", "", ""
        if "common" in told and "bfloat16" in told:
            best = max(told[side]["rate"] for side in ("bfloat16", "compiled") if side in told)
            plain, own = told["common"]["bytes"], told["bfloat16"]["bytes"]
            ratio = f"**{best / told['common']['rate']:.2f}×** (≥ {FASTER:g}×)"  # noqa: RUF001
            memory = f"{plain / 1e9:.1f} → {own / 1e9:.1f}"
            share = f"{own / plain:.2f}× (≤ {MEMORY:g}×)"  # noqa: RUF001
        lines.append(f"| {name} | {' | '.join([*rates, ratio, memory, share])} |")
    notes = [
        f"- {name}, {side}: did not run, {reason}."
        for name, told in found["systems"].items()
        for side, reason in told["faults"].items()
    ]
    if "fed" in found:
        one = found["fed"]
        share = one["busy"]
        busy = "" if share is None else f" Its driver finds the GPU {100 * share:.0f} % busy."
        notes.append(
            f"- Local alignment with its loader: {one['rate']:.2f} iterations a second, the loader "
            f"alone {one['loader_rate']:.2f}; {100 * one['waiting']:.1f} % of the time is spent "
            f"waiting for images.{busy}"
        )
    return "\n".join([*lines, "", *notes])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=tuple(SYSTEMS), default=list(SYSTEMS))
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("No GPU is at hand: nothing is measured on one.")
        return
    world = World(device=torch.device("cuda", 0))
    found: dict[str, Any] = {"format": 1, "systems": {}}
    if NUMBERS.exists():
        found = json.loads(NUMBERS.read_text())
    card = torch.cuda.get_device_properties(world.device)
    memory = f"{card.total_memory / 2**30:.0f} GiB"
    found["machine"] = f"{card.name}, {memory}, torch {torch.__version__}"
    for name in chosen.only:
        found["systems"][name] = compared(name, world)
        print(f"{name}: {json.dumps(found['systems'][name])}", flush=True)
        NUMBERS.write_text(json.dumps(found, indent=1) + "\n")
    if "local-alignment" in chosen.only:
        found["fed"] = fed(world)
        print(f"with its loader: {json.dumps(found['fed'])}", flush=True)
    NUMBERS.write_text(json.dumps(found, indent=1) + "\n")
    write("gpu", f"Machine: {found['machine']}\n\n{table(found)}")


if __name__ == "__main__":
    main()
