"""What `model.predict` takes: the same picture through any door gives the same labels."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import random_image
from made_pictures import pgm, saved
from PIL import Image
from safetensors import safe_open

from segue import work_dir
from segue.checking import check
from segue.cli.commands import main
from segue.datasets.depth import Range
from segue.errors import SegueError
from segue.inference import model as models_
from segue.inference.evaluation import evaluate
from segue.inference.inputs import as_array
from segue.inference.model import Ensemble, Model
from segue.label_space import LabelSpace
from segue.models import MODELS
from segue.predicting import predict
from segue.recipe import build as assembly

NETWORK = {"kind": "deeplab_v2", "backbone": "test_resnet", "weights": None}
SPACE = LabelSpace.from_settings("toy", ["sky", "road", "plant", "person", "car"])
DEEP = Range(100, 3000)


def model_of(range_=None, seed=0, size=(64, 32)):
    torch.manual_seed(seed)
    segmenter = MODELS["deeplab_v2"](5, backbone="test_resnet").eval()
    # At random one class wins everywhere: each class's mean is taken off.
    image = torch.from_numpy(deep_picture() / 4095)[None, None].float().repeat(1, 3, 1, 1)
    with torch.no_grad():
        mean = segmenter(image).logits["main"].mean((0, 2, 3))
        next(one for name, one in segmenter.heads.named_parameters() if one.shape == (5,)).sub_(
            mean
        )
    return Model(segmenter, SPACE, size, NETWORK, {"main": 1.0}, range=range_)


def deep_picture(size=(40, 24)):
    """Blocks of 12 bits, [H, W] uint16."""
    values = np.random.default_rng(0).integers(0, 4096, (size[1] // 8, size[0] // 8))
    return values.repeat(8, 0).repeat(8, 1).astype(np.uint16)


def test_any_form_gives_the_same_labels(tmp_path):
    model, array = model_of(), random_image(size=(40, 24))
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    wanted = model.predict(path)
    assert len(np.unique(wanted)) > 1
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    alpha = np.dstack([array, np.full((24, 40), 9, np.uint8)])
    forms = {
        "text": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "file in memory": io.BytesIO(path.read_bytes()),
        "picture": Image.fromarray(array),
        "picture with alpha": Image.fromarray(alpha),
        "array": array,
        "array with alpha": alpha,
        "array not in one piece": np.asfortranarray(array),
        "read-only array": np.broadcast_to(array, array.shape),
        "array of floats": array / 255,
        "array of float32": (array / 255).astype(np.float32),
        "array of 16 bits": array.astype(np.uint16) * 257,
        "array of the other byte order": (array.astype(np.uint16) * 257).astype(">u2"),
        "tensor": tensor,
        "tensor of floats": tensor.float() / 255,
        "tensor with a gradient": (tensor.double() / 255).requires_grad_(),
        "tensor with alpha": torch.from_numpy(alpha).permute(2, 0, 1),
        "tensor of 16 bits": torch.from_numpy(array.astype(np.uint16) * 257).permute(2, 0, 1),
    }
    for name, form in forms.items():
        assert (model.predict(form) == wanted).all(), name
        if name not in ("file in memory",):
            label, _ = Ensemble([model]).predict_with_confidence(form)
            assert (label == wanted).all(), name
    with path.open("rb") as file:
        assert (model.predict(file) == wanted).all()
    every = model.predict([path, array, tensor[:, :16]])
    assert [one.shape for one in every] == [(24, 40), (24, 40), (16, 40)]
    assert (every[0] == wanted).all()
    assert model.predict(()) == []


def test_grey_in_any_form():
    grey = random_image(size=(40, 24))[..., 0]
    wanted = as_array(np.dstack([grey] * 3))
    for form in (grey, grey[..., None], grey / 255, Image.fromarray(grey), torch.from_numpy(grey),
                 torch.from_numpy(grey)[None], saved(grey, "png")):  # fmt: skip
        assert (as_array(form) == wanted).all()


WRONG = {
    "nothing": (None, "NoneType is no image; give a path"),
    "number": (5, "int is no image"),
    "dict": ({}, "dict is no image"),
    "flags": (np.zeros((4, 4), bool), "numbers of kind bool are no image; convert"),
    "flags in a tensor": (torch.zeros(4, 4, dtype=torch.bool), "kind bool are no image"),
    "complex": (np.zeros((4, 4), complex), "kind complex128"),
    "complex tensor": (torch.zeros(4, 4, dtype=torch.complex64), "complex64 is no image"),
    "objects": (np.full((4, 4), None), "kind object"),
    "int64": (np.zeros((4, 4, 3), int), "64 bit signed values from 0 to 0, of which nothing"),
    "int64 tensor": (torch.zeros(3, 4, 4, dtype=torch.long), "64 bit signed values"),
    "floats to 255": (np.full((4, 4, 3), 200.0), "64 bit float values from 200 to 200"),
    "negative floats": (torch.full((3, 4, 4), -0.5), "32 bit float values from -0.5"),
    "NaN": (np.full((4, 4), np.nan, np.float32), "none of them finite"),
    "CHW array": (np.zeros((3, 8, 9), np.uint8), "[3, 8, 9] is no image; .* channels to the end"),
    "HWC tensor": (torch.zeros(8, 9, 3), "[8, 9, 3] is no image; .* channels to the front"),
    "two channels": (np.zeros((8, 9, 2), np.uint8), "[8, 9, 2] is no image"),
    "batch": (np.zeros((2, 8, 9, 3), np.uint8), "[2, 8, 9, 3] is a batch; give a list"),
    "batch of tensors": (torch.zeros(2, 3, 8, 9), "[2, 3, 8, 9] is a batch; give a list"),
    "line": (np.zeros(8, np.uint8), "[8] is no image"),
    "nothing in it": (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
    "empty tensor": (torch.zeros(3, 0, 4), "has no pixels"),
    "no bytes": (b"", "the file is empty"),
    "text in bytes": (b"hello", "not an image"),
    "text file": (io.StringIO("hello"), "gives str, not bytes; open it with 'rb'"),
    "no file": ("nowhere.png", "nowhere.png: no such file"),
    "sparse": (torch.zeros(4, 4).to_sparse(), "is no image"),
    "meta": (torch.zeros(3, 4, 4, device="meta"), "without values"),
    "list in a list": ([[np.zeros((4, 4), np.uint8)]], "list is no image"),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_one_line(name):
    given, told = WRONG[name]
    with pytest.raises(SegueError) as caught:
        model_of().predict(given)
    line = str(caught.value)
    assert "\n" not in line
    for part in told.split(" .* "):
        assert part in line


def test_closed_files_are_one_line(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(random_image()).save(path)
    with path.open("rb") as file:
        pass
    with pytest.raises(SegueError, match=r"a\.png: cannot be read"):
        model_of().predict(file)
    with path.open() as text, pytest.raises(SegueError, match=r"a\.png: .*'rb'"):
        model_of().predict(text)
    picture = Image.open(path)
    picture.close()
    with pytest.raises(SegueError, match=r"a\.png: "):
        model_of().predict(picture)


def test_deep_pictures_by_every_door(tmp_path, monkeypatch):
    """A model of 12 bits: path, array, tensor, upload, pipe, folder, evaluation agree."""
    from fastapi.testclient import TestClient

    from segue.serving.app import create_app
    from segue.serving.served import Served
    from segue.serving.uploads import Limits

    values, model = deep_picture(), model_of(DEEP)
    share = (values.astype(float) - 100) / 2900
    shown = np.rint(share.clip(0, 1) * 255).astype(np.uint8)
    model.save(tmp_path / "run" / models_.FILE)
    models = work_dir.load(tmp_path / "run")
    assert models.range == DEEP
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path)
    wanted = replace(model, range=None).predict(np.dstack([shown] * 3))
    assert (wanted != replace(model, range=None).predict(path)).any()
    for form in (path, values, torch.from_numpy(values), path.read_bytes(), Image.open(path),
                 Image.fromarray(values), values.astype(np.float32), values.astype(np.int64),
                 pgm(values, 4095), saved(values, "tiff")):  # fmt: skip
        assert (models.predict(form) == wanted).all()
    (label,) = predict(models, [path], tmp_path / "out")
    assert (np.array(Image.open(label)) == wanted).all()
    app = create_app(Served(models, "x"), Limits(), host="127.0.0.1")
    with TestClient(app, base_url="http://127.0.0.1") as client:
        reply = client.post("/labels", files={"image": ("a.png", path.read_bytes())})
    assert (np.array(Image.open(io.BytesIO(reply.content))) == wanted).all()
    stream = io.TextIOWrapper(io.BytesIO(pgm(values, 4095) * 2))
    monkeypatch.setattr("sys.stdin", stream)
    predict(models, ["-"], tmp_path / "piped")
    frame = Image.open(tmp_path / "piped/stdin_frames/000001_label.png")
    assert (np.array(frame) == wanted).all()
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    path.rename(tmp_path / "images/a.png")
    Image.fromarray(wanted).save(tmp_path / "labels/a.png")
    from segue.datasets import folder

    labelled = folder(tmp_path, images="images/*.png", label_space=SPACE)
    assert evaluate(models, labelled, ["5"]).miou["5"] == 1.0


def test_a_range_makes_another_format_that_old_versions_refuse(tmp_path):
    for range_, format_ in ((None, 1), (DEEP, 2), (Range("1%", "99%"), 2)):
        model_of(range_).save(tmp_path / models_.FILE)
        with safe_open(tmp_path / models_.FILE, "pt") as file:
            text = " ".join(file.metadata().values())
        assert f'"format": {format_}' in text
        assert ('"range"' in text) == (range_ is not None)
        assert models_.read(tmp_path / models_.FILE).range == range_


def test_models_of_different_ranges_are_not_averaged():
    with pytest.raises(SegueError, match="different ranges"):
        Ensemble([model_of(DEEP), model_of()])


def test_models_say_what_they_are():
    one = repr(Ensemble([model_of(DEEP)]))
    for part in ("5 classes of toy", "DeepLab-v2", "M parameters", "normalisation", "64x32",
                 "range 100 to 3000", "cpu"):  # fmt: skip
        assert part in one
    assert "\n" not in one
    assert repr(model_of()).startswith("Model(5 classes of toy; DeepLab-v2")


@pytest.fixture
def twelve_bits(tmp_path):
    """A recipe on images of 12 bits in 16, beside their labels."""
    for index in range(4):
        values = np.random.default_rng(index).integers(0, 3767, (24, 48)).astype(np.uint16)
        values[0, :2] = 0, 3766
        for place in ("images", "labels"):
            (tmp_path / place).mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / f"images/{index}.tif")
        Image.fromarray((values // 800).astype(np.uint8)).save(tmp_path / f"labels/{index}.png")
    settings = {
        "label_space": {"name": "toy", "classes": list(SPACE.classes)},
        "workers": 0,
        "device": "cpu",
        "data": {
            name: {"kind": "folder", "root": str(tmp_path), "images": "images/*.tif"}
            for name in ("source", "validation")
        },
        "stages": {
            "train": {
                "kind": "train",
                "iterations": 2,
                "batch_size": 2,
                "source": {"data": "source", "size": [48, 24]},
                "networks": {
                    "segmenter": {**{key: one for key, one in NETWORK.items() if one},
                                  "optimiser": {"kind": "sgd", "lr": 0.01}}
                },
                "terms": {"segmentation": {"kind": "cross_entropy"}},
            },
            "evaluate": {
                "kind": "evaluate", "data": "validation", "size": [48, 24], "models": ["train"]
            },
        },
    }  # fmt: skip
    path = tmp_path / "deep.yaml"
    path.write_text(json.dumps(settings))
    return path


def checked(path, *overrides):
    from segue.recipe import load

    return check(load(str(path), list(overrides)))


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code or 0


def rows_of(report, title):
    return dict(dict(report.sections)[title])


def test_check_says_what_it_measured(twelve_bits):
    report = checked(twelve_bits)
    told = "16 bit, values 0 to 3766, read as 0 to 14 of 255"
    assert rows_of(report, "data.source")["depth"] == told
    assert f"data.source: {told}; set `range: [0, 3766]`" in report.warnings
    report = checked(twelve_bits, "data.source.range=[0, 3766]", "data.validation.range=[0,1000]")
    assert rows_of(report, "data.source")["depth"] == (
        "16 bit, values 0 to 3766, read as 0 to 255 of 255 by range 0 to 3766"
    )
    assert not [line for line in report.warnings if line.startswith("data.source")]
    (clipped,) = [line for line in report.warnings if line.startswith("data.validation")]
    assert "% of the values lie outside; unless meant so, set `range: [0, 3766]`" in clipped


def test_check_of_floats_and_of_a_range_for_nothing(twelve_bits):
    images = twelve_bits.parent / "images"
    for path in images.iterdir():
        kelvin = np.random.default_rng(0).uniform(290, 310, (24, 48)).astype(np.float32)
        Image.fromarray(kelvin).save(path)
    report = checked(twelve_bits)
    assert any("32 bit float values from 29" in line and "set `range`" in line
               for line in report.problems)  # fmt: skip
    report = checked(
        twelve_bits, "data.source.range=['1%','99%']", "data.validation.range=[280,320]"
    )
    assert not report.problems
    for path in images.iterdir():
        Image.fromarray(random_image(size=(48, 24))).save(path)
    report = checked(twelve_bits, "data.source.range=[0,4095]")
    assert any("range 0 to 4095 is not used" in line for line in report.warnings)


@pytest.mark.parametrize("value", ["[1, 0]", "5", "['a', 'b']"])
def test_a_wrong_range_is_a_line(value, twelve_bits, capsys):
    assert command("check", twelve_bits, f"data.source.range={value}") == 1
    assert "data.source.range: " in capsys.readouterr().err


def test_a_range_goes_from_the_recipe_into_the_model(twelve_bits, tmp_path, capsys):
    range_ = "data.source.range=[0, 3766]"
    out, cache = tmp_path / "run", f"data.cache={tmp_path / 'cache'}"
    assert command("run", twelve_bits, range_, cache, "--work-dir", out) == 0
    models = work_dir.load(out)
    assert models.range == Range(0, 3766)
    recipe = work_dir.recipe_of(out)
    source = assembly.dataset(recipe, "source", labels=True)
    values = np.array(Image.open(source.items[0].image))
    right = np.rint(values / 3766 * 255).astype(np.uint8)
    assert (source.image(0)[..., 1] == right).all()
    assert source.cache.image(0, (48, 24)) is not None
    assert (source.image(0, (48, 24))[..., 1] == right).all()
    plain = replace(assembly.dataset(recipe, "validation", labels=True), cache=None)
    assert (plain.image(0)[..., 1] == values >> 8).all()
    assert (plain.read_by(models.range).image(0)[..., 1] == right).all()
    # another range reads another cache
    recipe.data["source"]["range"] = [0, 1000]
    other = assembly.dataset(recipe, "source", labels=True)
    assert other.cache.image(0, (48, 24)) is None
    assert command("export", out, "-o", tmp_path / "export") == 0
    told = json.loads((tmp_path / "export/config.json").read_text())
    assert told["models"][0]["range"] == [0, 3766]
    assert "by the range 0 to 3766" in Path(tmp_path / "export/README.md").read_text()
    capsys.readouterr()
