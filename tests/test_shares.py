"""What two and three processes make together, in uneven shares, is what one makes.

The commands themselves, `run`, `evaluate`, `predict` and `sweep`, with gloo, on seven images.
"""

import ast
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import one_command
import pytest
from dataset_files import random_image, save_image
from PIL import Image
from safetensors.numpy import load_file

from segue import recipe, work_dir
from segue.demo.worlds import write_worlds
from segue.errors import SegueError
from segue.inference import evaluation
from segue.runtime import processes as distributed
from segue.runtime.processes import World
from segue.stages import evaluate

IMAGES = 7
SIZES = (2, 3)
RECIPE = """
base: _demo
device: cpu
workers: 0
data:
  source: {{root: {worlds}/source}}
  target: {{root: {worlds}/target}}
  validation: {{root: {worlds}/target}}
templates:
  train: {{iterations: 1, batch_size: 1, log_every: 1, source: {{size: [96, 48]}}}}
  translate: {{size: [64, 32]}}
  pseudo_label: {{size: [64, 32], models: [train]}}
  drawn: {{source: {{size: [96, 48], augment: [flip]}}, target: {{size: [96, 48]}}}}
  evaluate: {{size: [96, 48]}}
stages:
  train: {{like: train}}
  translate: {{like: translate}}
  confidence: {{like: pseudo_label, rule: {{kind: confidence, cap: 0.9, quantile: 0.7}}}}
  class_balanced: {{like: pseudo_label, rule: {{kind: class_balanced, portion: 0.3}}}}
  category_adaptive: {{like: pseudo_label, rule: category_adaptive}}
  centres:
    like: drawn
    kind: centres
    model: train
    views: {{aligned: {{kind: translated, by: photometric}}, seen: {{kind: jittered, of: aligned}}}}
    view: seen
  evaluate: {{like: evaluate}}
"""
RULES = ("confidence", "class_balanced", "category_adaptive")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A recipe of stages that all processes share, and images to predict, two of them damaged."""
    folder = tmp_path_factory.mktemp("shares")
    counts = {"source": IMAGES, "target_train": IMAGES, "target_val": IMAGES}
    write_worlds(folder / "worlds", **counts, size=(64, 32))
    (folder / "mine.yaml").write_text(RECIPE.format(worlds=folder / "worlds"))
    for index in range(IMAGES):
        # Two of one name: what they are called must not depend on who predicts them.
        save_image(folder / f"images/{index // 2}.{'png' if index % 2 else 'bmp'}",
                   random_image(index, (40 + index, 30)))  # fmt: skip
    for index in (1, 4):
        (folder / f"images/damaged_{index}.png").write_text("no image")
    return folder


def commands(mine, work_dir):
    images, output = str(mine / "images"), str(work_dir / "predictions")
    predict = ["predict", str(work_dir), images, "-o", output, "--device", "cpu"]
    return [
        ["run", str(mine / "mine.yaml"), "--work-dir", str(work_dir)],
        ["evaluate", str(work_dir)],
        predict,
        [*predict, "--resume"],
    ]


@pytest.fixture(scope="module")
def one(mine, tmp_path_factory):
    """The work_dir of one process."""
    work_dir = tmp_path_factory.mktemp("one") / "run"
    one_command.run(commands(mine, work_dir))
    return work_dir


@pytest.fixture(scope="module")
def together(mine, one, fork_server, tmp_path_factory):
    """Folders of several processes that go on from the same trained model, and what they said."""
    folder = tmp_path_factory.mktemp("together")
    work = {}
    for size in SIZES:
        shutil.copytree(one / "train", folder / f"{size}/run/train")
        work[size] = [
            *commands(mine, folder / f"{size}/run"),
            sweep(mine, folder / f"{size}/sweep"),
        ]
    processes = [
        process
        for size, commands in work.items()
        for process in forked.ranks(size, one_command.run, commands, said=folder / str(size))
    ]
    codes = forked.ended(*processes)
    said = {path.name: path.read_text() for path in folder.glob("*.*")}
    assert codes == [0] * sum(SIZES), said
    return {size: (folder / str(size), said[f"{size}.out"], said[f"{size}.err"]) for size in SIZES}


def sweep(mine, work_dir):
    stages = "{train: {like: train}, evaluate: {like: evaluate}}"
    return ["sweep", str(mine / "mine.yaml"), "stages=null", f"stages={stages}",
            "--seeds", "2", "--work-dir", str(work_dir)]  # fmt: skip


@pytest.fixture(params=SIZES)
def many(together, request):
    return request.param, *together[request.param]


@pytest.mark.slow
def test_files_are_the_same_to_the_byte(one, many):
    """Translated images, pseudo-labels and all thresholds, predictions, scores."""
    work_dir = many[1] / "run"
    found = {path.relative_to(one) for path in files(one)}
    assert found == {path.relative_to(work_dir) for path in files(work_dir)}
    pictures = {"translate": IMAGES, "predictions": 2 * IMAGES, **dict.fromkeys(RULES, IMAGES)}
    for stage, wanted in pictures.items():
        assert sum(path.suffix == ".png" for path in files(one / stage)) == wanted, stage
    of_centres = {"centres/networks/centres.safetensors", "centres/centres.json"}
    for name in sorted(found - set(map(Path, of_centres))):
        assert (work_dir / name).read_bytes() == (one / name).read_bytes(), name


def files(folder):
    """All but what differs between two runs of one command."""
    told = {"seconds.json", "environment.json", ".lock"}
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in told]


@pytest.mark.slow
def test_centres_are_the_same_to_rounding(one, many):
    work_dir = many[1] / "run"
    ours, theirs = (
        load_file(at / "centres/networks/centres.safetensors") for at in (work_dir, one)
    )
    np.testing.assert_array_equal(ours["count"], theirs["count"])
    assert theirs["count"].sum() > 0
    np.testing.assert_allclose(ours["value"], theirs["value"], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_every_process_had_a_share_and_the_leading_one_spoke(many):
    processes, _, out, err = many
    assert out.count("mIoU (protocol 19)") >= 2
    assert out.count(f"predict: {IMAGES + 2}/{IMAGES + 2}") == 1
    assert out.count("predict: 2/2") == 1, "what is left for --resume"
    # All end with the same error; each line of what failed is told once.
    assert out.count("predict ended with 1") == 2 * processes
    assert out.count("damaged_4.png: not an image") == 2
    whole = f"2 of {IMAGES + 2} images could not be predicted; the others are done"
    for rank in range(processes):
        speaker = "segue" if rank == 0 else f"segue, process {rank}"
        assert err.count(f"{speaker}: {whole}") == 1


@pytest.mark.slow
def test_several_runs_one_after_the_other(many):
    """torch joins the same processes only once."""
    _, folder, _, _ = many
    with (folder / "sweep/sweep.csv").open() as file:
        assert len(list(csv.reader(file))) == 3


# Without processes: shares by hand.


@pytest.fixture
def scored(one, mine):
    whole = recipe.load(str(mine / "mine.yaml"))
    dataset = evaluate.assembly.dataset(whole, "validation", labels=True, work_dir=one)
    return work_dir.load(one), dataset


@pytest.mark.parametrize("size", [2, 3, 8])
def test_confusion_matrices_add_up(scored, size, monkeypatch):
    models, dataset = scored
    whole = evaluation.evaluate(models, dataset, ["19"])
    shares = []
    monkeypatch.setattr(evaluation, "gather", lambda counts, _: shares.append(counts) or [counts])
    for rank in range(size):
        evaluation.evaluate(models, dataset, ["19"], world=World(rank, size))
    monkeypatch.setattr(evaluation, "gather", lambda *_: shares)
    merged = evaluation.evaluate(models, dataset, ["19"], world=World(0, size))
    assert merged.confusion.dtype == whole.confusion.dtype == np.int64
    np.testing.assert_array_equal(merged.confusion, whole.confusion)
    assert (merged.images, merged.miou) == (whole.images, whole.miou)
    labelled = [np.isin(dataset.label(index), range(19)).sum() for index in range(IMAGES)]
    assert [int(share.sum()) for share in shares] == [
        sum(labelled[rank::size]) for rank in range(size)
    ]


def test_processes_wait_longer_than_any_stage_takes(monkeypatch):
    joined = []
    monkeypatch.setattr(
        distributed.distributed, "init_process_group", lambda *a, **k: joined.append((a, k))
    )
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.join("cpu") == World(1, 2)
    ((backend,), settings) = joined[0]
    assert backend == "gloo"
    assert settings["timeout"].total_seconds() >= 12 * 3600


@pytest.mark.parametrize(
    ("local", "visible", "launched", "chosen"),
    [("3", 4, True, "cuda:3"), ("3", 1, False, "cuda:0"), ("1", 1, True, None)],
)
def test_each_process_has_a_gpu_of_its_own(monkeypatch, local, visible, launched, chosen):
    """Also where SLURM shows every process one GPU alone."""
    cuda = distributed.torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: visible)
    monkeypatch.setattr(cuda, "set_device", lambda _: None)
    monkeypatch.setattr(distributed.distributed, "is_torchelastic_launched", lambda: launched)
    monkeypatch.setattr(distributed.distributed, "init_process_group", lambda *a, **k: None)
    for name, value in {"RANK": local, "WORLD_SIZE": "4", "LOCAL_RANK": local}.items():
        monkeypatch.setenv(name, value)
    if chosen is None:
        with pytest.raises(SegueError, match=r"no GPU of its own.*--nproc-per-node=1"):
            distributed.join("auto")
    else:
        assert str(distributed.join("auto").device) == chosen


def test_predictions_are_of_the_images(one, mine):
    """The names that the shares agree on belong to the right images."""
    models = work_dir.load(one)
    label = np.array(Image.open(one / "predictions/0-2_label.png"))
    np.testing.assert_array_equal(label, models.predict(mine / "images/0.png"))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_how_threads_wait_is_told_before_torch_is_loaded(given, wanted):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = f"""if True:
        import contextlib, os, sys
        from segue.cli import commands as cli
        cli.app = lambda **_: None
        with contextlib.suppress(SystemExit):
            cli.main([])
        assert "torch" not in sys.modules
        print({{name: os.environ[name] for name in {names} if name in os.environ}})
    """
    environment = {key: value for key, value in os.environ.items() if key not in names}
    told = subprocess.check_output([sys.executable, "-c", code], env={**environment, **given})
    assert ast.literal_eval(told.decode()) == wanted
