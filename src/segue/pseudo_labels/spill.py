"""Logits kept on disk between passes over the images, so that the network runs once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segue.storage.whole import write_whole

Logits = list[dict[str, Tensor]]  # for each model, [1, C, h, w] by head


@dataclass(frozen=True)
class Spill:
    """One file an image, written whole, with the logits of all models and heads in float32.

    At paper scale, 65 x 129 x 19 x 4 bytes, that is 0.64 MB an image for each model and head.

    Args:
        folder: where the files lie.
        models: what `digest` says of the models: files that others wrote count for nothing.
    """

    folder: Path
    models: str

    def path(self, index: int) -> Path:
        """The file of an image, by its place in the dataset."""
        return self.folder / f"{index:06d}.safetensors"

    def write(self, index: int, logits: Logits) -> None:
        """Writes an image's logits."""
        tensors = {
            f"{model}.{head}": value.cpu().contiguous()
            for model, heads in enumerate(logits)
            for head, value in heads.items()
        }
        data = safetensors.torch.save(tensors, {"models": self.models})
        write_whole(self.path(index), lambda file: file.write(data))

    def read(self, index: int, device: torch.device) -> Logits | None:
        """What `write` wrote, to the bit; nothing where there is none of these models."""
        try:
            with safe_open(self.path(index), "pt", device=str(device)) as file:
                if (file.metadata() or {}).get("models") != self.models:
                    return None
                names = sorted(file.keys(), key=lambda name: int(name.split(".")[0]))
                found: Logits = [{} for _ in {name.split(".")[0] for name in names}]
                for name in names:
                    model, _, head = name.partition(".")
                    found[int(model)][head] = file.get_tensor(name)
        except (OSError, SafetensorError):
            return None
        return found


def digest(paths: Sequence[Path]) -> str:
    """A digest of files' contents, in order."""
    whole = hashlib.blake2b(digest_size=12)
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "blake2b").digest())
    return whole.hexdigest()
