"""Checkpoints are written whole or not at all, and read without running anything."""

import errno
import os
import pickle
import random
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import segue
from segue.errors import SegueError
from segue.storage import checkpoint, whole
from segue.storage.whole import DamagedError

STATE = {"networks": {"a": {"weight": torch.arange(4000.0)}}, "seed": 3}


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def failing_after(count, error):
    """A stand-in for `Path.open` whose files take so many bytes and then fail."""
    real = Path.open

    def open_(self, mode="r", *more, **kwargs):
        file = real(self, mode, *more, **kwargs)
        if "w" not in mode:
            return file
        write, written = file.write, [0]

        class Limited:
            def write(self, data):
                written[0] += len(data)
                if written[0] > count:
                    raise error
                return write(data)

            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

        return Limited()

    return open_


def test_state_comes_back(tmp_path):
    checkpoint.save(tmp_path, 7, STATE)
    found = checkpoint.load(checkpoint.path_of(tmp_path, 7))
    assert found["iteration"] == 7
    assert found["seed"] == 3
    assert torch.equal(found["networks"]["a"]["weight"], STATE["networks"]["a"]["weight"])


def test_the_newest_are_kept(tmp_path):
    for iteration in (5, 1000000, 10, 15):
        checkpoint.save(tmp_path, iteration, {}, keep=2)
    assert [iteration for iteration, _ in checkpoint.found(tmp_path)] == [15, 1000000]
    checkpoint.save(tmp_path, 1000001, {}, keep=3)
    assert [iteration for iteration, _ in checkpoint.found(tmp_path)] == [15, 1000000, 1000001]


def test_only_checkpoints_are_found(tmp_path):
    for name in ("iteration_000003.pt", "iteration_000002.pt.partial", "iteration_x.pt", "a.txt"):
        (tmp_path / name).touch()
    assert [iteration for iteration, _ in checkpoint.found(tmp_path)] == [3]
    assert checkpoint.found(tmp_path / "absent") == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("x"), RuntimeError("x")])
def test_nothing_partial_remains_after_an_exception(tmp_path, error):
    path = tmp_path / "file.json"
    path.write_bytes(b"before")

    def write(file):
        file.write(b"half of it")
        raise error

    with pytest.raises(type(error)):
        whole.write_whole(path, write)
    assert files(tmp_path) == ["file.json"]
    assert path.read_bytes() == b"before"


def test_what_cannot_be_saved_leaves_nothing(tmp_path):
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save(tmp_path, 1, {"x": lambda: None})
    assert files(tmp_path) == []


def test_all_that_is_written_goes_through_what_writes_it_whole():
    """But for these, each of which writes elsewhere, flushes and renames by itself."""
    known = {
        "storage/whole.py": 2,  # what writes whole, and what appends
        "datasets/cache.py": 3,  # a store that grows, how far it is, and its lock
        "demo/worlds/writing.py": 1,  # a folder that is put in place
        "predicting/kept_labels.py": 1,  # likewise
        "report/page.py": 1,
    }
    home = Path(segue.__file__).parent
    writes = re.compile(r"""\.(write_text|write_bytes)\(|\bopen\([^()]*?"[rwax+b]*[wax+][b+]*\"""")
    found = {
        path.relative_to(home).as_posix(): len(writes.findall(path.read_text()))
        for path in home.rglob("*.py")
    }
    assert {name: count for name, count in found.items() if count} == known


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "deep" / "file"
    seen = []

    def write(file):
        file.write(b"x" * 100)
        file.flush()
        seen.append(path.exists())

    whole.write_whole(path, write)
    assert seen == [False]
    assert path.read_bytes() == b"x" * 100


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_in_one_line_and_the_last_checkpoint_is_safe(
    tmp_path, monkeypatch, code
):
    checkpoint.save(tmp_path, 1, STATE)
    checkpoint.save(tmp_path, 2, STATE)
    full = OSError(code, os.strerror(code))
    monkeypatch.setattr(Path, "open", failing_after(8000, full))
    with pytest.raises(SegueError) as caught:
        checkpoint.save(tmp_path, 3, STATE, keep=1)
    monkeypatch.undo()
    told = str(caught.value)
    needed = checkpoint.path_of(tmp_path, 2).stat().st_size
    assert f"iteration_000003.pt: no space left on the disk: {needed:,} bytes are needed, " in told
    assert "MiB are free" in told
    assert "free some" in told
    assert "\n" not in told
    assert files(tmp_path) == ["iteration_000001.pt", "iteration_000002.pt"]
    newest = checkpoint.found(tmp_path)[-1][1]
    assert torch.equal(checkpoint.load(newest)["networks"]["a"]["weight"], torch.arange(4000.0))


def test_a_full_disk_as_torchs_own_writer_tells_it(tmp_path):
    def write(file):
        file.write(b"x" * 2**20)
        file.flush()
        raise RuntimeError("[enforce fail at inline_container.cc:672] . file write failed")

    with pytest.raises(SegueError, match=r"no space left.*: 1\.0 MiB are needed"):
        whole.write_whole(tmp_path / "x.pt", write)
    assert files(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path):
    (tmp_path / "iteration_000001.pt.partial").symlink_to("/dev/full")
    with pytest.raises(SegueError, match="no space left on the disk"):
        checkpoint.save(tmp_path, 1, STATE)
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SegueError, match=r"file.*(File exists|Not a directory).*check the folder"):
        checkpoint.save(tmp_path / "file", 1, {})


def damaged(whole):
    random.seed(0)
    yield b""
    yield from (whole[: random.randrange(len(whole))] for _ in range(60))
    for _ in range(60):
        broken = bytearray(whole)
        for place in random.sample(range(len(whole)), 30):
            broken[place] ^= random.randrange(1, 256)
        yield bytes(broken)
    yield from (random.randbytes(random.randrange(300)) for _ in range(60))


def complaint(path):
    try:
        checkpoint.load(path)
    except SegueError as error:
        return str(error)
    return ""


def test_a_damaged_file_is_told(tmp_path):
    checkpoint.save(tmp_path, 1, {"networks": {"weight": torch.zeros(3)}})
    path = checkpoint.path_of(tmp_path, 1)
    refused = 0
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        told = complaint(path)
        assert "\n" not in told
        assert not told or str(path) in told
        refused += bool(told)
    assert refused == 181, "not a bit differs without notice"


def test_a_damage_of_one_bit_anywhere_is_told(tmp_path):
    checkpoint.save(tmp_path, 1, {"networks": {"weight": torch.zeros(3)}})
    path = checkpoint.path_of(tmp_path, 1)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        with pytest.raises(DamagedError, match=r"is damaged|cannot be read"):
            checkpoint.load(path)


def test_without_its_seal_it_is_damaged(tmp_path):
    checkpoint.save(tmp_path, 1, STATE)
    path = checkpoint.path_of(tmp_path, 1)
    path.write_bytes(path.read_bytes()[: -checkpoint._SEALED])
    with pytest.raises(DamagedError, match="its checksum is not that of its contents"):
        checkpoint.load(path)


def test_the_first_format_had_no_seal(tmp_path):
    path = checkpoint.path_of(tmp_path, 4)
    torch.save({"format": 1, "iteration": 4, **STATE}, path)
    assert checkpoint.load(path)["seed"] == 3


def test_the_one_before_a_damaged_one_is_used(tmp_path):
    for iteration in (1, 2, 3):
        checkpoint.save(tmp_path, iteration, STATE, keep=3)
    newest, older = (checkpoint.path_of(tmp_path, iteration) for iteration in (3, 2))
    newest.write_bytes(newest.read_bytes()[:5000])
    older.write_bytes(older.read_bytes()[:-3])
    state, damaged = checkpoint.newest(tmp_path)
    assert state["iteration"] == 1
    assert [error.where for error in damaged] == [newest, older]
    checkpoint.set_aside(newest)
    assert [number for number, _ in checkpoint.found(tmp_path)] == [1, 2]
    assert newest.with_name("iteration_000003.pt.damaged").is_file()


def test_where_none_is_whole_nothing_begins_anew_by_itself(tmp_path):
    checkpoint.save(tmp_path / "checkpoints", 1, STATE)
    path = checkpoint.path_of(tmp_path / "checkpoints", 1)
    path.write_bytes(b"")
    with pytest.raises(SegueError, match=r"no other is whole; delete .* to start the stage anew"):
        checkpoint.newest(tmp_path / "checkpoints")
    assert checkpoint.newest(tmp_path) == (None, [])


def test_what_a_killed_process_left_half_written_goes_with_the_next_checkpoint(tmp_path):
    (tmp_path / "iteration_000005.pt.partial").write_bytes(b"half")
    checkpoint.save(tmp_path, 6, STATE)
    assert files(tmp_path) == ["iteration_000006.pt"]


def limited_to(count):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))

    return limit


def test_a_limit_on_the_size_of_files_is_told(tmp_path):
    """The kernel's own refusal, in a process of its own."""
    code = (
        "import sys, torch; from pathlib import Path; from segue.storage import checkpoint\n"
        "state = {'weight': torch.zeros(50_000)}\n"
        "try: checkpoint.save(Path(sys.argv[1]), 1, state)\n"
        "except checkpoint.SegueError as error: print(error)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        preexec_fn=limited_to(100_000), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert re.search(r"may not become so large here: 20\d,\d+ bytes are needed", ended.stdout)
    assert files(tmp_path) == []


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "pwned",)

    path = tmp_path / "iteration_000001.pt"
    for write in (pickle.dump, torch.save):
        with path.open("wb") as file:
            write({"format": checkpoint.FORMAT, "iteration": 1, "networks": Evil()}, file)
        with pytest.raises(SegueError, match="cannot be read as a checkpoint"):
            checkpoint.load(path)
        assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "state", [{"format": 3, "iteration": 1}, {"format": 1}, {}, [1], torch.zeros(2)]
)
def test_another_format_is_told(tmp_path, state):
    path = tmp_path / "x.pt"
    torch.save(state, path)
    with pytest.raises(SegueError, match="not a checkpoint of this version"):
        checkpoint.load(path)
