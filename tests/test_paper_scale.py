"""`segue check` on every recipe of the papers' scale, at its own sizes, on generated files.

Networks are built whole and every term runs on shapes alone, so nothing is shrunk but the files.
"""

import pytest

from segue.checking import check
from segue.recipe import load
from segue.recipe_files import shipped
from segue.stage_settings import TrainStage

LARGE = [name for name in shipped() if name.endswith(("-gta5", "-synthia"))]


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
