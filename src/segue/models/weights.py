"""Weights from files: safetensors or tensors only, never code, and never a quiet half."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from segue.errors import SegueError
from segue.storage.tensors import read_sealed, write_sealed

FORMAT = 1

_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "Scale.")
_NESTS = ("state_dict", "model", "model_state", "model_state_dict")


@dataclass(frozen=True)
class Report:
    """What became of a weights file.

    Args:
        matched: how many of the network's tensors were filled.
        total: how many it has.
        missing: the network's tensors that the file lacks.
        unexpected: the file's tensors that the network lacks.
    """

    matched: int
    total: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, wrappers such as {"state_dict": ...} opened.

    Raises:
        SegueError: no such file, no weights in it, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise SegueError("no such weights file", where=path, fix="check `weights`")
    content: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    while isinstance(content, Mapping) and not any(isinstance(v, Tensor) for v in content.values()):
        nest = next((key for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if nest is None:
            break
        content = content[nest]
    tensors = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise SegueError("holds no tensors by name", where=path, fix="give a state dict")
    return tensors


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a module's parameters and buffers as safetensors, whole or not at all."""
    write_sealed(path, module.state_dict(), {"format": FORMAT})


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    rename: Callable[[str], str | None] | None = None,
    minimum: float = 0.9,
) -> Report:
    """Fill a module from a weights file.

    Names are compared as they are, then without the wrappers that frameworks put before them
    ("module.", "model.", "backbone.", "encoder.", "Scale.") and with timm's flattened "stages_0."
    read as "stages.0.".

    Args:
        module: filled in place; nothing is changed where the file is refused.
        path: `.safetensors`, or a state dict that `torch.load(weights_only=True)` reads.
        rename: the file's name (wrappers removed) -> the module's name; None leaves a tensor out.
        minimum: the share of the module's tensors that the file must fill. Tensors that the file
            has too many, such as a classifier, are no fault.

    Raises:
        SegueError: unreadable file, too few names that match, or any shape that differs.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "linear.safetensors"
        ...     save_file({"module.weight": torch.ones(1, 2), "bias": torch.ones(1)}, path)
        ...     load_weights(nn.Linear(2, 1), path)
        Report(matched=2, total=2, missing=(), unexpected=())
    """
    wanted = _counted(module.state_dict())
    given = _counted(read_weights(path))
    if rename is not None:
        given = {
            new: value for key, value in given.items() if (new := rename(_bare(key))) is not None
        }
    by_bare_name = {_bare(key): key for key in given}
    source = {
        key: key if key in given else by_bare_name[_bare(key)]
        for key in wanted
        if key in given or _bare(key) in by_bare_name
    }
    missing = tuple(key for key in wanted if key not in source)
    unexpected = tuple(key for key in given if key not in set(source.values()))
    for key, name in source.items():
        if wanted[key].shape != given[name].shape:
            raise SegueError(
                f"{key} has shape {tuple(given[name].shape)} in the file and "
                f"{tuple(wanted[key].shape)} in the network",
                where=path,
                fix="use the model and the number of classes that the weights were made for",
            )
    report = Report(len(source), len(wanted), missing, unexpected)
    if report.matched < minimum * report.total:
        raise SegueError(_few(report), where=path, fix="use weights of this very model")
    module.load_state_dict({key: given[name] for key, name in source.items()}, strict=False)
    return report


def _few(report: Report) -> str:
    def first(names: tuple[str, ...]) -> str:
        return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"

    return (
        f"fills {report.matched} of the network's {report.total} tensors (missing: "
        f"{first(report.missing)}; unexpected: {first(report.unexpected)})"
    )


def _counted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All but batch norm's counters, which old files lack."""
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _bare(key: str) -> str:
    while prefix := next((p for p in _PREFIXES if key.startswith(p)), ""):
        key = key.removeprefix(prefix)
    return re.sub(r"^([A-Za-z]+)_(\d+)\.", r"\1.\2.", key)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return read_sealed(path)[0]
    except (SafetensorError, OSError) as error:
        raise SegueError(
            f"not a safetensors file ({error})", where=path, fix="copy or download it again"
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, OSError, ValueError, KeyError) as error:
        if isinstance(error, pickle.UnpicklingError) and _is_pickle(path):
            raise SegueError(
                "is a pickle that holds more than tensors, which could run any code, and is not "
                "opened",
                where=path,
                fix="where you trust it, load it yourself with torch.load(path, "
                "weights_only=False) and save its state dict with safetensors.torch.save_file",
            ) from error
        raise SegueError(
            "not a weights file, or one cut short",
            where=path,
            fix="give .safetensors or a saved state dict",
        ) from error


def _is_pickle(path: Path) -> bool:
    """Whether a file starts as pickles (protocol 2 and up) or torch's archives of them do."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"\x80", b"PK"))
