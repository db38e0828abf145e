"""Two processes are one, by torchrun or as it would start them, compared tensor by tensor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import forked
import one_rank
import pytest
import tiny
import torch
from safetensors.torch import load_file

NAME = "local-alignment-demo"
STEPS = 20
MODES = ("batch", "running", "tracking")
FIXED = "stages.train.networks.segmenter.batch_norm=running"
SMALL = "stages.train.networks.discriminator.widths=[8, 8, 8, 8]"
# Adam divides by the size of a gradient: where that is next to nothing, so that the order of a
# sum decides its sign, a weight may go either way. In float32 that is more than 1e-6, so there
# both networks are trained by SGD; in float64 the recipe is as it is.
EXACT = {
    "float32": (
        FIXED,
        "stages.train.networks.segmenter.optimiser.lr=2.5e-3",
        "stages.train.networks.discriminator.optimiser={kind: sgd, lr: 0.1, weight_decay: 0}",
    ),
    "float64": (FIXED,),
}


def settings(data, *more):
    small = (f"iterations={STEPS}", "log_every=5", "checkpoint_every=7")
    return [*tiny.overrides(NAME, data), *(f"stages.train.{one}" for one in small), SMALL, *more]


@pytest.fixture(scope="module")
def two(data, fork_server, tmp_path_factory):
    """What two processes end with that draw one image each at a step."""
    out = tmp_path_factory.mktemp("two")
    single = "stages.train.batch_size=1"
    modes = {mode: (f"stages.train.networks.segmenter.batch_norm={mode}",) for mode in MODES}
    short, again = (
        "stages.train.iterations=",
        "stages.again={like: train, networks: {segmenter: {load_from: train}}}",
    )
    others = {"staged": (f"{short}2", again), "spoilt": (f"{short}3",)}
    variants = {
        name: settings(data, single, *more) for name, more in {**modes, **EXACT, **others}.items()
    }
    assert forked.ended(*forked.ranks(2, one_rank.main, out, NAME, variants)) == [0, 0]
    return {name: [load(out, name, rank) for rank in (0, 1)] for name in variants}


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    """What one process ends with on the joint batch: at once, and as two micro batches."""
    out = tmp_path_factory.mktemp("one")
    batch, parts = "stages.train.batch_size=", "stages.train.accumulate="
    variants = {
        **{name: settings(data, *more, f"{batch}2") for name, more in EXACT.items()},
        **{
            f"{name} in parts": settings(data, *more, f"{batch}1", f"{parts}2")
            for name, more in EXACT.items()
        },
    }
    one_rank.main(out, NAME, variants)
    return {name: load(out, name, 0) for name in variants}


@pytest.fixture(scope="module")
def three(data, fork_server, tmp_path_factory):
    """What three processes end with that draw one image each, and one on the joint batch."""
    out = tmp_path_factory.mktemp("three")
    short = "stages.train.iterations=6"
    variants = {"float64": settings(data, *EXACT["float64"], short, "stages.train.batch_size=1")}
    assert forked.ended(*forked.ranks(3, one_rank.main, out, NAME, variants)) == [0, 0, 0]
    joint = {"float64 whole": settings(data, *EXACT["float64"], short, "stages.train.batch_size=3")}
    one_rank.main(out, NAME, joint)
    return [load(out, "float64", rank) for rank in range(3)], load(out, "float64 whole", 0)


@pytest.fixture(scope="module")
def self_training(data, tmp_path_factory):
    """What two processes end with that translate, label and find centres together."""
    out = tmp_path_factory.mktemp("self_training")
    name = "coarse-to-fine-demo"
    single = [f"stages.{stage}.batch_size=1" for stage in ("coarse", "fine_1")]
    share = "stages.coarse.source.share=0.5"
    settings = tiny.overrides(name, data, "stages.rounds.repeat=1", share, *single)
    torchrun(out, {"rounds": settings}, name)
    return out / "rounds", [load(out, "rounds", rank) for rank in (0, 1)]


def torchrun(out: Path, variants: dict[str, list[str]], name: str) -> None:
    """Two processes on this machine, on a port that torchrun finds free."""
    run = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = [str(Path(one_rank.__file__)), str(out), name, json.dumps(variants)]
    command = [sys.executable, "-m", *run, "--local-addr=127.0.0.1", *script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, timeout=240, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def load(out: Path, name: str, rank: int) -> dict:
    return torch.load(out / f"{name}.{rank}.pt", weights_only=True)


@pytest.mark.parametrize("name", [*MODES, *EXACT, "staged"])
def test_every_tensor_of_every_network_is_bit_equal_across_processes(name, two):
    first, second = (process["networks"] for process in two[name])
    assert first.keys() == second.keys() == {"segmenter", "discriminator"}
    for network, state in first.items():
        for key, value in state.items():
            assert torch.equal(value, second[network][key]), f"{network}.{key}"


@pytest.mark.parametrize("name", EXACT)
def test_each_process_draws_its_own_part_of_the_joint_batch(name, two, one):
    drawn = zip(two[name][0]["drawn"], two[name][1]["drawn"], one[name]["drawn"], strict=True)
    for ((mine,),), ((theirs,),), (joint,) in drawn:
        assert mine != theirs
        assert joint == (mine, theirs)
    assert len(one[name]["drawn"]) == STEPS


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_equal_one_on_the_joint_batch(name, two, one):
    for process in two[name]:
        assert_close(process["networks"], one[name]["networks"])


def test_three_processes_equal_one_on_the_joint_batch(three):
    processes, one = three
    for process in processes:
        assert_close(process["networks"], one["networks"])
    parts = (process["drawn"] for process in processes)
    for *alone, (joint,) in zip(*parts, one["drawn"], strict=True):
        assert joint == tuple(name for ((name,),) in alone)


@pytest.mark.parametrize("name", EXACT)
def test_micro_batches_equal_the_joint_batch(name, one):
    assert_close(one[f"{name} in parts"]["networks"], one[name]["networks"])


def test_a_later_stage_finds_what_the_leading_process_wrote(two):
    """The other process, which evaluates and writes nothing, waits for it."""
    assert [process["said"] for process in two["staged"]] == ["", ""]
    assert [len(process["drawn"]) for process in two["staged"]] == [4, 4]


def test_processes_share_out_the_work_of_every_stage(self_training, data):
    work_dir, (first, second) = self_training
    assert (first["said"], second["said"]) == ("", "")
    for network, state in first["networks"].items():
        for key, value in state.items():
            assert torch.equal(value, second["networks"][network][key]), f"{network}.{key}"
    assert len(list((work_dir / "pseudo_labels_1/labels").rglob("*.png"))) == 6
    assert json.loads((work_dir / "pseudo_labels_1/pseudo_labels.json").read_text())["images"] == 6
    centres = load_file(work_dir / "centres_1/networks/centres.safetensors")
    assert centres["count"].sum() > 0
    assert torch.equal(first["networks"]["centres"]["value"], centres["value"])
    assert (work_dir / "evaluate/evaluation.json").is_file()
    # A share of 0.5 is three images, the same for both.
    coarse = [one for process in (first, second) for one in process["drawn"][:2]]
    assert len({name for (names,) in coarse for name in names}) <= 3


def test_every_process_tells_of_the_file_that_one_of_them_read(two):
    first, second = two["spoilt"]
    ((name,),) = second["drawn"][2]
    assert first["said"] == second["said"]
    assert first["said"].startswith("iteration 2: loss segmentation is nan")
    assert name in first["said"]
    assert first["drawn"][2][0][0] not in first["said"]


def assert_close(networks, wanted):
    assert networks.keys() == wanted.keys()
    for name, state in wanted.items():
        for key, value in state.items():
            difference = float((networks[name][key].double() - value.double()).abs().max())
            assert difference < 1e-6, f"{name}.{key}"
