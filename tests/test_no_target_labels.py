"""Training never touches a target's labels, as an audit hook in every process sees it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny

from segue.datasets.procedural import write_worlds
from segue.errors import SegueError
from segue.running import run

NAME = "local-alignment-demo"

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
from segue import recipe, running
overrides, out = json.loads(sys.argv[1]), sys.argv[2]
for workers in (0, 1):
    one = recipe.load("local-alignment-demo", [*overrides, f"workers={workers}"])
    running.run(one, f"{out}/{workers}")
"""


@pytest.fixture(scope="module")
def seen(data, tmp_path_factory):
    """(process, event, path) of everything that training did in the folders of the data."""
    root = tmp_path_factory.mktemp("seen")
    worlds = root / "worlds"
    write_worlds(
        worlds, source=6, target_train=6, target_val=4, size=tiny.FILES, target_train_labels=True
    )
    assert len(list(worlds.glob("target/gtFine/train/*/*.png"))) == 6, "there are labels to open"
    (root / "site").mkdir()
    (root / "site/sitecustomize.py").write_text(SITECUSTOMIZE)
    overrides = [
        *tiny.overrides(NAME, tiny.Data(root)),
        "stages.train.iterations=8",
        "stages.evaluate=null",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root / "site"), os.environ.get("PYTHONPATH", "")]),
        "SEGUE_TEST_LOG": str(root / "log"),
        "SEGUE_TEST_ROOT": str(worlds),
    }
    command = [sys.executable, "-c", TRAIN, json.dumps(overrides), str(root / "runs")]
    process = subprocess.Popen(command, env=environment)
    try:
        assert process.wait(timeout=240) == 0
    finally:
        process.kill()
    events = [line.split("\t") for line in (root / "log").read_text().splitlines()]
    return process.pid, [(int(pid), event, path[len(str(worlds)) :]) for pid, event, path in events]


def test_no_label_of_the_target_is_opened_listed_or_looked_for(seen):
    _, events = seen
    assert [path for _, _, path in events if "gtFine" in path] == []


def test_the_hook_sees_what_is_read_in_every_process(seen):
    """Or the test above could not fail."""
    main, events = seen
    for place in ("/source/images/", "/source/labels/", "/target/leftImg8bit/train/"):
        opened = {(pid == main, path) for pid, event, path in events
                  if event == "open" and path.startswith(place)}  # fmt: skip
        for by_main in (True, False):
            files = [path for mine, path in opened if mine == by_main and path.endswith(".png")]
            assert len(files) == 6, (place, by_main)
    assert any(event == "stat" and "/source/labels/" in path for _, event, path in events)
    assert any("scandir" in event or "listdir" in event for _, event, _ in events)


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
