"""What commands print about runs and parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from segue.inference.evaluation import FILE
from segue.parts import choose
from segue.recipe import load
from segue.recipe.files import shipped
from segue.recipe.recipe import EvaluateStage, PseudoLabelStage, Recipe
from segue.report.iou_table import compare
from segue.work_dir import evaluations, recipe_of


def show_evaluations(work_dir: Path, console: Console) -> None:
    """Prints IoU by class and every mean with its protocol, the paper's own beside it.

    Of models that rounds go on from, which earlier stages scored, the means alone.
    """
    recipe = recipe_of(work_dir)
    for name, result in evaluations(work_dir).items():
        _, *others = result.miou
        stage = recipe.stages[name]
        assert isinstance(stage, EvaluateStage)
        if name in passing(recipe):
            means = ", ".join(f"{100 * value:.1f} ({one})" for one, value in result.miou.items())
            models = ", ".join(stage.models)
            console.print(f"{models}: mIoU (protocol) {means}", highlight=False)
            continue
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


def passing(recipe: Recipe) -> set[str]:
    """Evaluate stages whose models a later stage goes on from, or takes pseudo-labels of.

    Example:
        >>> sorted(passing(load("bdl-demo")))
        ['evaluate_previous_1', 'evaluate_previous_2']
    """
    found, seen = set(), set[str]()
    for name, stage in reversed(recipe.stages.items()):
        match stage:
            case EvaluateStage() if seen & set(stage.models):
                found.add(name)
            case PseudoLabelStage():
                seen |= set(stage.models)
    return found


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
