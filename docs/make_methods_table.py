"""Writes the tables of docs/methods.md from the recipes and the docstrings of the code."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from segue.losses import LOSSES
from segue.recipe import Recipe, TrainStage, load
from segue.recipe_files import shipped

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PAGE = DOCS / "methods.md"
TOLD = re.compile(r"\b(19|20)\d\d\b.*?\b(equations?|section|figure) \d")
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
    """A link where docs/results.md speaks of the recipe."""
    results = DOCS / "results.md"
    told = results.is_file() and re.search(rf"(?<![\w-]){name}(?![\w-])", results.read_text())
    return "[results](results.md)" if told else "–"  # noqa: RUF001


def losses() -> str:
    """Every kind of loss with what it is and its file."""
    rows = []
    for kind, loss in LOSSES.items():
        file = Path(inspect.getfile(loss)).resolve().relative_to(ROOT)
        rows.append((f"`{kind}`", paragraphs(inspect.getdoc(loss) or "")[0], link(file)))
    return markdown(("kind", "what it is", "file"), rows)


def equations() -> str:
    """Every docstring that cites an equation, a section or a figure."""
    rows = []
    for file, name, docstring in docstrings():
        cited = [text for text in paragraphs(docstring) if TOLD.search(text)]
        rows += [(f"`{name}`", sentence(text), link(file)) for text in cited]
    return markdown(("what", "paper", "file"), rows)


def differs() -> str:
    """Every deviation from a paper with its file."""
    return "".join(
        f"- `{name}`, {link(file)}: {' '.join(text.split())}\n"
        for file, name, docstring in docstrings()
        for text in DIFFERS.findall(docstring)
    )


def docstrings() -> Iterator[tuple[Path, str, str]]:
    """File, name and docstring of every module, class and function."""
    for path in sorted((ROOT / "src" / "segue").rglob("*.py")):
        file = path.relative_to(ROOT)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield file, getattr(node, "name", path.stem), ast.get_docstring(node) or ""


def paragraphs(docstring: str) -> list[str]:
    """Paragraphs before the arguments, each on one line."""
    prose = re.split(r"^(?:Args|Returns|Raises|Example):", docstring, flags=re.MULTILINE)[0]
    return [" ".join(text.split()) for text in prose.split("\n\n") if text.strip()]


def sentence(text: str) -> str:
    """A paragraph up to the end of the sentence that cites; periods of `et al.` end none."""
    cited = TOLD.search(text)
    assert cited
    end = re.compile(r"(?<! al)\.(?: |$)").search(text, cited.end())
    return text[: end.start()] if end else text


def link(file: Path) -> str:
    """A link from the page to a file of the repository."""
    return f"[{file.relative_to('src/segue')}](../{file})"


def markdown(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


TABLES: dict[str, Callable[[], str]] = {
    "reported": reported,
    "small": small,
    "losses": losses,
    "equations": equations,
    "differs": differs,
}

if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
