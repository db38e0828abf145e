"""A trained model in forms that leave the lab: a folder for a hub, and an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import SegueError
from segue.exporting import hub_folder
from segue.exporting.needs import need
from segue.work_dir import load

if TYPE_CHECKING:
    from rich.console import Console

ONNX = "model.onnx"


def export(
    path: str | Path,
    folder: str | Path,
    *,
    onnx: bool = False,
    push: str | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Writes a model as a folder that `segue.load` reads and the Hugging Face hub shows.

    Leaves model.safetensors (model_1.safetensors, ... where several are averaged), config.json and
    README.md, the model card. A README.md that is there already is yours and left as it is.

    Args:
        path: whatever `segue.load` takes.
        folder: where to; new, empty, or an earlier export.
        onnx: also write model.onnx, compared with PyTorch before it is put in place.
        push: a repository of the hub, as `me/my-model`, to upload these files to; made private
            where it does not exist. Nothing is ever uploaded unless it is named.
        console: where to tell what was written; None keeps silent.

    Returns:
        The files of the folder that are part of the export.

    Raises:
        SegueError: no model is there, the folder holds other things, an extra is not installed, the
            network has no ONNX form that agrees with PyTorch or looks through a window, or the hub
            refuses.
    """
    source, home = Path(path), Path(folder)
    if onnx:
        need("export", "onnx", "onnxscript", "onnxruntime")
    if push is not None:
        hub_folder.check_repository(push)
    models = load(source)
    hub_folder.refuse_foreign(home)
    if onnx and any(model.policy == "sliding" for model in models.models):
        fix = "leave out --onnx"
        raise SegueError("looks through a sliding window, an ONNX file cannot", where=path, fix=fix)
    told = None
    if onnx:
        from segue.exporting.onnx_file import write_onnx

        told = write_onnx(models, home / ONNX)
    elif (home / ONNX).is_file():
        fix = "add --onnx, or remove the file"
        raise SegueError("may be of another model", where=home / ONNX, fix=fix)
    written = hub_folder.write_folder(source, models, home, onnx=told)
    if console is not None:
        tell(console, home, written, told)
    if push is not None:
        address = hub_folder.push(home, written, push)
        if console is not None:
            console.print(f"pushed to {address}", highlight=False, soft_wrap=True)
    return written


def tell(console: Console, home: Path, written: list[Path], parity: float | None) -> None:
    """Prints what lies where, and how closely the ONNX file agrees."""
    for file in written:
        console.print(f"{file}  {size(file)}", highlight=False, soft_wrap=True)
    if parity is not None:
        told = f"probabilities of {ONNX} within {parity:.0e} of PyTorch's"
        console.print(told, highlight=False)
    console.print(f"segue.load({str(home)!r}) reads it", highlight=False, soft_wrap=True)


def size(file: Path) -> str:
    """A file's size for people, in the unit that leaves something before the point."""
    count = file.stat().st_size
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{max(1, round(count / 2**10))} KiB"
