"""The stage that writes pseudo-labels: what it leaves, how it goes on, what it never opens."""

import io
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import random_ids, random_image, save_image
from PIL import Image
from rich.console import Console

from segue import recipe
from segue.errors import SegueError
from segue.inference import model
from segue.inference.model import Ensemble, Model
from segue.label_space import LabelSpace
from segue.models import MODELS
from segue.parts import build
from segue.pseudo_labels import RULES, decide, total
from segue.recipe import build as assembly
from segue.runtime.processes import World
from segue.stages import pseudo_label

CLASSES = ["road", "sky", "car", "tree", "[never]"]
NETWORK = {"kind": "deeplab_v2", "backbone": "test_resnet", "weights": None, "second_head": True}
SIZE = (48, 24)
COUNT = 5
RULE = {"kind": "confidence", "quantile": 0.5}
SETTINGS = """
name: labels
device: cpu
label_space: {{classes: {classes}}}
data:
  source: {{kind: folder, root: {root}/source, images: "images/*.png"}}
  target: {{kind: folder, root: {root}/target, images: "images/**/*.png"}}
  validation: {{kind: folder, root: {root}/validation, images: "images/*.png"}}
stages:
  one: &train
    kind: train
    iterations: 1
    source: {{data: source, size: [48, 24]}}
    networks:
      segmenter: {{kind: deeplab_v2, backbone: test_resnet, second_head: true, optimiser: sgd}}
    terms:
      segmentation: {{kind: cross_entropy}}
  two: *train
  labels: {{kind: pseudo_label, data: target, size: [48, 24], models: [one], rule: {rule}}}
"""


def blocks(seed):
    """A picture of squares that a network with random weights tells apart, 60 x 31."""
    return random_image(seed, (8, 4)).repeat(8, 0).repeat(8, 1)[:31, :60]


def spread(segmenter):
    """Lets random heads be sure of some pixels and predict every class but the last."""
    shown = torch.stack([torch.from_numpy(blocks(seed)) for seed in range(COUNT)])
    with torch.no_grad():
        for parameter in segmenter.heads.parameters():
            parameter.mul_(400)
        output = segmenter(shown.permute(0, 3, 1, 2) / 255)
        for name, head in segmenter.heads.items():
            bias = next(value for key, value in head.named_parameters() if key.endswith("bias"))
            bias -= output.logits[name].mean((0, 2, 3))
            bias[-1] -= 1000


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images of a target without a label folder, and of a labelled validation set."""
    where = tmp_path_factory.mktemp("data")
    for index in range(COUNT):
        save_image(where / f"target/images/{'ab'[index % 2]}/{index}.png", blocks(index))
        save_image(where / f"validation/images/{index}.png", blocks(9 + index))
        ids = random_ids(index, (60, 31), most=len(CLASSES) + 1)
        save_image(
            where / f"validation/labels/{index}.png", np.where(ids == len(CLASSES), 255, ids)
        )
    return where


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work_dir as train stages leave it, with models that are sure of some pixels."""
    where = tmp_path_factory.mktemp("trained")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        segmenter = MODELS["deeplab_v2"](len(CLASSES), backbone="test_resnet", second_head=True)
        spread(segmenter.eval())
        space = LabelSpace.from_settings("own", CLASSES)
        Model(segmenter, space, SIZE, NETWORK, {"main": 1.0}).save(where / name / model.FILE)
    return where


@pytest.fixture
def begun(root, trained, tmp_path):
    """(rule, overrides) -> a recipe; and the work_dir that its train stages have left."""
    shutil.copytree(trained, tmp_path / "run")

    def load(*overrides, rule=RULE):
        path = tmp_path / "recipe.yaml"
        path.write_text(SETTINGS.format(root=root, classes=CLASSES, rule=json.dumps(rule)))
        return recipe.load(path, list(overrides))

    return load, tmp_path / "run"


def run(chosen, work_dir, world=None, console=None):
    pseudo_label.run(
        chosen, "labels", chosen.stages["labels"], work_dir, world=world or World(), console=console
    )
    return work_dir / "labels"


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_label(path):
    with Image.open(path) as image:
        assert image.size == SIZE
        return np.array(image)


@pytest.mark.parametrize(
    "rule",
    [
        RULE,
        {"kind": "confidence", "cap": 0.6, "quantile": None},
        {"kind": "class_balanced", "portion": 0.3},
        "category_adaptive",
    ],
    ids=["quantile", "fixed", "class_balanced", "category_adaptive"],
)
def test_labels_are_the_rule_on_the_models_probabilities(begun, root, rule):
    load, work_dir = begun
    chosen = load("stages.labels.models=[one, two]", rule=rule)
    folder = run(chosen, work_dir)
    models = [model.read(work_dir / name / model.FILE) for name in ("one", "two")]
    target = assembly.dataset(chosen, "target", labels=False, work_dir=work_dir)
    seen = []
    for index in range(COUNT):
        each = [one.probabilities(target.image(index, SIZE), SIZE[::-1]) for one in models]
        seen.append((each[0] + each[1]) / 2)
    built, counts = build(RULES, rule, where="rule", what="rule"), []
    for _ in range(built.passes):
        counts.append(total(built, seen, counts))
    settled = built.settle(counts, len(CLASSES))
    labels = []
    for item, probabilities in zip(target.items, seen, strict=True):
        inside = item.image.relative_to(root / "target/images")
        labels.append(read_label(folder / "labels" / inside))
        # Folded norms and bands of rows round otherwise; a pixel may lie on the threshold.
        assert (labels[-1] != decide(settled, probabilities)).mean() < 0.002
    told = json.loads((folder / "pseudo_labels.json").read_text())
    for place, name in enumerate(CLASSES):
        assert told["kept"][name] == sum((label == place).sum() for label in labels)
    assert told["total"]["predicted"] == COUNT * SIZE[0] * SIZE[1]
    assert 0 < told["total"]["share_kept"] < 1
    assert told["share_kept"]["[never]"] is None
    assert told["threshold"]["road"] == pytest.approx(settled.thresholds[0], abs=1e-5)
    assert not (folder / "spill").exists()


def test_heads_are_averaged(begun):
    load, work_dir = begun
    heads = {"main": 1.0, "layer3": 0.5}
    chosen = load(f"stages.labels.heads={json.dumps(heads)}", rule={**RULE, "quantile": None})
    folder = run(chosen, work_dir)
    one = model.read(work_dir / "one" / model.FILE)
    one.heads = heads
    target = assembly.dataset(chosen, "target", labels=False, work_dir=work_dir)
    probabilities = one.probabilities(target.image(0, SIZE), SIZE[::-1])
    settled = RULES["confidence"](quantile=None).settle([], len(CLASSES))
    found = read_label(folder / "labels/a/0.png")
    assert (found != decide(settled, probabilities)).mean() < 0.002
    absent = load("stages.labels.heads={side: 1.0}")
    with pytest.raises(SegueError, match="no head is called 'side'; the network has: main, layer3"):
        run(absent, work_dir)


@pytest.mark.parametrize("rule", [RULE, "category_adaptive"], ids=["quantile", "adaptive"])
def test_in_bfloat16_labels_are_nearly_those_of_full_precision(begun, rule):
    load, work_dir = begun
    whole = run(load(rule=rule), work_dir)
    labels = [read_label(path) for path in sorted(whole.rglob("labels/*/*.png"))]
    told = json.loads((whole / "pseudo_labels.json").read_text())
    half = run(load("precision=bfloat16", rule=rule), work_dir)
    assert json.loads((half / "pseudo_labels.json").read_text())["threshold"] != told["threshold"]
    others = [read_label(path) for path in sorted(half.rglob("labels/*/*.png"))]
    assert 0 < (np.stack(labels) != np.stack(others)).mean() < 0.2


def test_logits_of_another_precision_are_not_taken_up(begun, monkeypatch):
    load, work_dir = begun
    with monkeypatch.context() as patch:
        patch.setattr(pseudo_label, "label", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(load(), work_dir)
    again = files(run(load("precision=bfloat16"), work_dir))
    shutil.rmtree(work_dir / "labels")
    assert again == files(run(load("precision=bfloat16"), work_dir))


def test_the_network_runs_once_for_an_image(begun, monkeypatch):
    load, work_dir = begun
    calls, logits_of = [], Model.logits_of
    monkeypatch.setattr(Model, "logits_of", lambda *given: calls.append(1) or logits_of(*given))
    run(load("stages.labels.measure_on=validation"), work_dir)
    assert len(calls) == 2 * COUNT


@pytest.mark.parametrize("rule", [RULE, "category_adaptive"], ids=["quantile", "adaptive"])
@pytest.mark.parametrize("after", range(1, 3 * COUNT, 4))
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(begun, monkeypatch, rule, after):
    load, work_dir = begun
    chosen = load("stages.labels.models=[one, two]", rule=rule)
    run(chosen, work_dir)
    whole = files(work_dir / "labels")
    shutil.rmtree(work_dir / "labels")
    ran, begin, logits_of = [0], iter(range(after)), Ensemble.logits_of
    original = Ensemble.votes

    def counting(*given):
        ran[0] += 1
        return logits_of(*given)

    def stopping(*given):
        if next(begin, None) is None:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(Ensemble, "logits_of", counting)
    passes = RULES["confidence" if rule == RULE else rule]().passes + 1
    with monkeypatch.context() as patch:
        patch.setattr(Ensemble, "votes", stopping)
        if after < passes * COUNT:
            with pytest.raises(KeyboardInterrupt):
                run(chosen, work_dir)
    assert (work_dir / "labels/spill").is_dir() == (after < passes * COUNT)
    run(chosen, work_dir)
    assert ran[0] == COUNT, "no image twice"
    assert files(work_dir / "labels") == whole


def test_logits_of_other_models_are_not_taken_up(begun, monkeypatch):
    load, work_dir = begun
    chosen = load()
    with monkeypatch.context() as patch:
        patch.setattr(pseudo_label, "label", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(chosen, work_dir)
    assert len(files(work_dir / "labels/spill")) == COUNT
    shutil.copy(work_dir / "two" / model.FILE, work_dir / "one" / model.FILE)
    again = files(run(chosen, work_dir))
    shutil.rmtree(work_dir / "labels")
    assert again == files(run(chosen, work_dir))


@pytest.mark.parametrize(
    "rule", [RULE, {"kind": "confidence", "quantile": None}, "category_adaptive"]
)
@pytest.mark.parametrize("size", [2, COUNT + 2])
def test_processes_together_leave_what_one_does(begun, monkeypatch, rule, size):
    """Threads stand for processes; of seven, two have no image."""
    load, work_dir = begun
    chosen = load("stages.labels.measure_on=validation", rule=rule)
    whole = files(run(chosen, work_dir))
    shutil.rmtree(work_dir / "labels")
    barrier, given, local = threading.Barrier(size, timeout=60), [None] * size, threading.local()

    def gather(value, world):
        given[world.rank] = value
        barrier.wait()
        found = list(given)
        barrier.wait()
        return found

    def process(rank):
        local.rank = rank
        run(chosen, work_dir, World(rank, size))

    monkeypatch.setattr(pseudo_label, "gather", gather)
    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(work_dir / "labels") == whole


def test_measured_precision_and_recall_against_a_count_by_hand(begun):
    load, work_dir = begun
    plain = files(run(load(), work_dir))
    shutil.rmtree(work_dir / "labels")
    chosen = load("stages.labels.measure_on=validation")
    folder = run(chosen, work_dir)
    told = json.loads((folder / "pseudo_labels.json").read_text())
    for path, data in files(folder / "labels").items():
        assert data == plain[f"labels/{path}"], "measuring changes no label"

    one = model.read(work_dir / "one" / model.FILE)
    validation = assembly.dataset(chosen, "validation", labels=True, work_dir=work_dir)
    rule = RULES["confidence"](quantile=0.5)
    settled = type(
        rule.settle([np.zeros((5, 2**15), np.int64), np.zeros((5, 2**16), np.int64)], 5)
    )(tuple(told["threshold"].values()))
    kept = right = labelled = wrong = 0
    road = CLASSES.index("road")
    for index in range(COUNT):
        truth = validation.label(index, SIZE)
        pseudo = decide(settled, one.probabilities(validation.image(index, SIZE), SIZE[::-1]))
        for y, x in np.ndindex(*truth.shape):
            if truth[y, x] == 255:
                continue
            labelled += truth[y, x] == road
            kept += pseudo[y, x] == road
            right += pseudo[y, x] == truth[y, x] == road
            wrong += pseudo[y, x] not in (255, truth[y, x])
    measured = told["measured"]
    assert right > 0
    assert measured["precision"]["road"] == right / kept
    assert measured["recall"]["road"] == right / labelled
    assert (measured["on"], measured["images"]) == ("validation", COUNT)
    counts = np.array(measured["counts"])
    assert counts[:, :-1].sum() - np.trace(counts) == wrong
    assert measured["accuracy"] == np.trace(counts) / counts[:, :-1].sum()
    (row,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert row["precision/road"] == right / kept
    assert row["recall/road"] == right / labelled
    assert row["accuracy"] == measured["accuracy"]
    assert row["kept/road"] == told["share_kept"]["road"]
    assert row["threshold/road"] == told["threshold"]["road"]


def test_what_is_left_and_told(begun):
    load, work_dir = begun
    said = io.StringIO()
    console = Console(file=said, width=80)
    folder = run(load("stages.labels.measure_on=validation"), work_dir, console=console)
    names = set(files(folder))
    pictures = {"share_kept.png", "share_kept.svg"}
    labels = {f"labels/{'ab'[index % 2]}/{index}.png" for index in range(COUNT)}
    assert names == labels | pictures | {"pseudo_labels.json", "metrics.jsonl"}
    text = said.getvalue()
    # 3 x 6 cells at stride 8, 5 classes, 4 bytes
    told = json.loads((folder / "pseudo_labels.json").read_text())
    assert told["spilled_bytes_per_image"] == 3 * 6 * 5 * 4
    assert "0.00 MB an image" in text
    assert all(len(line) <= 80 for line in text.splitlines() if "pseudo_labels.json" not in line)
    assert all(name in text for name in (*CLASSES, "precision", "recall", "% kept"))
    for line in text.splitlines():
        if line.strip().startswith("[never]"):
            assert line.split()[1:] == ["0.0", "0.9000", "-", "-", "0.0"]
    assert [name for name, kept in told["share_kept"].items() if kept is None] == ["[never]"]
    assert (folder / "share_kept.svg").read_text().count("<!-- never predicted -->") == 1


def test_a_long_table_stays_within_80_columns(tmp_path):
    from segue.pseudo_labels.outcome import Measured, Outcome

    names = tuple(f"a class with quite a long name {index}" for index in range(3))
    counts = np.full((2, 3), 10**9)
    measured = Measured("validation", 1, names, np.full((3, 4), 10**9))
    said = io.StringIO()
    Console(file=said, width=80).print(Outcome(names, (0.9,) * 3, counts, 1, measured).table())
    assert max(map(len, said.getvalue().splitlines())) <= 80


def test_what_cannot_be_is_told(begun, root):
    load, work_dir = begun
    with pytest.raises(SegueError, match="labels of what is labelled stay closed"):
        run(load("stages.labels.measure_on=target"), work_dir)
    with pytest.raises(SegueError, match="trained for other classes"):
        run(load('label_space={"classes": [a, b, c, d, e]}'), work_dir)
    with pytest.raises(SegueError, match=r"has no label|have no label"):
        run(load("stages.labels.measure_on=source", f"data.source.root={root}/target",
                 "data.source.images=images/*/*.png"), work_dir)  # fmt: skip
    path = work_dir / "one" / model.FILE
    broken = model.read(path)
    with torch.no_grad():
        next(broken.segmenter.parameters()).fill_(torch.nan)
    broken.save(path)
    with pytest.raises(SegueError, match=r"images/a/0\.png: logits are not finite"):
        run(load(), work_dir)


def test_no_label_of_the_target_is_opened(begun, root, monkeypatch, tmp_path):
    """Where there are some: files that would fail if anyone read them."""
    load, work_dir = begun
    shutil.copytree(root / "target", tmp_path / "target")
    for index in range(COUNT):
        path = tmp_path / f"target/labels/{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not to be read")
    looked = []

    def noting(original):
        return lambda path, *told, **more: looked.append(path) or original(path, *told, **more)

    for name in ("is_file", "open"):
        monkeypatch.setattr(Path, name, noting(getattr(Path, name)))
    chosen = load(f"data.target.root={tmp_path}/target", "stages.labels.measure_on=validation")
    run(chosen, work_dir)
    inside = [path for path in looked if path.is_relative_to(tmp_path / "target")]
    assert len(inside) >= COUNT
    assert not [path for path in inside if "labels" in path.parts]
    made = assembly.dataset(chosen, "labels", labels=True, work_dir=work_dir)
    assert made.label(0).shape == SIZE[::-1], "and the stage is a dataset"
