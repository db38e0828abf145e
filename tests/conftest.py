"""What all tests share: one thread each, and tiny data written once per process and session."""

import os

# Before torch starts its threads: tests run side by side on few cores. Subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
from pathlib import Path

import forked
import hypothesis
import pytest
import tiny
import torch

from segue import recipe
from segue.runtime import signals as stopping

# How long an example takes is said of the machine, not of the code.
hypothesis.settings.register_profile("segue", deadline=None)
hypothesis.settings.load_profile("segue")

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def state_of_process():
    """What belongs to the whole process, and would change the tests that come after in it."""
    return {
        "folder": Path.cwd(),
        "signal heard": stopping.received(),
        "handlers": [signal.getsignal(number) for number in stopping.SIGNALS],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "processes": torch.distributed.is_initialized(),
    }


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was():
    """Which tests share a process is chance: what one leaves behind fails another now and then."""
    before = state_of_process()
    yield
    assert state_of_process() == before


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Tiny folders in the layout of every shipped recipe; read-only by agreement."""
    return tiny.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def fork_server():
    """What `forked` starts processes by."""
    forked.prepare()


@pytest.fixture(scope="session")
def tiny_recipe(data):
    """(name, "key=value", ...) -> a shipped recipe that runs whole in about a second."""

    def load(name, *more):
        return recipe.load(name, tiny.overrides(name, data, *more))

    return load
