"""Predicting files and folders: sizes, names, places, and inputs that will not do."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import random_image, save_image
from PIL import Image
from rich.console import Console

from segue import model, predicting
from segue.errors import SegueError
from segue.label_space import CITYSCAPES
from segue.model import Ensemble, Model
from segue.models import MODELS
from segue.predicting import plan, predict

NETWORK = {"kind": "deeplab_v2", "backbone": "test_resnet", "weights": None}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model with random weights, read from a folder as a run leaves it."""
    torch.manual_seed(0)
    segmenter = MODELS["deeplab_v2"](19, backbone="test_resnet")
    folder = tmp_path_factory.mktemp("run") / "train"
    Model(segmenter, CITYSCAPES, (64, 32), NETWORK, {"main": 1.0}).save(folder / model.FILE)
    return model.load(folder)


def image_file(path, size=(12, 8), seed=0):
    save_image(path, random_image(seed, size))
    return path


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def labels(jobs, output):
    return [job.label.relative_to(output).as_posix() for job in jobs]


@pytest.mark.parametrize("size", [(64, 32), (37, 91), (1, 1), (5, 300), (301, 3)])
def test_any_size(models, tmp_path, size):
    path = image_file(tmp_path / "in.png", size)
    (label,) = predict(models, [path], tmp_path / "out")
    assert label == tmp_path / "out" / "in_label.png"
    with Image.open(label) as stored:
        assert (stored.mode, stored.size) == ("L", size)
        ids = np.array(stored)
    np.testing.assert_array_equal(ids, models.predict(path))
    with Image.open(tmp_path / "out" / "in_colour.png") as colour:
        np.testing.assert_array_equal(np.array(colour.convert("RGB")), CITYSCAPES.colour(ids))


def test_several_models_are_averaged(models, tmp_path):
    torch.manual_seed(1)
    segmenter = MODELS["deeplab_v2"](19, backbone="test_resnet").eval()
    other = Model(segmenter, CITYSCAPES, (48, 48), NETWORK, {"main": 1.0})
    both, path = Ensemble([*models.models, other]), image_file(tmp_path / "a.png", (40, 30))
    (label,) = predict(both, [path], tmp_path / "out")
    np.testing.assert_array_equal(np.array(Image.open(label)), both.predict(path))


def test_a_folder_keeps_its_structure(models, tmp_path):
    folder = tmp_path / "street scenes"
    for name in ("b.jpg", "deep/er/Zürich 01.PNG", "deep/東京.webp", "a.b.png"):
        image_file(folder / name)
    (folder / "notes.txt").write_text("no image, and not taken for one")
    image_file(folder / ".hidden.png")
    image_file(folder / ".cache" / "thumbnail.png")
    written = predict(models, [folder], tmp_path / "out")
    expected = ["a.b", "b", "deep/er/Zürich 01", "deep/東京"]
    assert written == [tmp_path / "out" / f"{name}_label.png" for name in expected]
    assert names(tmp_path / "out") == sorted(
        f"{name}_{kind}.png" for name in expected for kind in ("label", "colour")
    )


def test_same_names_do_not_overwrite_each_other(tmp_path):
    files = [image_file(tmp_path / name) for name in ("x/1.png", "y/1.jpg", "y/1.png", "z/1-2.png")]
    output = tmp_path / "out"
    assert labels(plan(files, output), output) == [
        *("1_label.png", "1-2_label.png", "1-3_label.png", "1-2-2_label.png")
    ]
    # Names that are one on some file systems: letter case, composed and decomposed letters.
    first, second = (
        image_file(tmp_path / "p/Zu\u0308rich.png"),
        image_file(tmp_path / "q/ZÜRICH.png"),
    )
    stems = [job.label.name for job in plan([first, second], output)]
    assert stems == ["Zu\u0308rich_label.png", "ZÜRICH-2_label.png"]


def test_several_folders_keep_their_names(tmp_path):
    for name in ("a/1.png", "b/1.png", "else/b/1.png"):
        image_file(tmp_path / name)
    single = image_file(tmp_path / "1.png")
    output = tmp_path / "out"
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "else" / "b", single]
    assert labels(plan(paths, output), output) == [
        *("a/1_label.png", "b/1_label.png", "b/1-2_label.png", "1_label.png")
    ]
    given_twice = plan([tmp_path / "a", tmp_path / "a" / "1.png"], output)
    assert labels(given_twice, output) == ["a/1_label.png"]


def test_links(tmp_path):
    real = tmp_path / "disk"
    image_file(real / "1.png")
    folder = tmp_path / "in"
    image_file(folder / "0.png")
    (folder / "linked").symlink_to(real, target_is_directory=True)
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "dangling.png").symlink_to(tmp_path / "gone.png")
    output = tmp_path / "out"
    assert labels(plan([folder], output), output) == ["0_label.png", "linked/1_label.png"]


def test_never_outside_the_output(models, tmp_path):
    image_file(tmp_path / "in" / "deep" / "1.png")
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    output.mkdir()
    (output / "deep").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(SegueError, match=r"out/deep: is a link that leads out of the output"):
        predict(models, [tmp_path / "in"], output)
    assert not any(elsewhere.iterdir())


def test_a_link_in_place_of_a_prediction_is_replaced_not_followed(models, tmp_path):
    precious = image_file(tmp_path / "precious.png")
    before = precious.read_bytes()
    path, output = image_file(tmp_path / "in.png"), tmp_path / "out"
    output.mkdir()
    (output / "in_label.png").symlink_to(precious)
    predict(models, [path], output)
    assert precious.read_bytes() == before
    assert not (output / "in_label.png").is_symlink()


def test_inputs_are_never_overwritten(models, tmp_path):
    folder = tmp_path / "in"
    first, second = image_file(folder / "a.png"), image_file(folder / "a_label.png")
    with pytest.raises(SegueError, match=r"in: is both read from and written to; choose another"):
        predict(models, [folder], folder)
    with pytest.raises(SegueError, match=r"a\.png would overwrite this input; choose another"):
        predict(models, [first, second], folder)
    assert names(folder) == ["a.png", "a_label.png"]


def test_an_output_inside_a_folder_is_not_read_again(models, tmp_path):
    image_file(tmp_path / "a.png")
    output = tmp_path / "out"
    for _ in range(2):
        assert predict(models, [tmp_path], output) == [output / "a_label.png"]
    assert names(output) == ["a_colour.png", "a_label.png"]


def test_resume(models, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    for index in range(3):
        image_file(folder / f"{index}.png", seed=index)
    predict(models, [folder], output)
    (output / "1_colour.png").unlink()
    label = output / "2_label.png"
    label.write_bytes(b"")
    os.utime(label, (0, 0))  # older than its image
    written = predict(models, [folder], output, resume=True)
    assert [path.name for path in written] == ["1_label.png", "2_label.png"]
    assert predict(models, [folder], output, resume=True) == []
    assert len(predict(models, [folder], output)) == 3


def test_what_is_no_image_does_not_stop_the_rest(models, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    for name in ("0.png", "2.png", "4.png"):
        image_file(folder / name)
    (folder / "1.png").write_text("[bold]text[/bold]")
    whole = (folder / "2.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "5.png").write_bytes(b"")
    shown = io.StringIO()
    console = Console(file=shown, width=80)
    with pytest.raises(
        SegueError, match=r"3 of 6 images could not .*the others are done"
    ) as caught:
        predict(models, [folder], output, console=console)
    assert len(names(output)) == 6
    lines = [line for line in shown.getvalue().splitlines() if str(folder) in line]
    assert lines == caught.value.__notes__
    expected = ("1.png: not an image", "3.png: the image is truncated", "5.png: the file is empty")
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(str(folder / start))
    assert "predict: 6/6" in shown.getvalue()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: [root / "gone"], r"gone: no such file or folder; check the path"),
        (lambda root: [root / "empty"], r"empty: holds no image; they end in \.bmp .*\.png"),
        (lambda root: [], r"no images are given; name image files or folders"),
    ],
)
def test_paths_that_will_not_do(models, tmp_path, make, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegueError, match=message) as caught:
        predict(models, make(tmp_path), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(models, tmp_path):
    path = image_file(tmp_path / "a.png")
    with pytest.raises(SegueError, match=r"a\.png: is a file, not a folder; choose another"):
        predict(models, [path], path)


def test_a_full_disk_stops_at_once(models, tmp_path, monkeypatch):
    for index in range(40):
        image_file(tmp_path / "in" / f"{index}.png")
    tried = []

    def full(path, write):
        tried.append(path)
        error = OSError(errno.ENOSPC, "No space left on device")
        raise SegueError("no space left on the disk", where=path, fix="free some") from error

    monkeypatch.setattr(predicting, "write_whole", full)
    with pytest.raises(SegueError, match="no space left"):
        predict(models, [tmp_path / "in"], tmp_path / "out")
    assert len(tried) < 40


class Exhausted(Ensemble):
    """Runs out of memory on wide images, as torch tells it on the CPU."""

    def predict(self, image):
        if np.asarray(image).shape[1] > 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return super().predict(image)


def test_an_image_too_large_for_the_memory(models, tmp_path):
    paths = [image_file(tmp_path / "wide.png", (200, 2)), image_file(tmp_path / "small.png")]
    with pytest.raises(SegueError, match="1 of 2 images") as caught:
        predict(Exhausted(models.models), paths, tmp_path / "out")
    (note,) = caught.value.__notes__
    assert "wide.png: 200x2 pixels do not fit the memory; cut it" in note
    assert Path(tmp_path / "out" / "small_label.png").is_file()
