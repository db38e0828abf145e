"""Builds what a recipe's stages need, and runs it on tensors that have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

import huggingface_hub.constants
import torch

from segue.batch import Batch
from segue.checking.report import Report, told
from segue.datasets.augmentation import AUGMENTATIONS, augment
from segue.errors import SegueError
from segue.models import Segmenter
from segue.models.weights import load_weights
from segue.parts import build, split_kind
from segue.recipe import build as assembly
from segue.recipe.recipe import (
    CentresStage,
    EvaluateStage,
    GroupsStage,
    NetworkSettings,
    PseudoLabelStage,
    Recipe,
    Role,
    TrainStage,
    TranslateStage,
)
from segue.recipe.schema import Made, Part
from segue.runtime.processes import World
from segue.stages import train
from segue.training.networks import Network, Networks
from segue.training.step import Step, View

META = torch.device("meta")
DRAWS = 8  # how often chance is tried for the sizes that it leaves


def check_train(
    recipe: Recipe,
    name: str,
    stage: TrainStage,
    trained: Mapping[str, Networks],
    lengths: Mapping[str, int],
    world: World,
    report: Report,
) -> Networks:
    """Builds a train stage's networks as training does and runs its terms on shapes alone."""
    where = f"stages.{name}"
    images = stage.batch_size * stage.accumulate * world.size
    roles = [role for role in (stage.source, stage.target) if role is not None]
    epochs = [
        f"{stage.iterations * images / lengths[role.data]:.3g} epochs of {role.data}"
        for role in roles
        if role.data in lengths
    ]
    split = f" ({stage.batch_size} at once)" if images > stage.batch_size else ""
    rows = [
        ("batch", f"{images}{split} of {' and of '.join(role.data for role in roles)}"),
        ("length", ", ".join((f"{stage.iterations} iterations", *epochs))),
    ]
    table: dict[str, Network] = {}
    for key, settings in stage.networks.items():
        network, weights = build_network(recipe, stage, settings, f"{where}.networks.{key}", report)
        if network is not None:
            table[key] = network
            rows.append((key, _described(settings, network, weights)))
    report.sections.append((f"{where} (train)", tuple(rows)))
    networks = Networks(table)
    if len(table) < len(stage.networks):
        return networks
    _check_load_from(recipe, stage, networks, trained, where, report)
    for module in networks.values():
        module.to(META)
    _check_terms(recipe, stage, networks, where, report)
    return networks


def _described(settings: NetworkSettings, network: Network, weights: str) -> str:
    if isinstance(network.module, Segmenter):
        return f"{network.module.describe()}, weights: {weights}"
    count = sum(parameter.numel() for parameter in network.module.parameters())
    return f"{settings.kind}, {count / 1e6:.1f} M parameters"


def build_network(
    recipe: Recipe, stage: TrainStage, settings: NetworkSettings, where: str, report: Report
) -> tuple[Network | None, str]:
    """A network as training builds it, or else without its weights; and where those come from."""
    weights = settings.arguments.get("weights")
    from_hub = weights == "hub"
    try:
        with _offline() if from_hub else nullcontext():
            whole = assembly.network(recipe, stage, settings, where=where)
    except SegueError as error:
        # Not the error itself: with its frames it would keep a half-built network from being freed.
        reason = told(where, error)
    else:
        return whole, ("hub, in its cache" if from_hub else str(weights or "random"))
    bare: Network | None = None
    if weights is not None:
        without = settings.model_copy(update={"weights": None})
        try:
            bare = assembly.network(recipe, stage, without, where=where)
        except SegueError as error:
            reason = told(where, error)
    if bare is None or not from_hub:
        report.problems.append(reason)
        return bare, f"{weights}, which does not load"
    report.warnings.append(f"{where}: the hub's weights are not here yet and will be downloaded")
    return bare, "hub, to be downloaded"


@contextmanager
def _offline() -> Iterator[None]:
    """The hub answers from its cache alone."""
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = before


def _check_load_from(
    recipe: Recipe,
    stage: TrainStage,
    networks: Networks,
    trained: Mapping[str, Networks],
    where: str,
    report: Report,
) -> None:
    """Whether what networks are filled from fits them, as far as it is there before a run."""
    for name, settings in stage.networks.items():
        if settings.load_from is None or name not in networks:
            continue
        place = f"{where}.networks.{name}.load_from"
        earlier, _, other = settings.load_from.partition("/")
        if earlier not in recipe.stages:
            try:
                path = train.weights_file(settings.load_from, name, Path(), where=place)
                load_weights(networks[name], path, minimum=1.0)
            except SegueError as error:
                report.problems.append(told(place, error))
            continue
        # A stage that does not train leaves what a look at shapes cannot tell.
        one: torch.nn.Module | None = networks[name]
        left = recipe.stages[earlier]
        kept: list[str] = []
        if isinstance(left, TrainStage):
            kept = [key for key, made in left.networks.items() if made.optimiser is not None]
            one = trained[earlier].get(other or name) if (other or name) in kept else None
        if one is None:
            fix = f"it trains: {', '.join(kept)}"
            absent = SegueError(f"stage {earlier} has no {other or name}", where=place, fix=fix)
            report.problems.append(str(absent))
        elif _shapes(one) != _shapes(networks[name]):
            fix = "give both stages the same network"
            differs = SegueError(f"stage {earlier} trains another network", where=place, fix=fix)
            report.problems.append(str(differs))


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _check_terms(
    recipe: Recipe, stage: TrainStage, networks: Networks, where: str, report: Report
) -> None:
    """Runs every term once."""
    shapes = {}
    for name, role in (("source", stage.source), ("target", stage.target)):
        if role is not None:
            place = f"{where}.{name}"
            sizes = shown_sizes(role, place)
            _check_crop(role, sizes, stage.batch_size, place, report)
            shapes[name] = sizes[0]
    try:
        terms = assembly.terms(stage.terms, where=f"{where}.terms")
        train.check_names(networks, train.terms_trained(terms), where=f"{where}.terms")
        views = assembly.views(stage.views, where=f"{where}.views")
        assembly.phases(terms, stage.phases, views, where=f"{where}.phases")
    except SegueError as error:
        report.problems.append(str(error))
        return
    count, faults = stage.batch_size, dict[str, str]()
    labelled = labelled_roles(recipe, stage)
    blank = {
        name: Batch(
            torch.zeros(count, 3, *size),
            torch.zeros(count, *size, dtype=torch.int64) if name in labelled else None,
        )
        for name, size in shapes.items()
    }
    batches = {name: batch.to(META) for name, batch in _viewed(blank, views).items()}
    networks.train()
    step = Step(batches, networks, iteration=0, views=views, seed=recipe.seed)
    for one in terms:
        fault = _fault(partial(one.term, step))
        if fault:  # a network that fails does so for every term
            faults.setdefault(fault, f"{where}.terms.{one.name.split('/')[0]}")
    report.problems += [told(place, fault) for fault, place in faults.items()]


def _viewed(batches: dict[str, Batch], views: Mapping[str, View]) -> dict[str, Batch]:
    """Batches with the views that no network makes: changes of images need values, not shapes."""
    step, found = Step(batches, {}, iteration=0, views=views), dict(batches)
    for name in views:
        with suppress(KeyError):
            found[name] = step.view(name)
    return found


def _fault(attempt: Callable[[], object]) -> str:
    """What keeps a computation on shapes from running, nothing where that cannot be told."""
    try:
        with torch.no_grad():
            attempt()
    except SegueError as error:
        return str(error)
    except KeyError as error:
        return f"asks for {error}, which is not there; check the names of views, heads and networks"
    except NotImplementedError:
        return ""  # an operation that has no rule for shapes alone
    except (RuntimeError, ValueError, AssertionError) as error:
        text = " ".join(str(error).split())
        return "" if "meta" in text else f"does not run ({text}); try another `size`"
    return ""


def labelled_roles(recipe: Recipe, stage: TrainStage) -> set[str]:
    """Those whose labels training reads: the source, and a target that a stage labelled."""
    target = stage.target is not None and assembly.pseudo_labelled(recipe, stage.target.data)
    return {"source", "target"} if target else {"source"}


def shown_sizes(role: Role, where: str) -> list[tuple[int, int]]:
    """Heights and widths that augmentation leaves, from the smallest on; several if by chance."""
    width, height = role.size
    changes = [
        build(AUGMENTATIONS, part, where=f"{where}.augment", what="augmentation")
        for part in role.augment
    ]
    blank = torch.zeros(3, height, width, dtype=torch.uint8)
    shown = [augment(blank, None, changes, seed)[0].shape for seed in range(DRAWS)]
    return sorted({(int(shape[1]), int(shape[2])) for shape in shown})


def _check_crop(
    role: Role, sizes: list[tuple[int, int]], batch_size: int, where: str, report: Report
) -> None:
    """Whether images of a batch have one size, and crops fit the images."""
    if len(sizes) > 1 and batch_size > 1:
        fix = "let `random_crop` be the last of `augment`"
        error = SegueError("images of one batch differ in size", where=where, fix=fix)
        report.problems.append(str(error))
    parts = [split_kind(part, where=where) for part in role.augment]
    kinds = [kind for kind, _ in parts]
    if "random_crop" in kinds and "random_scale" not in kinds:
        width, height = role.size
        wide, high = parts[kinds.index("random_crop")][1]["size"]
        if wide > width or high > height:
            report.warnings.append(
                f"{where}: a crop of {wide}x{high} is larger than the images, {width}x{height}: "
                "the rest is black and ignored; use a smaller crop or a larger `size`"
            )


def check_models(recipe: Recipe, name: str, models: Sequence[str], report: Report) -> None:
    """Whether the stages that these models come from leave a segmenter."""
    for model in models:
        stage = recipe.stages[model]
        assert isinstance(stage, TrainStage)
        segmenter = stage.networks.get("segmenter")
        # What is wrong with the stage itself is one thing to mend.
        known = any(problem.startswith(f"stages.{model}.") for problem in report.problems)
        if not known and (segmenter is None or segmenter.optimiser is None):
            fix = "name a stage that does"
            error = SegueError(
                f"stage {model} trains no segmenter", where=f"stages.{name}", fix=fix
            )
            report.problems.append(str(error))


def describe(name: str, stage: Made | CentresStage | GroupsStage, report: Report) -> None:
    """Tells what a stage that neither trains nor scores makes of what."""
    match stage:
        case TranslateStage():
            rows = [("writes", f"{stage.data} in the style of {stage.towards}, {_size(stage)}")]
            rows.append(("by", _part(stage.by)))
        case PseudoLabelStage():
            rows = [("labels", f"{stage.data}, seen at {_size(stage)}")]
            rows += [("models", " + ".join(stage.models)), ("rule", _part(stage.rule))]
            if stage.measure_on is not None:
                rows.append(("measured on", stage.measure_on))
        case CentresStage():
            rows = [("centres", f"of {stage.feature} by {stage.model}, view {stage.view}")]
        case GroupsStage():
            rows = [("groups", f"{stage.groups} by {_part(stage.by)}, as {stage.model} sees them")]
    report.sections.append((f"stages.{name} ({stage.kind})", tuple(rows)))


def _size(stage: Made) -> str:
    return f"{stage.size[0]}x{stage.size[1]}"


def _part(part: Part) -> str:
    kind, rest = split_kind(part, where="")
    return ", ".join((kind, *(f"{key} {value}" for key, value in rest.items())))


def check_evaluate(
    name: str, stage: EvaluateStage, trained: Mapping[str, Networks], report: Report
) -> None:
    """Whether the models of an evaluate stage have its heads and run at its size."""
    where, (width, height) = f"stages.{name}", stage.size
    for model in stage.models:
        segmenter = trained[model].get("segmenter")
        if not isinstance(segmenter, Segmenter):
            if "segmenter" in trained[model]:
                fix = "call the network that is trained and saved `segmenter`"
                error = SegueError(f"stage {model} trains no segmenter", where=where, fix=fix)
                report.problems.append(str(error))
            continue  # told where it should have been built
        for head in stage.heads:
            if head not in segmenter.heads:
                fix = f"it has: {', '.join(segmenter.heads)}"
                error = SegueError(
                    f"the model of {model} has no head {head!r}", where=f"{where}.heads", fix=fix
                )
                report.problems.append(str(error))
        segmenter.eval()
        image = torch.zeros(1, 3, height, width, device=META)
        fault = _fault(partial(segmenter, image))
        if fault:
            report.problems.append(told(where, fault))
    heads = ", ".join(f"{head} x {weight:g}" for head, weight in stage.heads.items())
    rows = (
        ("scores", " + ".join(stage.models)),
        ("on", f"{stage.data}, seen at {width}x{height}"),
        ("heads", heads),
    )
    report.sections.append((f"{where} (evaluate)", rows))
