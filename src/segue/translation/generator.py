"""Translation by a generator that an earlier stage has trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from segue.errors import SegueError
from segue.models.generator import generator
from segue.models.weights import load_weights, read_weights


def generator_translation(
    *,
    load_from: str,
    network: str = "to_target",
    width: int | None = None,
    blocks: int | None = None,
    work_dir: Path,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Redraws source images by a trained generator; the target images are not looked at.

    CycleGAN (ICCV 2017), or BDL's (CVPR 2019) where its semantic term was trained along.

    Args:
        load_from: the train stage that left the generator, or a weights file.
        network: the generator's name in that stage.
        width: of the generator; None: as the file has it.
        blocks: of the generator; None: as the file has it.
        work_dir: where the stages of the recipe lie.

    Raises:
        SegueError: nothing was left there, or a generator of another width or depth.
    """
    left, given = work_dir / load_from / "networks" / f"{network}.safetensors", Path(load_from)
    if not left.is_file() and not given.is_file():
        fix = "name an earlier train stage that trains this network, or a weights file"
        raise SegueError(f"no generator {network!r} in {load_from!r}", where="load_from", fix=fix)
    file = left if left.is_file() else given
    shape = shape_of(read_weights(file))
    redraw = generator(width=width or shape[0], blocks=blocks or shape[1])
    load_weights(redraw, file, minimum=1.0)
    redraw.requires_grad_(False).eval()

    def translate(source: Tensor, target: Tensor) -> Tensor:
        del target
        with torch.no_grad():
            translated: Tensor = redraw.to(source.device)(source)
        return translated

    return translate


def shape_of(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """Width and residual blocks of a generator by its weights; CycleGAN's where they show neither.

    Example:
        >>> shape_of(generator(width=4, blocks=2).state_dict())
        (4, 2)
    """
    first = (len(x) for x in weights.values() if x.ndim == 4 and x.shape[1:] == (3, 7, 7))
    blocks = {key.partition(".conv_block.")[0] for key in weights if ".conv_block." in key}
    return next(first, 64), len(blocks) or 9
