"""Who may import whom: each room only what stands before it, and nobody in a circle."""

import ast
import re
from pathlib import Path

import segue

HOME = Path(segue.__file__).parent
# A room imports only from itself and from rooms before it, also inside functions.
ORDER = [
    "errors",
    "batch",
    "runtime",
    "label_space",
    "parts",
    "storage",
    "datasets",
    "models",
    "figures",
    "training",
    "translation",
    "inference",
    "losses",
    "views",
    "pseudo_labels",
    "predicting",
    "recipe",
    "work_dir",
    "stages",
    "running",
    "checking",
    "analysis",
    "report",
    "exporting",
    "demo",
    "serving",
    "cli",
]


def imports(path):
    """The modules of Segue that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "segue":
            yield from (f"segue.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("segue."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("segue."))


def room(path):
    return path.relative_to(HOME).with_suffix("").parts[0]


def test_every_room_stands_in_the_order():
    rooms = {room(path) for path in HOME.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(ORDER)


def test_no_room_imports_one_that_stands_after_it():
    upwards = [
        f"{path.relative_to(HOME)} imports {module}"
        for path in sorted(HOME.rglob("*.py"))
        if room(path) in ORDER
        for module in imports(path)
        if module.split(".")[1] in ORDER
        and ORDER.index(module.split(".")[1]) > ORDER.index(room(path))
    ]
    assert not upwards


def test_the_page_on_the_architecture_is_true():
    """Rooms in their order, and files that exist."""
    page = (HOME.parent.parent / "docs/architecture.md").read_text()
    table = page.split("\n\n")[2]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row)]
    assert named == ORDER
    paths = re.findall(r"`([\w/]+(?:\.py|/))`", page)
    assert len(paths) > 20
    assert not [path for path in paths if not ((HOME / path).exists() or Path(path).exists())]


def test_nothing_that_trains_imports_what_is_deployed():
    trains = ("training", "losses", "views", "pseudo_labels", "recipe", "stages", "running")
    deployed = {"predicting", "exporting", "serving"}
    for path in (path for start in trains for path in (HOME / start).rglob("*.py")):
        assert not {module.split(".")[1] for module in imports(path)} & deployed, path
