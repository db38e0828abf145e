"""The commands of `segue analyse`: one question each, about data or about finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segue.cli.terminal import console, use

analyse = typer.Typer(help="Answer one question about data or runs: a figure and its numbers.")

RecipeName = Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings, as seed=1 or stages.train.iterations=200")
]
WorkDir = Annotated[Path, typer.Argument(help="the folder of a finished run")]
WorkDirs = Annotated[list[Path], typer.Argument(help="folders of finished runs")]
Output = Annotated[Path, typer.Option("--output", "-o", help="folder for figure and numbers")]
Data = Annotated[
    str | None, typer.Option(help="dataset of the recipe; what the run is scored on unless given")
]
Shown = Annotated[int, typer.Option(min=1, help="images in the figure")]
Images = Annotated[int, typer.Option(min=1, help="images to measure on, evenly spread")]
Source = Annotated[str, typer.Option(help="dataset of the recipe that is the source")]
Target = Annotated[str, typer.Option(help="dataset of the recipe that is the target")]
SweepOf = Annotated[Path, typer.Argument(help="what `segue sweep` left, or its sweep.csv")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="a Python file with parts of your own; its code is run"),
]
LEFT = Path("runs/analyses")


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
    plugin: Plugins = None,
) -> None:
    """Tell how far two sets' layouts differ, by patch size (local alignment, figure 1)."""
    use(plugin)
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


@analyse.command()
def entropy(
    work_dirs: WorkDirs,
    output: Output = LEFT,
    data: Data = None,
    images: Images = 50,
    shown: Shown = 3,
    plugin: Plugins = None,
) -> None:
    """Show where runs are unsure, and for which classes (local alignment, figure 6)."""
    use(plugin)
    from segue.analysis.entropy import run

    run(work_dirs, output, data=data, count=images, shown=shown, console=console())


@analyse.command()
def confusion(work_dirs: WorkDirs, output: Output = LEFT, plugin: Plugins = None) -> None:
    """Show which classes are taken for which, in log scale (local alignment, figure 7)."""
    use(plugin)
    from segue.analysis.confusion import run

    run(work_dirs, output, console=console())


@analyse.command()
def kept(work_dirs: WorkDirs, output: Output = LEFT, plugin: Plugins = None) -> None:
    """Compare what pseudo-label rules keep and how right it is, round by round."""
    use(plugin)
    from segue.analysis.pseudo_labels import run

    run(work_dirs, output, console=console())


@analyse.command(name="k-sweep")
def k_sweep(sweep: SweepOf, output: Output = LEFT) -> None:
    """Draw the score over the number of groups (cross-domain grouping, figure 6)."""
    from segue.analysis.sweep_curve import run

    axis = "groups (K)"
    run(sweep, output, name="k_sweep", setting="groups", axis=axis, console=console())


@analyse.command(name="patch-sweep")
def patch_sweep(sweep: SweepOf, output: Output = LEFT) -> None:
    """Draw the score over the size of aligned patches (local alignment, figure 8)."""
    from segue.analysis.sweep_curve import run

    axis = "side of the patch, pixels"
    run(sweep, output, name="patch_sweep", setting="patch", axis=axis, console=console())


@analyse.command()
def translations(
    work_dir: WorkDir,
    output: Output = LEFT,
    source: Source = "source",
    target: Target = "target",
    shown: Shown = 3,
    plugin: Plugins = None,
) -> None:
    """Show source images by photometry, Fourier and CycleGAN (coarse-to-fine, figure 5)."""
    use(plugin)
    from segue.analysis.translations import run

    run(work_dir, output, source=source, target=target, count=shown, console=console())


@analyse.command()
def centres(
    work_dir: WorkDir,
    output: Output = LEFT,
    feature: Annotated[
        str, typer.Option(help="whose centres, where no stage of the run says")
    ] = "layer4",
    plugin: Plugins = None,
) -> None:
    """Compare distances of class centres before and after the triplet (coarse-to-fine)."""
    use(plugin)
    from segue.analysis.centres import run

    run(work_dir, output, feature=feature, console=console())


@analyse.command()
def groups(
    work_dir: WorkDir,
    output: Output = LEFT,
    source: Source = "source",
    target: Target = "target",
    shown: Annotated[int, typer.Option(min=1, help="images of each domain")] = 2,
    plugin: Plugins = None,
) -> None:
    """Show what each group of a grouping network holds (cross-domain grouping, figure 3)."""
    use(plugin)
    from segue.analysis.group_maps import run

    run(work_dir, output, source=source, target=target, count=shown, console=console())


@analyse.command(name="grouping-kinds")
def grouping_kinds(
    work_dir: WorkDir,
    output: Output = LEFT,
    source: Source = "source",
    target: Target = "target",
    images: Images = 20,
    plugin: Plugins = None,
) -> None:
    """Compare learnt groups with k-means and DFF over training (cross-domain grouping, fig. 4)."""
    use(plugin)
    from segue.analysis.grouping_kinds import run

    run(work_dir, output, source=source, target=target, count=images, console=console())


@analyse.command()
def tsne(
    work_dirs: WorkDirs,
    output: Output = LEFT,
    source: Source = "source",
    data: Data = None,
    images: Images = 20,
    pixels: Annotated[int, typer.Option(min=10, help="of each domain")] = 600,
    plugin: Plugins = None,
) -> None:
    """Map output probabilities by class and domain (cross-domain grouping, figure 5)."""
    use(plugin)
    from segue.analysis.tsne import run

    run(
        work_dirs,
        output,
        source=source,
        data=data,
        count=images,
        pixels=pixels,
        console=console(),
    )
