"""The command line. Heavy imports happen inside commands, so that help answers at once."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from segue.cli.analyse import analyse
from segue.cli.terminal import console, use
from segue.errors import SegueError
from segue.runtime import signals as stopping

app = typer.Typer(
    name="segue",
    help="Adapt a semantic segmentation network from labelled images to images without labels.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    result_callback=lambda *_, **__: leave_processes(),
)
app.add_typer(analyse, name="analyse", no_args_is_help=True)

RecipeName = Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings, as seed=1 or stages.train.iterations=200")
]
Pair = Annotated[
    str | None,
    typer.Option("--on", help="put a method on this pair of datasets: a shipped one, or a file"),
]
WorkDir = Annotated[Path, typer.Argument(help="the folder of a run")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="a Python file with parts of your own; its code is run"),
]
# Typer carries a click of its own and names this class nowhere.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


@app.command()
def demo(
    work_dir: Annotated[Path, typer.Option(help="where everything is written")] = Path("runs/demo"),
    system: Annotated[
        str | None,
        typer.Option(help="local-alignment, grouping, coarse-to-fine or category-adaptive"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds each method gets")] = 1,
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help="training length; 280, docs/results.md has 420"),
    ] = None,
) -> None:
    """Make two street worlds, train with and without adaptation, show a table and a page."""
    from segue.demo import demo as demonstration

    demonstration.run(
        work_dir,
        system=system,
        seeds=seeds,
        iterations=iterations or demonstration.ITERATIONS,
        console=console(),
    )


@app.command()
def run(
    recipe: RecipeName,
    settings: Overrides = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="where to; runs/<recipe name> unless given")
    ] = None,
    on: Pair = None,
    plugin: Plugins = None,
) -> None:
    """Run a recipe, or go on with it: the same command again continues exactly."""
    use(plugin)
    from segue.cli.listing import show_evaluations
    from segue.recipe import load
    from segue.running.run import run as run_recipe

    folder = run_recipe(load(recipe, settings or (), on=on), work_dir, console=console())
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
    submit: Annotated[
        str | None,
        typer.Option(help="make each run a job: slurm, or local to try it; needs segue\\[cluster]"),
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option(help="what a job asks for: timeout_min=600, slurm_partition=NAME, ..."),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Run a recipe once per value of a setting, and compare; stop and go on at will."""
    use(plugin)
    from segue.running.submit import Cluster
    from segue.running.sweep import sweep as run_sweep

    run_sweep(
        recipe,
        settings or (),
        ablation=ablation,
        seeds=seeds,
        work_dir=work_dir,
        cluster=Cluster.of(submit, job or ()),
        console=console(),
    )


@app.command()
def replay(
    work_dir: WorkDir,
    stage: Annotated[str | None, typer.Option(help="a train stage; the first unless given")] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="how many; two lines of metrics unless given")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Run a run's first iterations again, beside it, and tell whether they agree to the bit."""
    use(plugin)
    from segue.running.replay import replay as replay_run

    found = replay_run(work_dir, stage=stage, iterations=iterations, console=console())
    console().print(str(found), highlight=False, soft_wrap=True)
    if found.differences:
        raise typer.Exit(1)


@app.command()
def evaluate(work_dir: WorkDir, plugin: Plugins = None) -> None:
    """Score a finished run again on its validation data and print the table."""
    use(plugin)
    from segue.cli.listing import show_evaluations
    from segue.running.run import evaluate_again

    evaluate_again(work_dir, console())
    show_evaluations(work_dir, console())


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="a work_dir, or a model.safetensors")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="image and video files, folders, patterns as 'frames/**/*.jpg', camera:0, an "
            "address of a stream; - takes images that are piped in",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="where everything goes")],
    overlay: Annotated[
        bool, typer.Option("--overlay", help="also write colours laid over the image")
    ] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="also write probabilities, 255 stands for 1")
    ] = False,
    submission: Annotated[
        str | None,
        typer.Option(help="cityscapes or acdc: write what that server takes, and no labels"),
    ] = None,
    frames: Annotated[
        bool, typer.Option("--frames", help="of videos write PNGs of each frame, and no video")
    ] = False,
    policy: Annotated[
        str | None,
        typer.Option(help="scaled or sliding (full resolution); the model's own unless given"),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="images, or windows, that the network sees at once")
    ] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="go on: leave out what is written already")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Write labels and colours for images, and an overlay video for videos and cameras."""
    use(plugin)
    from segue import load
    from segue.predicting import kinds, tell
    from segue.predicting import predict as predict_images
    from segue.runtime.processes import join

    write = kinds(overlay=overlay, confidence=confidence, submission=submission)
    world, shown = join(device), console()
    models = load(model, world.device)
    try:
        written = predict_images(
            models if policy is None else models.looking(policy),
            images,
            output,
            write=write,
            frames=frames,
            batch=batch,
            resume=resume,
            world=world,
            console=shown,
        )
    except stopping.Stopped as stopped:
        if resume:
            raise
        command = "the same command with --resume"
        raise stopping.Stopped(stopped.number, command=command) from None
    shown.print(tell(written, output), highlight=False, soft_wrap=True)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="a work_dir, or a model.safetensors")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the export")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="also an ONNX file; needs segue\\[export]")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="upload it to this Hugging Face repository, private if new; needs segue\\[hub]",
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Write a model as a folder for others: weights, description, model card, ONNX."""
    use(plugin)
    from segue.exporting import export as export_model

    export_model(model, output, onnx=onnx, push=push, console=console())


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(help="a work_dir, an export, or a model.safetensors")],
    before: Annotated[
        Path | None, typer.Option(help="a model to compare it with, as one that was not adapted")
    ] = None,
    host: Annotated[
        str, typer.Option(help="where to listen; other machines reach 0.0.0.0 too")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free")] = 8000,
    megabytes: Annotated[float, typer.Option(min=0.001, help="of an upload, at most")] = 20,
    megapixels: Annotated[float, typer.Option(min=0.001, help="of an image, at most")] = 25,
    waiting: Annotated[int, typer.Option(min=1, help="images at once, at most")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    plugin: Plugins = None,
) -> None:
    """Serve a page where one drops an image and sees its labels; needs segue\\[serve]."""
    use(plugin)
    from segue.serving import serve as serve_page

    serve_page(
        model,
        before=before,
        host=host,
        port=port,
        device=device,
        megabytes=megabytes,
        megapixels=megapixels,
        waiting=waiting,
        console=console(),
    )


@app.command()
def report(
    work_dirs: Annotated[list[Path], typer.Argument(help="folders of finished runs")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the page")] = Path("report.html"),
    before: Annotated[
        Path | None,
        typer.Option(
            help="a work_dir, one of its stages or a model.safetensors to compare with; unless "
            "given the first of several runs, or a lone run's first training"
        ),
    ] = None,
    panels: Annotated[int, typer.Option(min=0, help="images shown; 0 opens no image")] = 20,
    rule: Annotated[
        str, typer.Option(help="which images: random, worst (needs labels) or most-changed")
    ] = "random",
    seed: Annotated[int, typer.Option(min=0, help="of --rule random")] = 0,
    plugin: Plugins = None,
) -> None:
    """Write one page on runs: pictures with sliders, IoU, confusion, entropy, curves, cost."""
    use(plugin)
    from segue.report.making import Shown
    from segue.report.making import report as report_runs

    report_runs(work_dirs, output, Shown(panels, rule, seed, before), console=console())
    size = output.stat().st_size / 1e6
    console().print(f"{output}, {size:.1f} MB", highlight=False, soft_wrap=True)


@app.command()
def check(
    recipe: RecipeName,
    settings: Overrides = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="look at only so many images of each dataset")
    ] = None,
    fit: Annotated[
        bool,
        typer.Option("--fit", help="instead measure memory and time of a step; needs no data"),
    ] = False,
    on: Pair = None,
    plugin: Plugins = None,
) -> None:
    """Look at files, pairs, sizes, ids, classes and weights before an hour of GPU is spent."""
    use(plugin)
    from segue.checking import check as check_recipe
    from segue.checking.fit import fit as measure
    from segue.recipe import load

    whole = load(recipe, settings or (), on=on)
    report = (
        measure(whole, console=console())
        if fit
        else check_recipe(whole, sample=sample, console=console())
    )
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
    plugin: Plugins = None,
) -> None:
    """Name the recipes, and the parts of which recipes are made."""
    use(plugin)
    from segue.cli.listing import show_parts

    show_parts(what, console())


def leave_processes() -> None:
    """Takes leave of the other processes when a command has ended well."""
    # Whoever has not loaded it has not joined any.
    distributed = sys.modules.get("segue.runtime.processes")
    if distributed is not None:
        distributed.leave()


def tell_usage(error: Any) -> int:
    """Tells what is wrong with a command line; returns the exit code."""
    message = error.format_message().rstrip(".")
    if message:  # none: help was asked for by giving no command, and shown
        command = error.ctx.command_path if error.ctx is not None else "segue"
        fix = f"`{command} --help` names what there is"
        where = None if command == "segue" else command
        print(f"segue: {SegueError(message, where=where, fix=fix)}", file=sys.stderr)
    return int(error.exit_code)


def share_cores() -> None:
    """Lets threads that wait for work go to sleep soon, unless the environment says how they wait.

    OpenMP reads it once, when torch is loaded, which no command has done yet. As it is, they spin
    for milliseconds: of trainings that share cores each then took seven times the CPU time (20
    processes on 4 cores; 1.4 times with this). Without any spinning a lone training loses a tenth.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        # The second is for GNU's OpenMP, which comes with torch on Linux; it wins there.
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a user's mistake is one line on stderr and exit code 1 (2: usage)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text
            stream.reconfigure(errors="backslashreplace")
    share_cores()
    rank = os.environ.get("RANK", "0")
    speaker = "segue" if rank == "0" else f"segue, process {rank}"
    try:
        with stopping.listening():
            code = app(args=arguments, prog_name="segue", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UsageError as error:
        sys.exit(tell_usage(error))
    except stopping.Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(f"segue: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except SegueError as error:
        print(f"{speaker}: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        told = f"{where}{error.strerror or error}; mend it, then the same command goes on"
        print(f"{speaker}: {told}", file=sys.stderr)
        sys.exit(1)
