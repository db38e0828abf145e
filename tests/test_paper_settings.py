"""Every setting that a paper states, in every recipe at its scale: paper_settings.yaml, walked."""

import inspect
from fnmatch import fnmatch
from pathlib import Path

import pytest

from segue.datasets.augmentation import AUGMENTATIONS
from segue.losses import LOSSES
from segue.models.table import NETWORKS
from segue.pseudo_labels import RULES
from segue.recipe import load
from segue.recipe.compose import cells
from segue.recipe.recipe import Recipe
from segue.recipe.safe_yaml import parsed
from segue.training.optimisers import OPTIMISERS, SCHEDULES
from segue.translation import TRANSLATIONS
from segue.views import VIEWS

FILE = Path(__file__).with_name("paper_settings.yaml")
STATED = parsed(FILE.read_bytes(), where=FILE.name)
PAIRS = ("gta5", "synthia")
RECIPES = {name: cell for name, cell in cells().items() if cell[1] in PAIRS}
# Which table a part is of, by the key that it stands under.
PARTS = {
    **{"networks": NETWORKS, "terms": LOSSES, "views": VIEWS, "optimiser": OPTIMISERS},
    **{"schedule": SCHEDULES, "rule": RULES, "by": TRANSLATIONS, "augment": AUGMENTATIONS},
}
NAMED = ("networks", "terms", "views")  # mappings of parts by name


def rows_of(method, pair):
    """Its own rows after those of the methods that it stands on; a later one of a key counts."""
    own = STATED[method]
    assert set(own) <= {"as", "both", *PAIRS}, method
    found = {}
    for other in own.get("as", []):
        found |= {(stage, key): row for stage, key, *row in rows_of(other, pair)}
    for stage, key, *row in [*own.get("both", []), *own.get(pair, [])]:
        found[stage, key] = row
    return [[*place, *row] for place, row in found.items()]


def defaults(part, table):
    """What a part says, and what its builder takes where it says nothing."""
    said = {"kind": part} if isinstance(part, str) else dict(part)
    known = inspect.signature(table[said["kind"]]).parameters.values()
    whole = {one.name: one.default for one in known if one.default is not one.empty}
    return {**whole, **said}


def at(value, path, table=None):
    """Every value that a path with patterns leads to."""
    if path and table is not None and isinstance(value, dict | str):
        value = defaults(value, table)
    if not path:
        return [value]
    first, *rest = path
    if not isinstance(value, dict):
        return []
    found = []
    for key in value:
        if fnmatch(key, first):
            if first in NAMED and rest:
                name, *deeper = rest
                inner = {one: part for one, part in value[key].items() if fnmatch(one, name)}
                for part in inner.values():
                    found += at(part, deeper, PARTS[first])
            else:
                found += at(value[key], rest, PARTS.get(key))
    return found


def plain(value):
    """Tuples as lists, numbers as they compare."""
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value


def drifts(recipe: Recipe, rows):
    """A line for each row that the recipe does not keep."""
    told = recipe.model_dump()
    stages = told.pop("stages")
    rounds = [name for name in stages if name.rsplit("_", 1)[-1].isdigit()]
    trained = [name for name in rounds if stages[name]["kind"] == "train"]
    whole = {**told, "last_round": trained[-1] if trained else None}
    found = []
    for pattern, key, value, section in rows:
        within = {"recipe": whole} if pattern == "recipe" else stages
        values = {
            (name, str(index)): one
            for name, stage in within.items()
            if fnmatch(name, pattern)
            for index, one in enumerate(at(stage, key.split(".")))
        }
        if not values:
            found.append(f"{recipe.name}: {pattern}: {key} is not there; {section}")
        wanted = plain(value)
        for (name, _), one in values.items():
            either = section.endswith("any of these") and one in wanted
            if plain(one) != wanted and not either:
                found.append(f"{recipe.name}: {name}.{key} is {one!r}, not {value!r}: {section}")
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_as_its_paper_states(name):
    method, pair = RECIPES[name]
    rows = rows_of(method, pair)
    assert len(rows) >= 7, "what a paper states of it is more"
    assert all(section.strip() for *_, section in rows)
    assert drifts(load(name), rows) == []


def test_every_method_at_the_papers_scale_has_rows_and_no_other():
    methods = {method for method, _ in RECIPES.values()}
    assert {one for one in STATED if not one.startswith("_")} == methods


@pytest.mark.parametrize(
    ("name", "drift", "told"),
    [
        ("local-alignment-gta5", "stages.train.terms.alignment.patch=128", "ACCV 2020, figure 8a"),
        ("coarse-to-fine-synthia", "templates.train.batch_size=1", "1 sample on each"),
        ("coarse-to-fine-gta5", "stages.fine_3.terms.triplet.margin=0.3", "4.1: alpha"),
        ("coarse-to-fine-gta5", "stages.rounds.repeat=5", "4.1: K = 6"),
        (
            "category-adaptive-gta5",
            "stages.warm_up.terms.style.moves=target",
            "2.3: force the style",
        ),
        ("bdl-synthia", "stages.cyclegan.terms.semantic_cycle_source=null", "its reconstruction"),
        ("grouping-gta5", "stages.warm_up.terms.equivalence.threshold=0.1", "details: tau"),
        ("source-only-synthia", "label_space=cityscapes", "16 overlapping classes"),
    ],
)
def test_a_drift_is_told_with_the_papers_section(name, drift, told):
    found = drifts(load(name, [drift]), rows_of(*RECIPES[name]))
    assert found
    assert any(told in line for line in found), found


def test_a_default_that_drifts_is_told_too(monkeypatch):
    """What no recipe says comes from the part's signature."""

    def other(*, margin: float = 0.5, negatives: str = "mean"):
        raise AssertionError

    name = "coarse-to-fine-gta5"
    recipe = load(name)
    monkeypatch.setitem(LOSSES, "category_triplet", other)
    found = drifts(recipe, rows_of(*RECIPES[name]))
    assert any("margin is 0.5, not 0.2: CVPR 2021, 4.1: alpha" in line for line in found)
