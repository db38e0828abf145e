"""Safetensors files that tell whether they still are what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from segue.storage.whole import DamagedError, write_whole

KEY, DIGEST = "segue", "sha256"


def write_sealed(path: Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Writes tensors with a description of plain values, which gets their digest."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    whole = {**description, DIGEST: digest(tensors, description)}
    data = save(tensors, {KEY: json.dumps(whole)})
    write_whole(path, lambda file: file.write(data))


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors and description; None for a file that is not Segue's.

    Files of the first release have no digest and are taken as they are.

    Raises:
        DamagedError: anything in it was altered.
        OSError, SafetensorError: it cannot be opened, or is no such file.
    """
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(KEY)
    tensors = load_file(path)
    if text is None:
        return tensors, None
    fix = "delete the folder of its stage, then the run's command makes it anew"
    try:
        description: dict[str, Any] = json.loads(text)
        wanted = description.pop(DIGEST, None)
    except (ValueError, AttributeError) as error:
        raise DamagedError("is damaged: its description", where=path, fix=fix) from error
    if wanted is not None and wanted != digest(tensors, description):
        raise DamagedError(
            "is damaged: its checksum is not that of its contents", where=path, fix=fix
        )
    return tensors, description


def digest(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """SHA-256 over a description and tensors by name, their types and shapes included."""
    whole = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
