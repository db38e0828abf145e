"""How bad inputs are made, each in a folder of its own beside a good recipe, and tried."""

import io
import json
import os
import pickle
import shlex
import shutil
import struct
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from dataset_files import png, random_image, save_image
from PIL import Image
from safetensors.torch import load_file, save_file

from segue.cli import commands as cli
from segue.storage import checkpoint
from segue.storage.tensors import read_sealed, write_sealed

SIZE = (64, 32)
GOOD = """\
label_space: {name: toy, classes: [road, car, sky]}
device: cpu
workers: 0
data:
  source: {kind: folder, root: data/source, images: images/*.png, ids: {0: road, 1: car, 2: sky}}
  target: {kind: folder, root: data/target, images: images/*.png, labels: null}
  validation: {kind: folder, root: data/validation, images: images/*.png}
stages:
  train:
    kind: train
    iterations: 2
    source: {data: source, size: [64, 32]}
    target: {data: target, size: [64, 32]}
    networks:
      segmenter:
        kind: deeplab_v2
        backbone: test_resnet
        batch_norm: batch
        optimiser: {kind: sgd, lr: 0.01}
      discriminator: {widths: [8, 8, 8, 8]}
    terms:
      segmentation: {kind: cross_entropy}
      alignment: {kind: adversarial, weight: 0.001}
  evaluate: {kind: evaluate, data: validation, size: [64, 32], models: [train]}
"""
RUN = "run good.yaml"
DONE = "runs/done"  # of the good recipe
MODEL = f"{DONE}/train/model.safetensors"
KEPT = ("format", "iteration")  # of a checkpoint, which writing it sets
IMAGE, LABEL = "data/source/images/b.png", "data/source/labels/b.png"


@dataclass(frozen=True)
class Bad:
    """An input that is refused.

    Args:
        what: how it is made, for people.
        command: what is called, without `segue`.
        make: makes it in the folder.
        code: the exit code.
    """

    what: str
    command: str
    make: Callable[[Path], object] = lambda _: None
    code: int = 1


def write_project(folder: Path) -> None:
    """A recipe, three datasets, and nothing wrong with any."""
    write("good.yaml", GOOD)(folder)
    for name in ("source", "target", "validation"):
        for index, stem in enumerate("ab"):
            save_image(folder / f"data/{name}/images/{stem}.png", random_image(index, SIZE))
            if name != "target":
                label = np.random.default_rng(index).integers(0, 3, SIZE[::-1]).astype(np.uint8)
                save_image(folder / f"data/{name}/labels/{stem}.png", label)


def write_run(folder: Path) -> None:
    """Runs the good recipe, in `DONE`."""
    done = Bad("", f"{RUN} --work-dir {DONE}", code=0)
    code, _, err = tried(done, folder)
    assert code == 0, err


def tried(bad: Bad, folder: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a command in this process."""
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    bad.make(folder)
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main(shlex.split(bad.command))
    except SystemExit as stopped:
        return int(stopped.code or 0), out.getvalue(), err.getvalue()
    finally:
        os.chdir(before)
    raise AssertionError("a command ends with an exit code")


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Writes a file."""
    data = content.encode() if isinstance(content, str) else content

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return make


def delete(name: str) -> Callable[[Path], object]:
    """Deletes a file or folder."""

    def make(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return make


def cut(name: str, share: float = 0.5) -> Callable[[Path], object]:
    """Leaves the first part of a file."""

    def make(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(share * len(data))])

    return make


def picture(name: str, array: np.ndarray, kind: str = "png") -> Callable[[Path], object]:
    """Writes an image file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return write(name, file.getvalue())


def bomb(width: int, height: int) -> bytes:
    """A small PNG file whose header promises a large image."""
    data = bytearray(png(np.zeros((1, 8), int), 1))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def weights(name: str, change: Callable[[dict], dict]) -> Callable[[Path], object]:
    """The finished run's weights, changed."""

    def make(folder: Path) -> None:
        state = change(load_file(folder / MODEL))
        path = folder / name
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)

    return make


def described(change: Callable[[str], str]) -> Callable[[Path], object]:
    """The finished run's model with another description."""

    def make(folder: Path) -> None:
        state, description = read_sealed(folder / MODEL)
        write_sealed(folder / MODEL, state, json.loads(change(json.dumps(description))))

    return make


class Harm:
    """What a pickle may hold: a function to call when it is opened."""

    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def altered(name: str) -> Callable[[Path], object]:
    """Changes the last byte of a file."""

    def make(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    return make


def checkpoint_with(
    change: Callable[[dict], object], iteration: int = 2
) -> Callable[[Path], object]:
    """The finished run's checkpoint with another state under a seal that is right."""

    def make(folder: Path) -> None:
        place = folder / DONE / "train/checkpoints"
        state = checkpoint.load(checkpoint.path_of(place, 2))
        change(state)
        checkpoint.save(place, iteration, {k: v for k, v in state.items() if k not in KEPT}, keep=1)
        (folder / DONE / "train/done.json").unlink()

    return make


def harmful(name: str) -> Callable[[Path], object]:
    """A pickle that runs code when it is opened."""
    return write(name, pickle.dumps({"state_dict": Harm()}))


def harmful_archive(name: str) -> Callable[[Path], object]:
    """The same as torch packs it."""

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"format": 1, "iteration": 2, "harm": Harm()}, folder / name)

    return make


def together(*makers: Callable[[Path], object]) -> Callable[[Path], object]:
    """One after the other."""

    def make(folder: Path) -> None:
        for one in makers:
            one(folder)

    return make
