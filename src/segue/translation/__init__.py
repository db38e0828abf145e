"""Every translation that a recipe can name. To add one: write its file, add its line."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from segue.translation.fourier import Fourier
from segue.translation.generator import generator_translation
from segue.translation.photometric import Photometric
from segue.translation.unchanged import Unchanged

# Source images [B, 3, H, W] and target images [B, 3, h, w], 0 to 1, the i-th of each belonging
# together, to source images in the target's style.
Translation = Callable[[Tensor, Tensor], Tensor]

TRANSLATIONS: dict[str, Callable[..., Translation]] = {
    "photometric": Photometric,
    "fourier": Fourier,
    "generator": generator_translation,
    "none": Unchanged,
}
