"""A model as a folder: weights, description and card, as the Hugging Face hub has them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segue.datasets.depth import KEY
from segue.errors import SegueError
from segue.exporting.card import card
from segue.exporting.needs import need
from segue.inference.model import FILE, Ensemble, Model
from segue.storage.whole import write_whole
from segue.work_dir import CONFIG, files

LIBRARY = "segue"
CARD = "README.md"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def refuse_foreign(folder: Path) -> None:
    """Refuses a folder that holds anything but an export.

    Raises:
        SegueError: it does.
    """
    if folder.is_file():
        raise SegueError("is a file", where=folder, fix="name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if described(folder / CONFIG).get("library_name") != LIBRARY:
        fix = "name a new folder, so that nothing is overwritten"
        raise SegueError("holds other things", where=folder, fix=fix)


def described(path: Path) -> dict[str, Any]:
    """What a config.json says; nothing where it is none."""
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def write_folder(
    source: Path, models: Ensemble, folder: Path, *, onnx: float | None = None
) -> list[Path]:
    """Writes weights, config.json and README.md; returns the files of the export.

    Args:
        source: what `models` was loaded from.
        models: the model.
        folder: new, empty, or an earlier export.
        onnx: how far model.onnx, which is there already, is from PyTorch; None: there is none.
    """
    originals = files(source)
    names = [FILE] if len(originals) == 1 else _numbered(len(originals))
    folder.mkdir(parents=True, exist_ok=True)
    for original, name in zip(originals, names, strict=True):
        if original.resolve() != (folder / name).resolve():
            _copy(original, folder / name)
    _remove_others(folder, names)
    text = json.dumps(config(models, names), indent=2, ensure_ascii=False)
    write_whole(folder / CONFIG, lambda file: file.write(text.encode()))
    if not (folder / CARD).is_file():
        written = card(source, models, onnx=onnx)
        write_whole(folder / CARD, lambda file: file.write(written.encode()))
    graph = ["model.onnx"] if onnx is not None else []
    return [folder / name for name in (*names, *graph, CONFIG, CARD)]


def _numbered(count: int) -> list[str]:
    stem, suffix = FILE.split(".")
    return [f"{stem}_{number}.{suffix}" for number in range(1, count + 1)]


def _copy(original: Path, copy: Path) -> None:
    def through(file: Any) -> None:
        with original.open("rb") as opened:
            shutil.copyfileobj(opened, file)

    write_whole(copy, through)


def _remove_others(folder: Path, names: Sequence[str]) -> None:
    """Weights of an earlier export that `segue.load` would read instead."""
    for path in folder.glob("model*.safetensors"):
        if path.name not in names:
            path.unlink()


def config(models: Ensemble, names: Sequence[str]) -> dict[str, Any]:
    """What config.json says: how to build and use the model. Each weights file holds it too."""
    space = models.label_space
    return {
        "library_name": LIBRARY,
        "segue_version": version("segue"),
        "format": 1,
        "label_space": {
            "name": space.name,
            "classes": space.classes,
            "colours": space.colours,
            "protocols": dict(space.protocols),
        },
        "models": [
            {"file": name, **_settings(model)}
            for name, model in zip(names, models.models, strict=True)
        ],
    }


def _settings(model: Model) -> dict[str, Any]:
    norm = model.segmenter.normalisation
    return {
        # Where its first weights came from is a path of the machine that trained it.
        "network": {key: value for key, value in model.settings.items() if key != "weights"},
        "normalisation": {
            "name": norm.name,
            "mean": norm.mean,
            "std": norm.std,
            "scale": norm.scale,
            "bgr": norm.bgr,
        },
        "size": model.size,
        "heads": dict(model.heads),
        "policy": model.policy,
        **({} if model.range is None else {KEY: model.range.settings}),
    }


def check_repository(name: str) -> None:
    """Refuses what no upload can be made to, before anything is computed.

    Raises:
        SegueError: the extra is not installed, or it is no name of a repository.
    """
    need("hub", "huggingface_hub")
    if not REPOSITORY.fullmatch(name):
        raise SegueError(f"{name!r} is no repository", where="push", fix="write OWNER/NAME")


def push(folder: Path, written: Sequence[Path], repository: str) -> str:
    """Uploads the files of an export, and no others, to the hub; returns its address.

    A repository that does not exist is made, private.

    Raises:
        SegueError: the hub refuses or is out of reach.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(library_name=LIBRARY, library_version=version("segue"))
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[path.name for path in written],
            commit_message="Exported by Segue",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        fix = f"the export is in {folder}; log in with `hf auth login`, then the same command again"
        raise SegueError(f"the hub says: {error}", where=repository, fix=fix) from error
    return str(address)
