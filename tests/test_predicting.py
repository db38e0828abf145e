"""Predicting files and folders: sizes, names, places, and inputs that will not do."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script  # noqa: N813
from dataset_files import random_image, save_image
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from segue import predicting, work_dir
from segue.cli.commands import app
from segue.errors import SegueError
from segue.inference import model
from segue.inference.model import Ensemble, Model
from segue.label_space import CITYSCAPES, CITYSCAPES_16, CITYSCAPES_IDS, LabelSpace
from segue.models import MODELS
from segue.predicting import kinds, plan, predict, through_network
from segue.predicting.writing import WRITERS, Predicted, refuse_unfit
from segue.runtime import signals as stopping

NETWORK = {"kind": "deeplab_v2", "backbone": "test_resnet", "weights": None}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model with random weights, read from a folder as a run leaves it."""
    torch.manual_seed(0)
    segmenter = MODELS["deeplab_v2"](19, backbone="test_resnet")
    folder = tmp_path_factory.mktemp("run") / "train"
    Model(segmenter, CITYSCAPES, (64, 32), NETWORK, {"main": 1.0}).save(folder / model.FILE)
    return work_dir.load(folder)


def image_file(path, size=(12, 8), seed=0):
    save_image(path, random_image(seed, size))
    return path


def read_png(path):
    with Image.open(path) as picture:
        return np.array(picture)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def labels(whole, output):
    return [job.outputs[0].relative_to(output).as_posix() for job in whole.images]


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
    stems = [job.outputs[0].name for job in plan([first, second], output).images]
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

    monkeypatch.setattr(through_network, "write_whole", full)
    with pytest.raises(SegueError, match="no space left"):
        predict(models, [tmp_path / "in"], tmp_path / "out")
    assert len(tried) < 40


class Exhausted(Ensemble):
    """Runs out of memory on wide images, as torch tells it on the CPU."""

    def predict_all(self, images, **more):
        if any(image.shape[1] > 100 for image in images):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return super().predict_all(images, **more)


def test_an_image_too_large_for_the_memory(models, tmp_path):
    paths = [image_file(tmp_path / "wide.png", (200, 2)), image_file(tmp_path / "small.png")]
    with pytest.raises(SegueError, match="1 of 2 images") as caught:
        predict(Exhausted(models.models), paths, tmp_path / "out")
    (note,) = caught.value.__notes__
    assert "wide.png: 200x2 pixels do not fit the memory; cut it" in note
    assert Path(tmp_path / "out" / "small_label.png").is_file()


@pytest.mark.parametrize("batch", [1, 3])
def test_overlay_and_confidence(models, tmp_path, batch):
    sizes = [(40, 30), (31, 57), (64, 32), (40, 30)]
    folder, output = tmp_path / "in", tmp_path / "out"
    for index, size in enumerate(sizes):
        image_file(folder / f"{index}.png", size, seed=index)
    write = kinds(overlay=True, confidence=True)
    predict(models, [folder], output, write=write, batch=batch)
    assert len(names(output)) == 4 * len(sizes)
    for index in range(len(sizes)):
        shown = models.show(folder / f"{index}.png")
        read = {kind: read_png(output / f"{index}_{kind}.png") for kind in write}
        clear = read["label"] == shown.labels
        assert clear.mean() > 0.999, "but for ties"
        assert np.abs(read["confidence"] - 255.0 * shown.confidence).max() < 0.51
        assert np.abs(read["overlay"].astype(int) - shown.overlay)[clear].max() <= 1


def test_resume_looks_at_every_file_that_is_asked_for(models, tmp_path):
    path, output = image_file(tmp_path / "a.png"), tmp_path / "out"
    predict(models, [path], output)
    assert predict(models, [path], output, resume=True) == []
    write = kinds(confidence=True)
    assert len(predict(models, [path], output, write=write, resume=True)) == 1
    assert predict(models, [path], output, write=write, resume=True) == []


def test_patterns(models, tmp_path):
    for name in ("a/x/1.jpg", "a/x/2.png", "a/y/1.jpg", "a/.hidden/1.jpg", "b/1.jpg"):
        image_file(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    output = tmp_path / "out"

    def found(*patterns):
        return labels(plan([str(tmp_path / one) for one in patterns], output), output)

    assert found("a/**/*.jpg") == ["x/1_label.png", "y/1_label.png"]
    assert found("a/x/[12].*") == ["1_label.png", "2_label.png"]
    assert found("a/*") == ["x/1_label.png", "x/2_label.png", "y/1_label.png"]
    # Of several paths each keeps the name of the folder in front of the wildcard.
    assert found("a/x/*.jpg", "b/*") == ["x/1_label.png", "b/1_label.png"]
    predict(models, [tmp_path / "a"], tmp_path / "a" / "out")
    assert labels(plan([str(tmp_path / "a/**/*.png")], tmp_path / "a/out"), tmp_path / "a/out") == [
        "x/2_label.png"
    ]
    with pytest.raises(SegueError, match=r"a/\*\.bmp: matches no image; they end in"):
        found("a/*.bmp")
    # A file whose name looks like a pattern is that file.
    image_file(tmp_path / "c[1].png")
    assert found("c[1].png") == ["c[1]_label.png"]


CITY = "lindau/lindau_000001_000019_leftImg8bit.png"


def test_cityscapes_submission_is_found_by_its_own_script(models, tmp_path, capsys):
    from cityscapesscripts.helpers.labels import trainId2label

    folder, output = tmp_path / "leftImg8bit" / "test", tmp_path / "out"
    image_file(folder / CITY, (40, 30))
    image_file(folder / "bad-honnef/bad-honnef_000000_000019_leftImg8bit.png", (40, 30))
    write = kinds(submission="cityscapes", overlay=True)
    predict(models, [folder], output, write=write)
    assert names(output / "cityscapes") == [
        *("bad-honnef_000000_000019_pred_labelIds.png", "lindau_000001_000019_pred_labelIds.png")
    ]
    for city in ("lindau_000001_000019", "bad-honnef_000000_000019"):
        arguments = script.CArgs()
        arguments.predictionPath, arguments.predictionWalk = str(output / "cityscapes"), None
        found = script.getPrediction(arguments, f"{city}_gtFine_labelIds.png")
        assert found == str(output / "cityscapes" / f"{city}_pred_labelIds.png")
    ids = np.array(Image.open(output / "cityscapes/lindau_000001_000019_pred_labelIds.png"))
    trained = models.predict(folder / CITY)
    np.testing.assert_array_equal(ids, np.vectorize(lambda x: trainId2label[x].id)(trained))
    assert (output / CITY).with_name("lindau_000001_000019_leftImg8bit_overlay.png").is_file()


def test_cityscapes_script_scores_a_submission(models, tmp_path, capsys):

    image_file(tmp_path / CITY, (40, 30))
    (written,) = predict(models, [tmp_path / CITY], tmp_path, write=["cityscapes"])
    truth = tmp_path / "lindau_000001_000019_gtFine_labelIds.png"
    truth.write_bytes(written.read_bytes())
    script.args.evalInstLevelScore = script.args.JSONOutput = False
    script.args.evalLabels, script.args.quiet = [], True
    scores = script.evaluateImgLists([str(written)], [str(truth)], script.args)
    assert scores["averageScoreClasses"] == 1.0


@pytest.mark.parametrize("kind", ["cityscapes", "acdc"])
def test_a_model_of_16_classes_writes_the_benchmarks_ids(kind):
    """Those of the class names, not its own 16 train ids."""
    labels = np.array([[*range(16), 255]], np.uint8)
    one = Predicted(np.zeros((1, 17, 3), np.uint8), labels, None, CITYSCAPES_16)
    refuse_unfit([kind], CITYSCAPES_16)
    ids = np.asarray(WRITERS[kind].picture(one))[0].tolist()
    raw = {train: raw for raw, train in CITYSCAPES_IDS.items()}
    trains = [CITYSCAPES.train_id(name) for name in CITYSCAPES_16.classes]
    assert ids == [*(trains if kind == "acdc" else map(raw.get, trains)), 255]


def test_acdc_submission(models, tmp_path):
    name = "night/test/GOPR0355/GOPR0355_frame_000138_rgb_anon.png"
    image_file(tmp_path / "rgb_anon" / name, (40, 30))
    predict(models, [tmp_path / "rgb_anon"], tmp_path / "out", write=kinds(submission="acdc"))
    assert names(tmp_path / "out") == [f"acdc/labelTrainIds/{Path(name).name}"]
    ids = np.array(Image.open(tmp_path / "out/acdc/labelTrainIds" / Path(name).name))
    np.testing.assert_array_equal(ids, models.predict(tmp_path / "rgb_anon" / name))


def test_submissions_that_no_server_would_take(models, tmp_path):
    output = tmp_path / "out"
    path = image_file(tmp_path / "photo.png")
    for name, told in (("cityscapes", "a Cityscapes"), ("acdc", "an ACDC")):
        with pytest.raises(SegueError, match=rf"photo\.png: is no name of {told} image; its"):
            predict(models, [path], output, write=kinds(submission=name))
    first = image_file(tmp_path / "a" / CITY)
    second = image_file(tmp_path / "b" / CITY)
    with pytest.raises(SegueError, match=r"lindau.*lindau.* would both be this file"):
        predict(models, [first, second], output, write=["cityscapes"])
    torch.manual_seed(0)
    segmenter = MODELS["deeplab_v2"](2, backbone="test_resnet")
    space = LabelSpace.from_settings("toy", ["sky", "road"])
    few = Ensemble([Model(segmenter, space, (64, 32), NETWORK, {"main": 1.0})])
    with pytest.raises(SegueError, match=r"scores the 19 classes .* has 2 of its own \(toy\)"):
        predict(few, [first], output, write=["acdc"])
    with pytest.raises(SegueError, match="no submission is called 'kitti'"):
        kinds(submission="kitti")
    with pytest.raises(SegueError, match="nothing called 'lables' is written; did you mean"):
        predict(models, [first], output, write=["lables"])
    assert not output.exists()


def test_images_that_fit_the_memory_only_alone(models, tmp_path):
    class Tight(Ensemble):
        def predict_all(self, images, **more):
            if len(images) > 1:
                raise torch.OutOfMemoryError
            return super().predict_all(images, **more)

    for index in range(5):
        image_file(tmp_path / "in" / f"{index}.png", seed=index)
    (tmp_path / "in" / "2.png").write_text("no image")
    with pytest.raises(SegueError, match="1 of 5 images"):
        predict(Tight(models.models), [tmp_path / "in"], tmp_path / "out", batch=4)
    assert len(names(tmp_path / "out")) == 8


def test_the_command(models, tmp_path):
    file = tmp_path / "m.safetensors"
    models.models[0].save(file)
    image_file(tmp_path / "in" / "a.png", (90, 50))
    out = tmp_path / "out"
    command = ["predict", str(file), str(tmp_path / "in/*.png"), "-o", str(out), "--batch", "2"]
    told = CliRunner().invoke(app, [*command, "--policy", "sliding", "--overlay", "--confidence"])
    assert told.exit_code == 0, told.output
    assert "1 image labelled in" in told.output
    assert "img" in told.output
    kinds_there = ("colour", "confidence", "label", "overlay")
    assert names(out) == [f"a_{kind}.png" for kind in kinds_there]
    sliding = models.looking("sliding").predict(tmp_path / "in" / "a.png")
    np.testing.assert_array_equal(np.array(Image.open(out / "a_label.png")), sliding)
    assert not np.array_equal(sliding, models.predict(tmp_path / "in" / "a.png"))
    told = CliRunner().invoke(app, [*command, "--policy", "slide"])
    assert "no policy is called 'slide'" in str(told.exception)


@pytest.mark.parametrize("words", [[], ["--resume"]])
def test_who_is_stopped_is_told_how_to_go_on(models, tmp_path, monkeypatch, words):
    """Without --resume the same command would begin anew."""

    def stop(*_, **__):
        raise stopping.Stopped(2)

    monkeypatch.setattr(predicting, "predict", stop)
    models.models[0].save(tmp_path / "m.safetensors")
    command = ["predict", str(tmp_path / "m.safetensors"), "a.png", "-o", str(tmp_path), *words]
    told = "the same command again" if words else "the same command with --resume"
    with pytest.raises(stopping.Stopped, match=f"^SIGINT: stopped; {told} goes on$"):
        CliRunner().invoke(app, command)
