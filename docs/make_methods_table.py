"""Writes the tables of docs/methods.md from the recipes and the docstrings of the code."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from segue.losses import LOSSES
from segue.models.grouping_fit import GROUPINGS
from segue.pseudo_labels import RULES
from segue.recipe import load
from segue.recipe.files import shipped
from segue.recipe.recipe import Recipe, TrainStage
from segue.stages import STAGES
from segue.translation import TRANSLATIONS
from segue.views import VIEWS

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PAGE = DOCS / "methods.md"
TOLD = re.compile(
    r"\([A-Z]+ (19|20)\d\d\)|\b(19|20)\d\d\b.*?\b(equations?|section|figure|table) \d"
)
DIFFERS = re.compile(r"^Differs: (.*?)(?=\n\n|\nDiffers: |\Z)", re.MULTILINE | re.DOTALL)
END = "<!-- end -->"


def rewritten(page: str) -> str:
    """The page with every table made anew."""
    for name, make in TABLES.items():
        start = f"<!-- table: {name} -->\n"
        before, rest = page.split(start)
        page = before + start + make() + END + rest.split(END, 1)[1]
    return page


def reported() -> str:
    """Recipes with a number in a paper."""
    rows = []
    for recipe in map(load, shipped()):
        if recipe.paper is None:
            continue
        paper = recipe.paper
        numbers = ", ".join(f"{value} ({name})" for name, value in paper.reported.items())
        source = f"{paper.title}, {paper.venue}, {paper.where}"
        rows.append((recipe.title, f"`{recipe.name}`", source, numbers, ours(recipe.name)))
    return markdown(("method", "recipe", "reported in", "mIoU (protocol)", "ours"), rows)


def small() -> str:
    """Recipes without one."""
    rows = [
        (recipe.title, f"`{recipe.name}`", kinds(recipe), ours(recipe.name))
        for recipe in map(load, shipped())
        if recipe.paper is None
    ]
    return markdown(("method", "recipe", "losses", "ours"), rows)


def kinds(recipe: Recipe) -> str:
    """The kinds of all terms of a recipe."""
    stages = [stage for stage in recipe.stages.values() if isinstance(stage, TrainStage)]
    found = dict.fromkeys(term.kind for stage in stages for term in stage.terms.values())
    return ", ".join(f"`{kind}`" for kind in found)


def ours(name: str) -> str:
    """Our figure of docs/results.md with its spread, where the recipe was run there."""
    told = re.search(rf"\(`{name}`\) \| ([^|]+) \|", (DOCS / "results.md").read_text())
    return f"[{told[1]}](results.md)" if told else "–"  # noqa: RUF001


def losses() -> str:
    """Every kind of loss with what it is and its file."""
    return markdown(("kind", "what it is", "file"), described(LOSSES))


def parts() -> str:
    """Every kind of part that is no loss, with what it is and its file."""
    tables: dict[str, Mapping[str, Callable[..., Any]]] = {
        "view": VIEWS,
        "translation": TRANSLATIONS,
        "pseudo-label rule": RULES,
        "grouping": GROUPINGS,
        "stage": STAGES,
    }
    rows = [(part, *row) for part, table in tables.items() for row in described(table)]
    return markdown(("part", "kind", "what it is", "file"), rows)


def described(table: Mapping[str, Callable[..., Any]]) -> list[tuple[str, str, str]]:
    """Kind, first sentence and file of every part of a table."""
    rows = []
    for kind, part in table.items():
        file = Path(inspect.getfile(part)).resolve().relative_to(ROOT)
        rows.append((f"`{kind}`", paragraphs(inspect.getdoc(part) or "")[0], link(file)))
    return rows


def equations() -> str:
    """Every docstring that cites a paper."""
    rows = []
    for file, name, docstring in docstrings():
        cited = [text for text in paragraphs(DIFFERS.sub("", docstring)) if TOLD.search(text)]
        rows += [(f"`{name}`", citation(text), link(file)) for text in cited]
    return markdown(("what", "paper", "file"), rows)


def differs() -> str:
    """Every deviation from a paper with its file."""
    return "".join(
        f"- `{name}`, {link(file)}: {' '.join(text.split())}\n"
        for file, name, docstring in [*docstrings(), *comments()]
        for text in DIFFERS.findall(docstring)
    )


def comments() -> list[tuple[Path, str, str]]:
    """File, name and each block of comments of every method, pair and fragment."""
    found = []
    for path in sorted((ROOT / "src" / "segue" / "recipes").rglob("*.yaml")):
        lines = [line.strip() for line in path.read_text().splitlines()]
        for comment, block in groupby(lines, key=lambda line: line.startswith("#")):
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in block)
            if comment:
                found.append((path.relative_to(ROOT), path.stem, text))
    return found


def docstrings() -> list[tuple[Path, str, str]]:
    """File, name and docstring of every module, class and function.

    A name that several files have stands with its file's.
    """
    found = []
    for path in sorted((ROOT / "src" / "segue").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                name, docstring = getattr(node, "name", path.stem), ast.get_docstring(node) or ""
                found.append((path.relative_to(ROOT), name, docstring))
    files = Counter(name for _, name in {(file, name) for file, name, _ in found})
    return [
        (file, f"{file.stem}.{name}" if files[name] > 1 and name != file.stem else name, docstring)
        for file, name, docstring in found
    ]


def paragraphs(docstring: str) -> list[str]:
    """Paragraphs before the arguments, each on one line."""
    prose = re.split(r"^(?:Args|Returns|Raises|Example):", docstring, flags=re.MULTILINE)[0]
    return [" ".join(text.split()) for text in prose.split("\n\n") if text.strip()]


def citation(text: str) -> str:
    """A paragraph up to the end of the last sentence that cites; `et al.` ends none."""
    *_, cited = TOLD.finditer(text)
    end = re.compile(r"(?<! al)\.(?: |$)").search(text, cited.end())
    return text[: end.start()] if end else text


def link(file: Path) -> str:
    """A link from the page to a file of the repository."""
    return f"[{file.relative_to('src/segue')}](../{file})"


def markdown(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table."""
    escaped = [tuple(cell.replace("|", r"\|") for cell in row) for row in rows]
    lines = [header, ("---",) * len(header), *escaped]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


TABLES: dict[str, Callable[[], str]] = {
    "reported": reported,
    "small": small,
    "losses": losses,
    "parts": parts,
    "equations": equations,
    "differs": differs,
}

if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
