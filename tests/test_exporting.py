"""Exports: ONNX beside PyTorch, folders that load again, cards, pushing, and what may go wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from dataset_files import random_image
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import segue
from segue.cli.commands import app
from segue.errors import SegueError
from segue.exporting import export, hub_folder
from segue.exporting.card import escaped
from segue.exporting.resizing import resized
from segue.inference import model
from segue.inference.model import Ensemble, Model
from segue.inference.prediction import Prediction
from segue.label_space import CITYSCAPES, LabelSpace
from segue.models import MODELS
from segue.running import run as running

V2 = {"kind": "deeplab_v2", "backbone": "test_resnet", "second_head": True}
# Without aligned corners sizes are padded, and logits sampled anew.
PADDED = {"kind": "deeplab_v2", "backbone": "test_resnet", "align_corners": False}
ODD = [
    *[(1, 1), (1, 33), (41, 1), (3, 301), (5, 7), (37, 51), (51, 37), (97, 211), (211, 97)],
    *[(127, 255), (255, 127), (333, 17), (17, 333), (199, 401), (401, 199), (63, 95), (31, 47)],
    *[(129, 129), (225, 449), (449, 225)],
]


def save_model(path, settings, *, seed, size, heads=None, space=CITYSCAPES):
    torch.manual_seed(seed)
    arguments = {key: value for key, value in settings.items() if key != "kind"}
    segmenter = MODELS[settings["kind"]](space.num_classes, **arguments)
    with torch.no_grad():  # what a head starts with leaves all classes alike
        for parameter in segmenter.heads.parameters():
            parameter.mul_(20)
    told = {"weights": "/elsewhere/weights.pth", **settings}
    Model(segmenter, space, size, told, heads or {"main": 1.0}).save(path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Two heads, one network."""
    path = tmp_path_factory.mktemp("one") / "model.safetensors"
    return save_model(path, V2, seed=0, size=(64, 48), heads={"main": 1.0, "layer3": 0.5})


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """An exported ensemble: two networks that look at different sizes, one of them padded."""
    folder = tmp_path_factory.mktemp("several")
    save_model(folder / "a.safetensors", V2, seed=1, size=(64, 48))
    save_model(folder / "b.safetensors", PADDED, seed=2, size=(75, 41))
    told = {"library_name": "segue", "models": [{"file": f"{name}.safetensors"} for name in "ab"]}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def exported(several, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "new"
    return folder, export(several, folder, onnx=True)


@pytest.fixture(scope="module")
def work_dir(data, tmp_path_factory):
    import tiny

    folder = tmp_path_factory.mktemp("run")
    whole = segue.load_recipe("source-only-demo", tiny.overrides("source-only-demo", data))
    running.run(whole, folder)
    return folder


@pytest.mark.parametrize("size", [(64, 32), (33, 57), (200, 10), (7, 100)])
@pytest.mark.parametrize("shape", [(48, 64), (301, 11), (11, 301), (150, 151), (1, 1)])
def test_resizing_is_pillows_to_the_bit(shape, size):
    image = random_image(0, shape[::-1])
    picture = Image.fromarray(image)
    rows = picture.resize((size[0], picture.height), Image.Resampling.BICUBIC)
    wanted = rows.resize(size, Image.Resampling.BICUBIC)
    found = resized(torch.from_numpy(image), size).permute(1, 2, 0)
    np.testing.assert_array_equal(found.numpy(), np.asarray(wanted))


RUN_ALONE = """
import sys
sys.modules["torch"] = sys.modules["segue"] = None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
with np.load(sys.argv[2]) as images:
    found = {}
    for name, image in images.items():
        labels, probabilities = session.run(["labels", "probabilities"], {"image": image})
        assert labels.dtype == np.uint8 and (labels == probabilities.argmax(0)).all()
        found[name] = probabilities
np.savez(sys.argv[3], **found)
"""


def test_onnx_agrees_on_twenty_odd_sizes_without_torch(exported, several, tmp_path):
    folder, _ = exported
    images = {str(n): random_image(n, size[::-1]) for n, size in enumerate(ODD)}
    assert len(images) == 20
    np.savez(tmp_path / "in.npz", **images)
    words = [folder / "model.onnx", tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-W", "error", "-c", RUN_ALONE, *words], check=True)
    models, told = segue.load(several), []
    with np.load(tmp_path / "out.npz") as found:
        for name, image in images.items():
            wanted = sum(one.probabilities(image) for one in models.models).numpy() / 2
            told.append(wanted.max() - wanted.min())
            np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-4)
    assert max(told) > 0.2, "of probabilities that are all alike nothing is told"


def test_onnx_of_two_heads(file, tmp_path):
    import onnxruntime

    export(file, tmp_path / "out", onnx=True)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    image = random_image(0, (91, 35))
    _, found = session.run(None, {"image": image})
    (one,) = segue.load(file).models
    np.testing.assert_allclose(found, one.probabilities(image).numpy(), rtol=0, atol=1e-4)


def test_onnx_says_what_it_is_and_nothing_of_this_machine(exported):
    import onnx

    file = exported[0] / "model.onnx"
    proto = onnx.load(file)
    onnx.checker.check_model(proto, full_check=True)
    (image,) = proto.graph.input
    dims = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert dims == ["height", "width", 3]
    assert [one.name for one in proto.graph.output] == ["labels", "probabilities"]
    told = {one.key: one.value for one in proto.metadata_props}
    assert tuple(json.loads(told["classes"])) == CITYSCAPES.classes
    assert json.loads(told["sizes"]) == [[64, 48], [75, 41]]
    assert {one.domain: one.version for one in proto.opset_import}[""] >= 17
    assert str(Path.home()).encode() not in file.read_bytes()
    assert b"segmenter.py" not in file.read_bytes()


def test_a_file_that_differs_is_not_left(file, tmp_path, monkeypatch):
    from segue.exporting import onnx_file

    for wrong in (0.1, float("nan")):
        monkeypatch.setattr(onnx_file, "difference", lambda *_, wrong=wrong: wrong)
        with pytest.raises(SegueError, match=r"differ by .* from PyTorch's"):
            export(file, tmp_path / "out", onnx=True)
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_a_network_that_cannot_be_exported_is_told(file, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise torch.onnx.errors.OnnxExporterError("no such operation")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(SegueError, match="cannot export the network; leave out --onnx"):
        export(file, tmp_path / "out", onnx=True)


def test_several_models_load_from_their_folder(exported, several):
    folder, written = exported
    names = ["model_1.safetensors", "model_2.safetensors", "model.onnx", "config.json", "README.md"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    image = random_image(0, (80, 60))
    again = segue.load(folder)
    np.testing.assert_array_equal(again.predict(image), segue.load(several).predict(image))
    card = (folder / "README.md").read_text()
    assert "onnxruntime" in card
    assert "64 x 48 and 75 x 41" in card


def test_a_folder_holds_a_run(work_dir, tmp_path):
    (tmp_path / "out").mkdir()
    written = export(work_dir, tmp_path / "out")
    assert [path.name for path in written] == ["model.safetensors", "config.json", "README.md"]
    image = random_image(3, (70, 33))
    found = segue.load(tmp_path / "out").predict(image)
    np.testing.assert_array_equal(found, segue.load(work_dir).predict(image))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["library_name"] == "segue"
    assert tuple(config["label_space"]["classes"]) == CITYSCAPES.classes
    assert config["models"][0]["network"]["kind"] == "deeplab_v2"
    assert config["models"][0]["normalisation"]["std"] == [0.229, 0.224, 0.225]


def test_the_card_is_the_hubs_and_true(work_dir, tmp_path):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import ModelCard

    export(work_dir, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "segue"
    assert card.data.pipeline_tag == "image-segmentation"
    told = json.loads((work_dir / "evaluate" / "evaluation.json").read_text())
    (found,) = card.data.eval_results
    assert found.dataset_name == "validation"
    assert found.metric_value == pytest.approx(100 * told["miou"]["19"], abs=0.01)
    assert "Source only, demo worlds" in card.text
    assert "seed 0" in card.text
    assert "traffic light" in card.text
    # Where data lay is nobody's business.
    assert str(work_dir.parent) not in card.content
    assert "worlds" not in card.content.replace("demo worlds", "")


def test_results_of_other_settings_are_not_claimed(work_dir, tmp_path):
    recipe = yaml.safe_load((work_dir / "recipe.yaml").read_text())
    recipe["stages"]["evaluate"]["heads"] = {"main": 2.0}
    copy = tmp_path / "run"
    for name in ("train/model.safetensors", "evaluate/evaluation.json"):
        (copy / name).parent.mkdir(parents=True)
        (copy / name).write_bytes((work_dir / name).read_bytes())
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    export(copy, tmp_path / "out")
    assert "mIoU" not in (tmp_path / "out" / "README.md").read_text()


def test_names_in_a_card_are_text():
    assert escaped("<img src=x>\n| *a*") == "\\<img src=x\\> \\| \\*a\\*"


def test_weights_of_this_machine_are_not_named(file, tmp_path):
    export(file, tmp_path / "out")
    assert "elsewhere" not in (tmp_path / "out" / "config.json").read_text()
    assert "elsewhere" not in (tmp_path / "out" / "README.md").read_text()


def test_your_card_stays_and_other_weights_go(several, file, tmp_path):
    export(several, tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("mine")
    export(file, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    export(tmp_path / "out", tmp_path / "out")
    assert len(segue.load(tmp_path / "out").models) == 1


def test_an_older_graph_is_not_left_beside_other_weights(file, tmp_path):
    export(file, tmp_path / "out")
    (tmp_path / "out" / "model.onnx").write_bytes(b"of another model")
    with pytest.raises(SegueError, match="may be of another model; add --onnx"):
        export(file, tmp_path / "out")


def test_folders_of_others_are_not_touched(file, tmp_path):
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(SegueError, match="holds other things; name a new folder"):
        export(file, tmp_path)
    with pytest.raises(SegueError, match="is a file"):
        export(file, tmp_path / "README.md")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"models": [{}]}', '{"models": 3}', '{"models": []}']
)
def test_folders_that_are_no_export(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SegueError, match=r"describes no model|holds no trained model"):
        segue.load(tmp_path)


def test_a_folder_does_not_lead_out_of_itself(file, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(file.read_bytes())
    told = {"models": [{"file": "../secret.safetensors"}]}
    (tmp_path / "in" / "config.json").write_text(json.dumps(told))
    with pytest.raises(SegueError, match="holds no trained model"):
        segue.load(tmp_path / "in")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_the_extra_is_named_before_anything_is_done(file, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SegueError) as caught:
        export(file, tmp_path / "out", onnx=True)
    assert str(caught.value) == f"{package} is not installed; pip install 'segue[export]'"
    assert not (tmp_path / "out").exists()
    export(file, tmp_path / "out")


class Hub:
    """What a push asks of the hub."""

    calls: ClassVar[list] = []

    def __init__(self, **_):
        pass

    def create_repo(self, repository, **told):
        self.calls.append(("create", repository, told))
        return f"https://hub.example/{repository}"

    def upload_folder(self, **told):
        self.calls.append(("upload", told))


@pytest.fixture
def hub(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    return Hub


def test_push_uploads_the_export_alone_and_only_when_asked(hub, file, tmp_path):
    export(file, tmp_path / "out")
    assert not hub.calls
    (tmp_path / "out" / "notes.txt").write_text("mine")
    shown = Console(record=True, quiet=True, width=200)
    export(file, tmp_path / "out", push="me/my-model", console=shown)
    (create, upload) = hub.calls
    assert create == ("create", "me/my-model", {"private": True, "exist_ok": True})
    assert upload[1]["repo_id"] == "me/my-model"
    assert Path(upload[1]["folder_path"]) == tmp_path / "out"
    assert upload[1]["allow_patterns"] == ["model.safetensors", "config.json", "README.md"]


def test_push_that_fails_is_one_line(hub, file, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("out of\nreach")

    monkeypatch.setattr(hub, "upload_folder", refuse)
    with pytest.raises(SegueError, match="the hub says: out of reach; the export is in"):
        export(file, tmp_path / "out", push="me/my-model")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_push_is_checked_first(hub, file, tmp_path, monkeypatch):
    with pytest.raises(SegueError, match="is no repository; write OWNER/NAME"):
        export(file, tmp_path / "out", push="my model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SegueError, match=r"pip install 'segue\[hub\]'"):
        hub_folder.check_repository("me/my-model")
    assert not (tmp_path / "out").exists()


def test_command(file, tmp_path):
    result = CliRunner().invoke(app, ["export", str(file), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "model.safetensors" in result.output
    assert "README.md  1 KiB" in result.output, "and not 0.0 MiB"
    assert len(segue.load(tmp_path / "out").models) == 1


ODD_NAMES = LabelSpace.from_settings("a<b>", ["<script>alert(1)</script>", 'road"&'])


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    path = tmp_path_factory.mktemp("named") / model.FILE
    return segue.load(save_model(path, V2, seed=0, size=(64, 48), space=ODD_NAMES))


def test_a_prediction_is_what_predict_gives(named):
    image = random_image(0, (50, 40))
    shown = named.show(Image.fromarray(image))
    assert isinstance(shown, Prediction)
    np.testing.assert_array_equal(shown.image, image)
    np.testing.assert_array_equal(shown.labels, named.predict(image))
    assert shown.confidence.shape == (40, 50)
    assert sum(shown.shares.values()) == pytest.approx(1)
    np.testing.assert_array_equal(shown.colours, ODD_NAMES.colour(shown.labels))
    assert shown.overlay.dtype == np.uint8
    assert repr(shown).startswith("Prediction(50x40: ")


def test_notebooks_show_a_prediction_escaped():
    label = np.array([[0, 0, 0, 1]], np.uint8)
    confidence = np.full((1, 4), 0.5, np.float32)
    html = Prediction(np.zeros((1, 4, 3), np.uint8), label, confidence, ODD_NAMES)._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 75.0 %" in html
    assert "road&quot;&amp; 25.0 %" in html
    assert "mean confidence 0.50" in html
    assert html.count("data:image/png;base64,") == 2
    assert "http" not in html


def test_ignored_pixels_have_no_share():
    label = np.array([[0, 255]], np.uint8)
    shown = Prediction(np.zeros((1, 2, 3), np.uint8), label, np.ones((1, 2)), ODD_NAMES)
    assert shown.shares == {ODD_NAMES.classes[0]: 0.5}


def test_notebooks_show_a_model_escaped(named):
    html = Ensemble([*named.models, *named.models])._repr_html_()
    assert "<script" not in html
    assert "2 classes of a&lt;b&gt;" in html
    assert "mean of 2 models" in html
    assert "64 x 48" in html
    assert "parameters" in html
