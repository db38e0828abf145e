"""What may happen to a run, and what it then says and leaves. `make soak` does it at random."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import soak
import tiny
import torch
from safetensors.torch import load_file, save_file
from test_resume import NAME, SHORT, SMALL, assert_same_files

from segue import recipe
from segue.cli import commands as cli
from segue.errors import SegueError
from segue.inference.model import FILE, read
from segue.models.weights import read_weights
from segue.running.run import run
from segue.runtime.processes import World
from segue.runtime.signals import Stopped, listening, postponed, received
from segue.storage import checkpoint
from segue.storage.lock import locked
from segue.storage.tensors import read_sealed
from segue.storage.whole import read_rows
from segue.training import loop as training


@pytest.fixture(scope="module")
def uninterrupted(tiny_recipe, tmp_path_factory):
    return run(tiny_recipe(NAME, *SHORT), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def at_iteration(monkeypatch):
    """Lets something happen at the beginning of one iteration."""

    def set_up(number, happen):
        original = training.begin

        def begin(one, iteration, micro_batches):
            if iteration == number:
                happen()
            return original(one, iteration, micro_batches)

        monkeypatch.setattr(training, "begin", begin)

    return set_up


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.slow
def test_a_handful_of_random_faults(fork_server, tmp_path):
    words = ["--faults", "4", "--seed", "4", "--systems", "local-alignment", "grouping"]
    process = forked.start(soak.main, words, said=tmp_path / "soak")
    codes, said = forked.ended(process), (tmp_path / "soak.out").read_text()
    assert codes == [0], said + (tmp_path / "soak.err").read_text()
    assert re.search(r"faults: (\d+) injected, \1 recovered, 0 lost", said)


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    reason="tests were started where Ctrl-C is ignored, and so would be what they start",
)
class TestSignals:
    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
    )
    def test_saved_at_the_end_of_the_iteration(
        self, number, code, at_iteration, uninterrupted, tiny_recipe, tmp_path
    ):
        at_iteration(2, send(number))
        with pytest.raises(Stopped) as caught:
            run(tiny_recipe(NAME, *SHORT), tmp_path)
        assert caught.value.exit_code == code
        assert str(caught.value) == (
            f"{number.name}: {tmp_path / 'train'} is saved after iteration 3; the same command "
            "again goes on"
        )
        assert [one for one, _ in checkpoint.found(tmp_path / "train/checkpoints")] == [2, 3]
        at_iteration(99, None)
        run(tiny_recipe(NAME, *SHORT), tmp_path)
        assert_same_files(tmp_path, uninterrupted)

    def test_at_the_command_line_it_is_one_line(
        self, at_iteration, data, tmp_path, capsys, uninterrupted
    ):
        at_iteration(1, send(signal.SIGTERM))
        words = ["run", NAME, *tiny.overrides(NAME, data, *SHORT), "--work-dir", str(tmp_path)]
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 143
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("segue: SIGTERM: ")
        assert line.endswith("is saved after iteration 2; the same command again goes on")

    def test_the_same_signal_twice_is_one(self, at_iteration, tiny_recipe, tmp_path):
        """torchrun and SLURM may both send it."""
        at_iteration(2, lambda: [send(signal.SIGTERM)() for _ in range(3)])
        with pytest.raises(Stopped, match="saved after iteration 3"):
            run(tiny_recipe(NAME, *SHORT), tmp_path)

    def test_who_insists_is_heard_at_once(self, at_iteration, tiny_recipe, tmp_path, monkeypatch):
        monkeypatch.setattr("segue.runtime.signals.INSIST", 0.0)
        at_iteration(3, lambda: [send(signal.SIGINT)() for _ in range(2)])
        with pytest.raises(Stopped, match="SIGINT: stopped; the same command"):
            run(tiny_recipe(NAME, *SHORT), tmp_path)
        assert [one for one, _ in checkpoint.found(tmp_path / "train/checkpoints")] == [2]

    def test_between_stages_it_is_heard_at_once(
        self, monkeypatch, uninterrupted, tiny_recipe, tmp_path
    ):
        evaluate = "segue.stages.evaluate.evaluate"
        with monkeypatch.context() as patch:
            patch.setattr(evaluate, lambda *_, **__: send(signal.SIGTERM)())
            with pytest.raises(Stopped, match="SIGTERM: stopped"):
                run(tiny_recipe(NAME, *SHORT), tmp_path)
        run(tiny_recipe(NAME, *SHORT), tmp_path)
        assert_same_files(tmp_path, uninterrupted)

    def test_handlers_are_given_back_and_ignored_signals_stay_ignored(self):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with listening():
                assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
                assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        finally:
            signal.signal(signal.SIGINT, before)

    def test_a_signal_once_obeyed_ends_nothing_that_comes_after(self):
        """A notebook whose run was ended trains again, perhaps without listening."""
        with pytest.raises(Stopped), listening(), postponed():
            send(signal.SIGTERM)()
        assert received() == 0

    @pytest.mark.slow
    def test_ctrl_c_reaches_the_whole_group_and_the_readers_live_on(self, data, tmp_path):
        """As a terminal sends it: to training and to the processes that read for it."""
        more = (SMALL, "stages.train.iterations=100000", "stages.train.log_every=1", "workers=1")
        plain = "stages.train.source.augment=[]"  # readers take longer to start with any
        words = [*tiny.overrides(NAME, data, *more, plain), "--work-dir", str(tmp_path)]
        process = subprocess.Popen(
            [sys.executable, "-m", "segue", "run", NAME, *words],
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            metrics, deadline = tmp_path / "train/metrics.jsonl", time.monotonic() + 240
            while not (metrics.exists() and len(read_rows(metrics)) > 3):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == 130, said
        (line,) = said.splitlines()
        done = int(re.search(r"is saved after iteration (\d+);", line)[1])
        assert checkpoint.found(tmp_path / "train/checkpoints")[-1][0] == done
        rows = read_rows(metrics)
        assert [row["iteration"] for row in rows] == list(range(1, done + 1))


class TestFolder:
    def test_a_second_run_is_refused(self, tiny_recipe, tmp_path):
        with locked(tmp_path, World()):
            told = rf"{tmp_path}: another run is writing here: process {os.getpid()} on "
            with pytest.raises(SegueError, match=told):
                run(tiny_recipe(NAME, *SHORT), tmp_path)
        assert not (tmp_path / "train").exists()

    def test_a_process_that_was_killed_leaves_no_lock(self, tmp_path):
        pid = os.fork()
        if pid == 0:
            with locked(tmp_path, World()):
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        with locked(tmp_path, World()):
            pass

    def test_where_there_are_no_locks_nothing_is_refused(self, tmp_path, monkeypatch):
        def unknown(*_):
            raise OSError(errno.ENOSYS, "no locks")

        monkeypatch.setattr("fcntl.flock", unknown)
        with locked(tmp_path, World()), locked(tmp_path, World()):
            pass

    @pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
    def test_a_folder_that_cannot_be_written_to(self, number, tiny_recipe, tmp_path, monkeypatch):
        def refuse(path, *_, **__):
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(SegueError) as caught:
            run(tiny_recipe(NAME, *SHORT), tmp_path / "new")
        told = f"new: {os.strerror(number)}; choose a work_dir that can be written to"
        assert str(caught.value) == f"{tmp_path}/{told}"


class TestData:
    @pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
    def test_a_dataset_that_vanishes(self, workers, tmp_path, at_iteration):
        data = tiny.write_data(tmp_path / "data")
        chosen = recipe.load(NAME, tiny.overrides(NAME, data, *SHORT, f"workers={workers}"))
        chosen.stages["train"].iterations = 2000
        at_iteration(2, lambda: shutil.rmtree(data.root))
        with pytest.raises(SegueError) as caught:
            run(chosen, tmp_path / "run")
        assert str(data.root) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert [one for one, _ in checkpoint.found(tmp_path / "run/train/checkpoints")] != []


class TestSeals:
    """A model's file says whether it still is what was written."""

    @pytest.mark.parametrize("name", [FILE, "networks/discriminator.safetensors"])
    def test_an_altered_weight_is_told(self, name, uninterrupted, tmp_path):
        path = tmp_path / "x.safetensors"
        whole = bytearray((uninterrupted / "train" / name).read_bytes())
        whole[-5] ^= 1
        path.write_bytes(whole)
        told = r"x\.safetensors: is damaged: its checksum is not .*; delete the folder of its stage"
        with pytest.raises(SegueError, match=told):
            read_weights(path)
        if name == FILE:
            with pytest.raises(SegueError, match=told):
                read(path)

    def test_an_altered_description_is_told(self, uninterrupted, tmp_path):
        path = tmp_path / "x.safetensors"
        whole = (uninterrupted / "train" / FILE).read_bytes()
        assert whole.count(b"fence") == 1
        path.write_bytes(whole.replace(b"fence", b"fencf"))
        with pytest.raises(SegueError, match="is damaged"):
            read(path)

    def test_one_cut_short_is_told(self, uninterrupted, tmp_path):
        path = tmp_path / "x.safetensors"
        path.write_bytes((uninterrupted / "train" / FILE).read_bytes()[:-9])
        with pytest.raises(SegueError, match=r"cannot be read: .*; train it again"):
            read(path)

    def test_others_files_have_none(self, tmp_path):
        save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
        assert read_sealed(tmp_path / "x.safetensors")[1] is None

    def test_it_is_plain_safetensors_to_others(self, uninterrupted):
        path = uninterrupted / "train" / FILE
        tensors, description = read_sealed(path)
        assert description["format"] == 1
        assert load_file(path).keys() == tensors.keys()

    def test_a_damaged_settings_file_is_told(self, uninterrupted, tiny_recipe, tmp_path):
        shutil.copytree(uninterrupted, tmp_path / "run")
        (tmp_path / "run/train/settings.json").write_text('{"format"')
        with pytest.raises(SegueError, match=r"settings\.json: is damaged; delete .*run/train "):
            run(tiny_recipe(NAME, *SHORT), tmp_path / "run")


def test_deterministic_changes_no_bit_on_a_cpu(uninterrupted, tiny_recipe, tmp_path):
    run(tiny_recipe(NAME, *SHORT, "deterministic=true"), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()
    assert_same_files(tmp_path, uninterrupted)
