"""The command line. Heavy imports happen inside commands, so that help answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segue.errors import SegueError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="segue",
    help="Adapt a semantic segmentation network from labelled images to images without labels.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
analyse = typer.Typer(help="Answer one question about data or runs: a figure and its numbers.")
app.add_typer(analyse, name="analyse", no_args_is_help=True)

RecipeName = Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings, as seed=1 or stages.train.iterations=200")
]
WorkDir = Annotated[Path, typer.Argument(help="the folder of a run")]


@app.command()
def demo(
    work_dir: Annotated[Path, typer.Option(help="where everything is written")] = Path("runs/demo"),
    system: Annotated[
        str | None,
        typer.Option(help="local-alignment, grouping, coarse-to-fine or category-adaptive"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds each method gets")] = 1,
    iterations: Annotated[int | None, typer.Option(min=1, help="training length")] = None,
) -> None:
    """Make two street worlds, train with and without adaptation, show a table and a page."""
    from segue import demonstration

    demonstration.run(
        work_dir,
        system=system or demonstration.DEFAULT,
        seeds=seeds,
        iterations=iterations,
        console=console(),
    )


@app.command()
def run(
    recipe: RecipeName,
    settings: Overrides = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="where to; runs/<recipe name> unless given")
    ] = None,
) -> None:
    """Run a recipe, or go on with it: the same command again continues exactly."""
    from segue.recipe import load
    from segue.running import run as run_recipe
    from segue.showing import show_evaluations

    folder = run_recipe(load(recipe, settings or ()), work_dir, console=console())
    show_evaluations(folder, console())


@app.command()
def sweep(
    recipe: RecipeName,
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="key=value as for run; key=\\[a,b,c] tries each value in turn"),
    ] = None,
    ablation: Annotated[
        str | None, typer.Option(help="run the rows of this table of the recipe's paper")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds each gets")] = 1,
    work_dir: Annotated[
        Path | None, typer.Option(help="where to; runs/sweep-<recipe> unless given")
    ] = None,
) -> None:
    """Run a recipe once per value of a setting, and compare; stop and go on at will."""
    from segue.sweeping import sweep as run_sweep

    run_sweep(
        recipe,
        settings or (),
        ablation=ablation,
        seeds=seeds,
        work_dir=work_dir,
        console=console(),
    )


@app.command()
def evaluate(work_dir: WorkDir) -> None:
    """Score a finished run again on its validation data and print the table."""
    from segue.showing import evaluate_again, show_evaluations

    evaluate_again(work_dir, console())
    show_evaluations(work_dir, console())


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="a work_dir, or a model.safetensors")],
    images: Annotated[list[Path], typer.Argument(help="image files or folders")],
    output: Annotated[Path, typer.Option("--output", "-o", help="where the PNGs go")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="leave out images that are labelled already")
    ] = False,
) -> None:
    """Write a label PNG and a colour PNG for every image."""
    from segue import load
    from segue.distributed import join
    from segue.predicting import predict as predict_images

    models = load(model, join(device).device)
    written = predict_images(models, images, output, resume=resume, console=console())
    console().print(f"{len(written)} images labelled in {output}", highlight=False)


@app.command()
def check(
    recipe: RecipeName,
    settings: Overrides = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="look at only so many images of each dataset")
    ] = None,
) -> None:
    """Look at files, pairs, sizes, ids, classes and weights before an hour of GPU is spent."""
    from segue.checking import check as check_recipe
    from segue.recipe import load

    report = check_recipe(load(recipe, settings or ()), sample=sample, console=console())
    console().print(report.to_rich())
    if report.problems:
        raise typer.Exit(1)


@app.command(name="list")
def list_parts(
    what: Annotated[
        str | None,
        typer.Argument(
            help="recipes, losses, datasets, models, stages, views, translations or rules (of "
            "pseudo-labels); all unless given"
        ),
    ] = None,
) -> None:
    """Name the recipes, and the parts of which recipes are made."""
    from segue.showing import show_parts

    show_parts(what, console())


@analyse.command(name="layout-shift")
def layout_shift(
    recipe: RecipeName,
    settings: Overrides = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder for figure and numbers")
    ] = Path("runs/layout-shift"),
    source: Annotated[str, typer.Option(help="labelled dataset of the recipe")] = "source",
    target: Annotated[str, typer.Option(help="labelled dataset of the recipe")] = "validation",
    size: Annotated[tuple[int, int], typer.Option(help="width and height of the maps")] = (
        1024,
        512,
    ),
    patches: Annotated[
        str, typer.Option(help="patch sides in pixels of the map, and `whole`")
    ] = "32,64,128,256,512,whole",
    iterations: Annotated[int, typer.Option(min=1)] = 3000,
    every: Annotated[int, typer.Option(min=1, help="validate so often")] = 100,
    runs: Annotated[int, typer.Option(min=1)] = 3,
    validation: Annotated[
        int, typer.Option(min=1, help="maps of each set that are kept for validation")
    ] = 500,
    mask_void: Annotated[
        bool, typer.Option(help="hide in each patch what the other domain's void would hide")
    ] = True,
) -> None:
    """Tell how far two sets' layouts differ, by patch size (local alignment, figure 1)."""
    from segue.analysis.layout_shift_command import run as run_layout_shift

    run_layout_shift(
        recipe,
        settings or [],
        output,
        source=source,
        target=target,
        size=size,
        patches=patches,
        iterations=iterations,
        every=every,
        runs=runs,
        validation=validation,
        mask_void=mask_void,
        console=console(),
    )


def console() -> Console:
    """Where people read: as wide as the terminal, and silent in all processes but the first."""
    from rich.console import Console

    wide = sys.stdout.isatty()
    follows = os.environ.get("RANK", "0") != "0"
    return Console(width=None if wide else 100, quiet=follows)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a user's mistake is one line on stderr and exit code 1."""
    try:
        app(args=arguments)
    except SegueError as error:
        print(f"segue: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        told = f"{where}{error.strerror or error}; mend it, then the same command goes on"
        print(f"segue: {told}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("segue: stopped; the same command again goes on", file=sys.stderr)
        sys.exit(130)
