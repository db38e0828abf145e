"""Counts the structure of the package, so that two commits can be compared.

    .venv/bin/python benchmarks/structure.py [another checkout ...]

Reads source files only, imports nothing of Segue. A room is a package below `segue`, or a
module at its root; an arrow is an import from one room to another, wherever in a file.
"""

from __future__ import annotations

import argparse
import ast
import collections
from collections.abc import Iterator
from pathlib import Path

import yaml

WINDOW = 6  # lines of a duplicate
# What reads a recipe, under its name and under the one that it had before the rooms.
RESOLVER = {
    *("recipe/__init__.py", "recipe/recipe.py", "recipe/files.py", "recipe/expand.py"),
    *("recipe/schema.py", "recipe/build.py", "recipe/checks.py", "recipe/safe_yaml.py"),
    *("recipe.py", "recipe_files.py", "recipe_stages.py", "stage_settings.py"),
    *("assembly.py", "recipe_checks.py", "yaml_text.py"),
}
COMMAND = {"segue.cli", "segue.cli.commands"}
LOOP = {"segue.training.loop", "segue.training"}


def imports(path: Path, module: str, names: set[str]) -> Iterator[str]:
    """The modules among `names` that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [one if one in names else node.module for one in below]
        else:
            continue
        yield from (one for one in found if one in names and one != module)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Sets of rooms that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for room in arrows[waiting.pop()] - seen:
                seen.add(room)
                waiting.append(room)
        return seen

    far = {room: reached(room) for room in arrows}
    groups = {frozenset(b for b in far[a] if a in far[b]) for a in arrows if a in far[a]}
    return [sorted(group) for group in groups]


def hops(graph: dict[str, set[str]], starts: set[str], ends: set[str]) -> int | None:
    """Imports to follow from the command line to the training loop, at the fewest."""
    seen, edge, steps = set(starts), set(starts), 0
    while edge:
        if edge & ends:
            return steps
        edge = {after for before in edge for after in graph.get(before, ())} - seen
        seen |= edge
        steps += 1
    return None


def duplicates(sources: dict[Path, list[str]]) -> int:
    """Windows of six lines with something in them that stand in more than one place."""
    places: collections.Counter[tuple[str, ...]] = collections.Counter()
    for lines in sources.values():
        code = [line.strip() for line in lines]
        code = [one for one in code if len(one) > 3 and not one.startswith(("#", "import", "from"))]
        places.update(tuple(code[i : i + WINDOW]) for i in range(len(code) - WINDOW + 1))
    return sum(count - 1 for count in places.values() if count > 1)


def settings(value: object) -> int:
    """Values at the ends of a tree of YAML."""
    if isinstance(value, dict):
        return sum(map(settings, value.values()))
    return 1


def longest(sources: dict[Path, list[str]]) -> tuple[int, str]:
    """The longest function: lines, and where."""
    return max(
        ((node.end_lineno or 0) - node.lineno + 1, f"{path.name}:{node.name}")
        for path, lines in sources.items()
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def count(checkout: Path) -> dict[str, object]:
    """All numbers of one checkout."""
    home = checkout / "src/segue"
    sources = {path: path.read_text().splitlines() for path in sorted(home.rglob("*.py"))}

    def module_of(path: Path) -> str:
        parts = path.relative_to(home).with_suffix("").parts
        return ".".join(("segue", *(parts[:-1] if parts[-1] == "__init__" else parts)))

    modules = {module_of(path): path for path in sources}
    packages = {module_of(path) for path in sources if path.name == "__init__.py"}

    def stands_in(module: str) -> str:
        above = module if module in packages else module.rpartition(".")[0]
        return module if above == "segue" else above

    graph = {m: set(imports(path, m, set(modules))) for m, path in modules.items()}
    arrows: dict[str, set[str]] = collections.defaultdict(set)
    for module, targets in graph.items():
        for target in targets:
            arrows[stands_in(module)].add(stands_in(target))
            arrows.setdefault(stands_in(target), set())
    for here in arrows:
        arrows[here].discard(here)
    arrows.pop("segue", None)
    between = {here: there - {"segue"} for here, there in arrows.items()}
    found = circles(between)
    recipes = sorted((home / "recipes").rglob("*.yaml"))
    resolver = [path for path in sources if str(path.relative_to(home)) in RESOLVER]
    lines, where = longest(sources)
    return {
        "rooms (packages, and modules at the root)": len(between),
        "packages": len(packages) - 1,
        "files at the root": sum(path.parent == home for path in sources),
        "import arrows between rooms": sum(map(len, between.values())),
        "rooms in circles": sum(map(len, found)),
        "recipe files": len(recipes),
        "settings in recipes": sum(settings(yaml.safe_load(path.read_text())) for path in recipes),
        "resolver: files, lines": f"{len(resolver)}, {sum(len(sources[p]) for p in resolver):,}",
        "longest function": f"{lines} ({where})",
        "duplicates of six lines": duplicates(sources),
        "lines of source": sum(map(len, sources.values())),
        "hops from the command to the loop": hops(graph, COMMAND, LOOP & set(modules)),
    }


def main() -> None:
    """Prints a table in Markdown, a column for each checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="*", type=Path)
    here = Path(__file__).resolve().parent.parent
    columns = {str(path.name): count(path) for path in [*parser.parse_args().checkouts, here]}
    print("| " + " | ".join(["", *columns]) + " |")
    print("|---" + "|---:" * len(columns) + "|")
    for key in next(iter(columns.values())):
        print("| " + " | ".join([key, *(str(column[key]) for column in columns.values())]) + " |")


if __name__ == "__main__":
    main()
