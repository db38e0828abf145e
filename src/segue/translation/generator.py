"""Translation by a generator that an earlier stage has trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from segue.errors import SegueError
from segue.models.generator import generator
from segue.models.weights import load_weights


def generator_translation(
    *,
    load_from: str,
    network: str = "to_target",
    width: int = 64,
    blocks: int = 9,
    work_dir: Path,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Redraws source images by a trained generator; the target images are not looked at.

    CycleGAN (ICCV 2017), or BDL's (CVPR 2019) where its semantic term was trained along.

    Args:
        load_from: the train stage that left the generator, or a weights file.
        network: the generator's name in that stage.
        width: of the generator, as it was trained.
        blocks: of the generator, as it was trained.
        work_dir: where the stages of the recipe lie.

    Raises:
        SegueError: nothing was left there, or a generator of another width or depth.
    """
    left, given = work_dir / load_from / "networks" / f"{network}.safetensors", Path(load_from)
    if not left.is_file() and not given.is_file():
        fix = "name an earlier train stage that trains this network, or a weights file"
        raise SegueError(f"no generator {network!r} in {load_from!r}", where="load_from", fix=fix)
    redraw = generator(width=width, blocks=blocks)
    load_weights(redraw, left if left.is_file() else given, minimum=1.0)
    redraw.requires_grad_(False).eval()

    def translate(source: Tensor, target: Tensor) -> Tensor:
        del target
        with torch.no_grad():
            translated: Tensor = redraw.to(source.device)(source)
        return translated

    return translate
