"""`segue check` on every recipe of the papers' scale, at its own sizes, on generated files.

Networks are built whole and every term runs on shapes alone, so nothing is shrunk but the files.
"""

import pytest
import torch
from torch.nn import functional

from segue.checking import check
from segue.recipe import load
from segue.recipe.files import shipped
from segue.recipe.schema import TrainStage

LARGE = [name for name in shipped() if name.endswith(("-gta5", "-synthia"))]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leaves out what takes most of the time: random values, and those that a batch norm finds."""
    for name in ("normal_", "uniform_", "erfinv_"):
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, *_, **__: tensor)
    monkeypatch.setattr(functional, "batch_norm", lambda image, *_, **__: torch.empty_like(image))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_every_part_fits_at_the_papers_sizes(name, data):
    roots = [
        f"data.{key}.root={data.folder(settings)}" for key, settings in load(name).data.items()
    ]
    recipe = load(name, [*roots, "device=cpu"])
    trained = [stage for stage in recipe.stages.values() if isinstance(stage, TrainStage)]
    assert all(min(stage.source.size) >= 512 for stage in trained)
    assert check(recipe).problems == []
