"""Training never touches a target's labels, as an audit hook in every process sees it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny

from segue.demo.worlds import write_worlds
from segue.errors import SegueError
from segue.running.run import run

NAME = "local-alignment-demo"
SELF_TRAINING = "coarse-to-fine-demo"
# Training alone.
SETTINGS = {
    NAME: ["stages.train.iterations=8", "stages.evaluate=null"],
    SELF_TRAINING: [
        *("stages.rounds.repeat=1", "stages.coarse.iterations=8", "stages.fine_1.iterations=8"),
        "stages.evaluate=null",
    ],
}

# Python imports this at the start of every process, those that read images for training included.
# Opening and listing raise audit events; looking whether a file is there does not, so `os.stat`,
# which pathlib calls, is wrapped.
SITECUSTOMIZE = """
import os, sys

log = os.open(os.environ["SEGUE_TEST_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
root, look = os.environ["SEGUE_TEST_ROOT"], os.stat

def note(event, path):
    if isinstance(path, (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(path))
        if path.startswith(root):
            os.write(log, f"{os.getpid()}\\t{event}\\t{path}\\n".encode())

def stat(path, *args, **kwargs):
    note("stat", path)
    return look(path, *args, **kwargs)

def hook(event, args):
    if event in ("open", "os.listdir", "os.scandir"):
        note(event, args[0])

os.stat = stat
sys.addaudithook(hook)
"""

TRAIN = """
import json, sys
from segue import recipe
from segue.running import run as running
name, overrides, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
for workers in (0, 1):
    one = recipe.load(name, [*overrides, f"workers={workers}"])
    running.run(one, f"{out}/{workers}")
"""


@pytest.fixture(scope="module", params=SETTINGS)
def seen(request, data, tmp_path_factory):
    """The recipe's name, the process, and (process, event, path) of all that was done to files."""
    name = request.param
    root = tmp_path_factory.mktemp("seen")
    worlds = root / "worlds"
    write_worlds(
        worlds, source=6, target_train=6, target_val=4, size=tiny.FILES, target_train_labels=True
    )
    assert len(list(worlds.glob("target/gtFine/train/*/*.png"))) == 6, "there are labels to open"
    (root / "site").mkdir()
    (root / "site/sitecustomize.py").write_text(SITECUSTOMIZE)
    overrides = tiny.overrides(name, tiny.Data(root), *SETTINGS[name])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root / "site"), os.environ.get("PYTHONPATH", "")]),
        "SEGUE_TEST_LOG": str(root / "log"),
        "SEGUE_TEST_ROOT": str(root),
    }
    command = [sys.executable, "-c", TRAIN, name, json.dumps(overrides), str(root / "runs")]
    process = subprocess.Popen(command, env=environment)
    try:
        assert process.wait(timeout=240) == 0
    finally:
        process.kill()
    events = [line.split("\t") for line in (root / "log").read_text().splitlines()]
    told = [(int(pid), event, path[len(str(root)) :]) for pid, event, path in events]
    return name, process.pid, told


def test_no_label_of_the_target_is_opened_listed_or_looked_for(seen):
    name, _, events = seen
    touched = {path for _, _, path in events if "gtFine" in path}
    assert not {path for path in touched if "/gtFine/train" in path}
    # What looks for the validation's labels may list the folder that holds both.
    assert all(path.startswith("/worlds/target/gtFine/val") for path in touched), touched
    assert bool(touched) == (name == SELF_TRAINING), "rules are measured on validation labels"


def test_the_hook_sees_what_is_read_in_every_process(seen):
    """Or the test above could not fail."""
    name, main, events = seen
    places = ["source/images/", "source/labels/", "target/leftImg8bit/train/"]
    for place in (f"/worlds/{place}" for place in places):
        opened = {(pid == main, path) for pid, event, path in events
                  if event == "open" and path.startswith(place)}  # fmt: skip
        for by_main in (True, False):
            files = [path for mine, path in opened if mine == by_main and path.endswith(".png")]
            assert len(files) == 6, (place, by_main)
    assert any(event == "stat" and "/worlds/source" in path for _, event, path in events)
    listed = [path for _, event, path in events if event in ("os.scandir", "os.listdir")]
    assert any("/source/labels" in path for path in listed)
    if name == SELF_TRAINING:
        validation = {path for _, event, path in events if event == "open" and "gtFine/val" in path}
        assert len(validation) == 4
        for workers in (0, 1):
            place = f"/runs/{workers}/pseudo_labels_1/labels/"
            # What reads for training opens what the stage, in the main process, wrote.
            read = {path for pid, event, path in events
                    if event == "open" and (pid == main) == (workers == 0)
                    and path.startswith(place) and path.endswith(".png")}  # fmt: skip
            assert len(read) == 6, workers


def test_a_target_without_labels_on_disk_is_enough(data, tiny_recipe, tmp_path):
    bare = tmp_path / "target"
    shutil.copytree(data.target, bare, ignore=shutil.ignore_patterns("gtFine"))
    only = f"data.target.root={bare}"
    run(tiny_recipe(NAME, only, "stages.evaluate=null"), tmp_path / "run")
    assert (tmp_path / "run/train/model.safetensors").is_file()
    swapped = tiny_recipe(
        NAME, only, "data.source={kind: cityscapes, split: train}", f"data.source.root={bare}"
    )
    with pytest.raises(SegueError, match="6 of 6 images have no label"):
        run(swapped, tmp_path / "swapped")


def test_self_training_needs_no_labels_of_the_target_either(data, tiny_recipe, tmp_path):
    bare = tmp_path / "target"
    shutil.copytree(data.target, bare, ignore=shutil.ignore_patterns("gtFine"))
    unmeasured = "stages.pseudo_labels_1.measure_on=null"
    settings = [*SETTINGS[SELF_TRAINING][:1], f"data.target.root={bare}", unmeasured]
    run(tiny_recipe(SELF_TRAINING, *settings, "stages.evaluate=null"), tmp_path / "run")
    assert (tmp_path / "run/fine_1/model.safetensors").is_file()


def test_the_labels_of_what_is_labelled_are_not_measured_on(tiny_recipe, tmp_path):
    on_itself = "stages.pseudo_labels_1.measure_on=target"
    recipe = tiny_recipe(SELF_TRAINING, "stages.rounds.repeat=1", on_itself)
    with pytest.raises(SegueError, match="measure_on: the labels of what is labelled stay closed"):
        run(recipe, tmp_path)
