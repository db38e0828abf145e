"""Several processes when one of them fails: all stop, with the cause, and go on exactly.

Processes are forked, not started by torchrun, which would end all of them itself.
"""

import os
import signal
import traceback
from pathlib import Path

import forked
import pytest
import tiny
import torch
from soak import differences
from test_resume import NAME, SMALL

from segue import recipe
from segue.errors import SegueError
from segue.running.run import run
from segue.runtime import processes as distributed
from segue.runtime.processes import World, sum_of_bits
from segue.runtime.signals import Stopped
from segue.storage import checkpoint
from segue.storage.whole import read_rows
from segue.training import loop as training

pytestmark = pytest.mark.slow
SHORT = (
    SMALL,
    "stages.train.iterations=6",
    "stages.train.log_every=4",
    "stages.train.checkpoint_every=3",
    "stages.train.batch_size=1",
)


def processes(data, folder, happen=None, *more):
    """Runs a recipe by two processes; what each said, and how it ended."""
    chosen = recipe.load(NAME, tiny.overrides(NAME, data, *SHORT, *more))
    port = forked.free_port()
    children = []
    for rank in (0, 1):
        said = folder.with_name(f"{folder.name}.{rank}")
        pid = os.fork()
        if pid == 0:
            os.environ |= {
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            }
            os._exit(one_process(chosen, folder, said, rank, happen))
        children.append((pid, said))
    ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in children]
    return [(code, said.read_text()) for code, (_, said) in zip(ended, children, strict=True)]


def one_process(chosen, folder, said, rank, happen) -> int:
    said.write_text("")
    try:
        if happen is not None:
            happen(rank)
        run(chosen, folder)
        distributed.leave()
    except Stopped as stopped:
        said.write_text(str(stopped))
        return stopped.exit_code
    except SegueError as error:
        said.write_text(str(error))
        return 1
    except BaseException:
        said.write_text(traceback.format_exc())
        return 99
    return 0


def at(number, which, act):
    """Lets something happen to one process at the beginning of one iteration."""

    def happen(rank):
        original = training.begin

        def begin(one, iteration, micro_batches):
            if rank == which and iteration == number:
                act(one)
            return original(one, iteration, micro_batches)

        training.begin = begin

    return happen


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks") / "whole"
    assert processes(data, folder) == [(0, ""), (0, "")]
    return folder


def die(one):
    os.kill(os.getpid(), signal.SIGKILL)


def ask(one):
    os.kill(os.getpid(), signal.SIGTERM)


def flip(one):
    """The lowest bit of one weight, which a faulty memory might do."""
    weight = next(one.networks["discriminator"].parameters()).data.view(torch.int32)
    weight.flatten()[0] ^= 1


@pytest.mark.parametrize("which", [0, 1])
def test_one_that_is_killed_ends_all_and_resume_is_exact(which, whole, data, tmp_path):
    ended = processes(data, tmp_path / "run", at(4, which, die))
    assert ended[which][0] == -signal.SIGKILL
    code, said = ended[1 - which]
    assert code == 1, said
    assert said.startswith(f"process {1 - which}: another process of this run ended or cannot be")
    assert "\n" not in said
    assert processes(data, tmp_path / "run") == [(0, ""), (0, "")]
    assert differences(tmp_path / "run", whole) == []


@pytest.mark.parametrize("which", [0, 1])
def test_one_that_is_asked_to_stop_stops_all_at_one_iteration(which, whole, data, tmp_path):
    ended = processes(data, tmp_path / "run", at(1, which, ask))
    for code, said in ended:
        assert code == 143, said
        assert "is saved after iteration 2;" in said
    assert [one for one, _ in checkpoint.found(tmp_path / "run/train/checkpoints")] == [2]
    assert processes(data, tmp_path / "run") == [(0, ""), (0, "")]
    assert differences(tmp_path / "run", whole) == []


def test_weights_that_come_apart_are_found(data, tmp_path):
    def happen(rank):
        distributed.AGREE_EVERY = 2
        at(2, 1, flip)(rank)

    late = "stages.train.checkpoint_every=100"
    for code, said in processes(data, tmp_path / "run", happen, late):
        assert code == 1, said
        assert said.startswith("the processes' weights of discriminator have come apart; a GPU,")
    assert not checkpoint.found(tmp_path / "run/train/checkpoints"), "nothing is saved of it"
    assert read_rows(tmp_path / "run/train/metrics.jsonl")[0]["iteration"] == 4


def test_a_single_bit_changes_the_sum():
    layer = torch.nn.BatchNorm2d(3)
    before = sum_of_bits(layer)
    layer.running_mean.view(torch.int32)[1] ^= 1
    assert sum_of_bits(layer) != before
    distributed.refuse_disagreement({"a": layer}, World())


def test_a_run_in_use_is_refused_in_every_process(data, tmp_path):
    from segue.storage.lock import locked

    Path(tmp_path / "run").mkdir()
    with locked(tmp_path / "run", World()):
        ended = processes(data, tmp_path / "run")
    for code, said in ended:
        assert code == 1, said
        assert "another run is writing here" in said


def test_one_that_ends_before_all_have_joined_is_told_in_one_line(monkeypatch):
    def refuse(*_, **__):
        raise torch.distributed.DistNetworkError("Connection reset by peer\nframe #0: c10::Error")

    monkeypatch.setattr(torch.distributed, "init_process_group", refuse)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SegueError, match=r"^process 1: another process of this run .*peer\)"):
        distributed.join("cpu")
