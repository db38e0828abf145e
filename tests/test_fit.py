"""`segue check --fit`: real steps on generated images, and what to change where they do not fit."""

import io
import json
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from segue.checking import fit, one_step
from segue.checking.fit import GIB, OUT_OF_MEMORY, Measured, alike, changed, changes
from segue.cli import commands as cli
from segue.errors import SegueError
from segue.recipe.schema import TrainStage
from segue.runtime import memory
from segue.runtime.processes import World
from segue.training.networks import Networks
from segue.training.state import Training

GOOD = Measured("cpu", 16 * GIB, 4 * GIB, 3.6)
FULL = Measured("cpu", 16 * GIB, fault=OUT_OF_MEMORY)


def rendered(found, width=80):
    file = io.StringIO()
    Console(file=file, width=width).print(found.to_rich())
    return file.getvalue()


def taking(monkeypatch, decide):
    """Every step takes what is decided of its recipe and stage."""
    asked = []

    def step_of(recipe, name):
        asked.append((recipe, name))
        return decide(recipe, recipe.stages[name])

    monkeypatch.setattr(fit, "step_of", step_of)
    return asked


@pytest.mark.parametrize(
    "name", ["advent-demo", "grouping-demo", "coarse-to-fine-demo", "bdl-demo", "cbst-demo"]
)
def test_every_stage_takes_its_step(name, tiny_recipe):
    recipe = tiny_recipe(name)
    for names in alike(recipe):
        found = one_step.measure(recipe, names[0], World())
        assert found["seconds"] > 0
        assert found["peak"] > 2**20
        assert found["notes"] == []


@pytest.mark.slow
def test_no_data_and_no_weights_are_needed(tiny_recipe, tmp_path):
    recipe = tiny_recipe(
        "source-only-demo",
        f"data.source.root={tmp_path}/gone",
        f"stages.train.networks.segmenter.weights={tmp_path}/gone.pth",
        "stages.train.accumulate=3",
    )
    found = fit.fit(recipe)
    assert found.problems == []
    (stage,) = found.stages
    assert stage.measured.peak < stage.measured.available
    shown = rendered(found)
    assert shown.splitlines()[0].startswith("source-only-demo on cpu, 1 thread")
    assert "random ones were measured" in " ".join(shown.split())
    assert shown.splitlines()[-1] == "it fits"


def test_scales_stay_frozen_where_the_weights_that_freeze_them_are_not_here(tiny_recipe, tmp_path):
    gone = f"stages.train.networks.segmenter.weights={tmp_path}/gone.pth"
    recipe = tiny_recipe("source-only-demo", gone)
    networks, notes = one_step.built(recipe, "train", recipe.stages["train"])
    assert len(notes) == 1
    networks.hold(["segmenter"])
    scales = [
        parameter
        for layer in networks["segmenter"].encoder.modules()
        if isinstance(layer, nn.BatchNorm2d)
        for parameter in layer.parameters()
    ]
    assert scales
    assert not any(parameter.requires_grad for parameter in scales)


def test_stages_that_take_the_same_are_measured_once(tiny_recipe, monkeypatch):
    asked = taking(monkeypatch, lambda *_: GOOD)
    recipe = tiny_recipe("coarse-to-fine-demo", "stages.fine_1.iterations=3")
    assert alike(recipe) == [("coarse",), ("fine_1",), ("fine_2",)]
    recipe = tiny_recipe("coarse-to-fine-demo")
    shown = rendered(fit.fit(recipe))
    assert [name for _, name in asked] == ["coarse", "fine_1"]
    line = next(line for line in shown.splitlines() if line.startswith("fine_1"))
    assert line.startswith("fine_1 and 1 like it  4.0 GiB  16.0 GiB")
    assert line.split()[-3:] == ["0.002", "x", "2"]


def test_what_helps_is_found_and_said(tiny_recipe, monkeypatch):
    def decide(recipe, stage):
        thrifty = stage.networks["segmenter"].checkpointing
        return GOOD if thrifty and recipe.precision == "bfloat16" else FULL

    asked = taking(monkeypatch, decide)
    recipe = tiny_recipe("advent-single-demo", "stages.train.batch_size=2")
    found = fit.fit(recipe)
    assert len(asked) == 5  # as it is, three changes alone, all together
    assert found.problems == [
        "stages.train: a step takes more than the 16.0 GiB that there are; set "
        "stages.train.batch_size=1 stages.train.accumulate=2 "
        "stages.train.networks.segmenter.checkpointing=true precision=bfloat16"
    ]
    shown = rendered(found)
    assert all(len(line) <= 80 for line in shown.splitlines())
    settings = ("batch_size=1", "accumulate=2", "checkpointing=true", "precision=bfloat16")
    first = [line.split()[0] for line in shown.splitlines() if line.startswith(settings)]
    assert first == [*settings, *settings]  # alone, then together
    assert shown.splitlines()[-1] == "it does not fit"


def test_nothing_helps(tiny_recipe, monkeypatch):
    taking(monkeypatch, lambda *_: FULL)
    found = fit.fit(tiny_recipe("advent-single-demo"))
    (problem,) = found.problems
    assert problem.endswith("use a smaller network, or a larger machine")
    assert "source.size=[48,24]" in " ".join(rendered(found).split())


def test_little_that_is_left_is_too_little(tiny_recipe, monkeypatch):
    close = Measured("cpu", 16 * GIB, 15 * GIB, 1.0)
    taking(monkeypatch, lambda recipe, _: GOOD if recipe.precision == "bfloat16" else close)
    found = fit.fit(tiny_recipe("source-only-demo"))
    assert found.problems == [
        "stages.train: a step takes 15.0 GiB of 16.0 GiB; set precision=bfloat16"
    ]


def test_crops_shrink_where_there_are_any(tiny_recipe):
    recipe = tiny_recipe("bdl-demo")
    _, (*_, smallest) = changes(recipe, "cyclegan", recipe.stages["cyclegan"])
    small = changed(recipe, smallest).stages["cyclegan"]
    assert small.source.augment[-1] == {"kind": "random_crop", "size": [16, 16]}
    assert small.source.size == recipe.stages["cyclegan"].source.size
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainStage):
            for change in (*changes(recipe, name, stage)[0], *changes(recipe, name, stage)[1]):
                assert changed(recipe, change) != recipe


def test_another_fault_is_said_as_it_is(tiny_recipe, monkeypatch):
    fault = "stages.train.terms: no view is called 'x'; name another"
    asked = taking(monkeypatch, lambda *_: Measured("cpu", GIB, fault=fault))
    assert fit.fit(tiny_recipe("source-only-demo")).problems == [fault]
    assert len(asked) == 1


def asked_of(recipe, monkeypatch, capsys):
    """The lines that the measuring process writes."""
    told = json.dumps({"recipe": recipe.as_yaml(), "stage": "train"})
    monkeypatch.setattr(sys, "stdin", io.StringIO(told))
    monkeypatch.setattr(memory, "limit", lambda most: None)
    one_step.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_fault_of_the_recipe_is_a_line(tiny_recipe, monkeypatch, capsys):
    narrow = tiny_recipe("advent-single-demo", "stages.train.target.size=[8, 8]")
    _, second = asked_of(narrow, monkeypatch, capsys)
    assert "show it at least 32x32" in second["error"]


OUT = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize("error", [RuntimeError(OUT), MemoryError(), torch.OutOfMemoryError("GPU")])
def test_running_out_is_a_line(error, tiny_recipe, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr(one_step, "iterate", fail)
    first, second = asked_of(tiny_recipe("source-only-demo"), monkeypatch, capsys)
    assert first["device"].startswith("cpu")
    assert second == {"ran_out": True}
    message = r"iteration 3: memory ran out; `segue check RECIPE --fit"
    with pytest.raises(SegueError, match=message), memory.told("iteration 3"):
        fail()


def test_other_faults_stay_what_they_are(tiny_recipe, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(one_step, "iterate", fail)
    with pytest.raises(RuntimeError, match="sizes"):
        asked_of(tiny_recipe("source-only-demo"), monkeypatch, capsys)
    with pytest.raises(RuntimeError, match="sizes"), memory.told("iteration 3"):
        fail()


@pytest.mark.skipif(not memory.STATUS.exists(), reason="only Linux keeps such limits")
def test_a_limit_makes_torch_say_so():
    tried = (
        "import torch; from segue.runtime import memory; memory.limit(64 * 2**20)\n"
        "try: torch.ones(2**27)\n"
        "except RuntimeError as error: print(memory.ran_out(error))"
    )
    done = subprocess.run([sys.executable, "-c", tried], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_limits_of_containers_count(monkeypatch, tmp_path):
    inner = tmp_path / "cgroup/job/step"
    inner.mkdir(parents=True)
    for folder, limit in ((inner, "max"), (inner.parent, str(3 * GIB))):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{2 * GIB}\n")
        (folder / "memory.stat").write_text(f"anon {GIB}\ninactive_file {GIB}\n")
    (tmp_path / "membership").write_text("0::/job/step\n")
    (tmp_path / "meminfo").write_text("MemTotal: 64 kB\nMemAvailable: 8388608 kB\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "meminfo")
    assert memory.available(torch.device("cpu")) == 2 * GIB
    (inner.parent / "memory.max").write_text("max\n")
    assert memory.available(torch.device("cpu")) == 8 * GIB


def test_the_command(tiny_recipe, monkeypatch, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe("source-only-demo").as_yaml())
    taking(monkeypatch, lambda *_: GOOD)
    done = CliRunner().invoke(cli.app, ["check", str(recipe), "--fit"])
    assert (done.exit_code, "it fits" in done.output) == (0, True)
    taking(monkeypatch, lambda *_: FULL)
    done = CliRunner().invoke(cli.app, ["check", str(recipe), "--fit"])
    assert (done.exit_code, "it does not fit" in done.output) == (1, True)


def test_training_itself_says_so(monkeypatch, tmp_path):
    import segue.training.loop as loop

    class Silent:
        def begin(self, start): ...
        def close(self): ...

    def full(*_):
        raise RuntimeError(OUT)

    monkeypatch.setattr(loop, "iterate", full)
    training = Training(Networks({}), [], 1, lambda *_: (one for one in [[{}]]))
    with pytest.raises(SegueError, match="iteration 0: memory ran out"):
        loop.train(training, Silent(), tmp_path, checkpoint_every=1)
