"""What commands print about runs and parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from segue.distributed import join, meet
from segue.errors import SegueError
from segue.recipe import EvaluateStage, Paper, Recipe, load
from segue.recipe_files import shipped
from segue.report.tables import Reported, Row, Table, iou_table
from segue.stages import evaluate
from segue.stages.evaluate import FILE, Evaluation
from segue.tables import choose


def recipe_of(work_dir: Path) -> Recipe:
    """The recipe as it was resolved for a run.

    Raises:
        SegueError: the folder holds no run.
    """
    if not (work_dir / "recipe.yaml").is_file():
        raise SegueError("holds no run", where=work_dir, fix="give the work_dir of `segue run`")
    return load(work_dir / "recipe.yaml")


def evaluations(work_dir: Path) -> dict[str, Evaluation]:
    """The results of a run's evaluate stages, by stage."""
    stages = recipe_of(work_dir).stages
    return {
        name: Evaluation.read(work_dir / name / FILE)
        for name, stage in stages.items()
        if isinstance(stage, EvaluateStage)
    }


def evaluate_again(work_dir: Path, console: Console) -> None:
    """Scores a run's models once more, with the settings that it was run with.

    Raises:
        SegueError: nothing is trained yet, or the recipe has no evaluate stage.
    """
    recipe = recipe_of(work_dir)
    stages = {n: s for n, s in recipe.stages.items() if isinstance(s, EvaluateStage)}
    if not stages:
        raise SegueError("has no evaluate stage", where=work_dir, fix="add one to its recipe")
    world = join(recipe.device)
    for name, stage in stages.items():
        evaluate.run(recipe, name, stage, work_dir, world=world, console=console)
    # The others read what the leading process wrote.
    meet(world)


def row_of(name: str, results: list[Evaluation], protocol: str, paper: Paper | None = None) -> Row:
    """One method's line in a table, from its results over seeds."""
    iou = {label: [result.iou[label] for result in results] for label in results[0].classes}
    reported = None
    if paper is not None and paper.classes:
        reported = Reported(paper.classes, paper.reported.get(protocol))
    return Row(name, iou, [result.miou[protocol] for result in results], reported)


def compare(
    results: Mapping[str, list[Evaluation]], papers: Mapping[str, Paper | None] | None = None
) -> Table:
    """Methods side by side over the classes of the headline protocol, results by seed.

    Args:
        results: by method.
        papers: where a method is from; what is reported there by class gets a column.
    """
    first = next(iter(results.values()))[0]
    headline = next(iter(first.miou))
    scored = [first.classes[index] for index in first.protocols[headline]]
    known = papers or {}
    rows = [
        row_of(method, of_seeds, headline, known.get(method))
        for method, of_seeds in results.items()
    ]
    return iou_table(rows, protocol=headline, classes=scored)


def show_evaluations(work_dir: Path, console: Console) -> None:
    """Prints IoU by class and every mean with its protocol, the paper's own beside it."""
    recipe = recipe_of(work_dir)
    for name, result in evaluations(work_dir).items():
        _, *others = result.miou
        title = recipe.title or recipe.name
        table = compare({title: [result]}, {title: recipe.paper})
        console.print(table.to_rich(min(console.width, 80)))
        for protocol in others:
            value = 100 * result.miou[protocol]
            console.print(f"mIoU (protocol {protocol}) {value:.1f}", highlight=False)
        if recipe.paper and recipe.paper.reported:
            told = ", ".join(f"{v} (protocol {p})" for p, v in recipe.paper.reported.items())
            console.print(f"reported on its own data: {told}; {recipe.paper.title}", style="dim")
        console.print(f"{result.images} images; {work_dir / name / FILE}", style="dim")


def show_parts(what: str | None, console: Console) -> None:
    """Prints the names of parts with the first sentence of what each is.

    Raises:
        SegueError: there are no such parts.
    """
    from segue.datasets import DATASETS
    from segue.losses import LOSSES
    from segue.models import MODELS
    from segue.pseudo_labels import RULES
    from segue.stages import STAGES
    from segue.translation import TRANSLATIONS
    from segue.views import VIEWS

    listed: dict[str, Callable[[], Mapping[str, str]]] = {
        "recipes": lambda: {name: load(name).title for name in shipped()},
        "losses": lambda: sentences(LOSSES),
        "datasets": lambda: sentences(DATASETS),
        "models": lambda: sentences(MODELS),
        "stages": lambda: sentences(STAGES),
        "views": lambda: sentences(VIEWS),
        "translations": lambda: sentences(TRANSLATIONS),
        "rules": lambda: sentences(RULES),
    }
    chosen = listed if what is None else {what: choose(listed, what, where="list", what="list")}
    for title, parts in chosen.items():
        table = RichTable(title=title, title_justify="left", box=None, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, sentence in parts().items():
            table.add_row(name, sentence)
        console.print(table)
        console.print()


def sentences(table: Mapping[str, Any]) -> dict[str, str]:
    """The first line of each part's docstring."""
    return {name: (part.__doc__ or "").strip().splitlines()[0] for name, part in table.items()}


def versions() -> str:
    """Segue's and torch's versions, for a page."""
    return f"segue {metadata.version('segue')}, torch {metadata.version('torch')}"
