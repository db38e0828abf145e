"""`segue check`: what it tells of good recipes, and every problem it is there to find."""

import io
import re
import sys

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from dataset_files import png, random_ids, random_image, save_image, write_folder
from rich.console import Console
from safetensors.torch import save_file

from segue.checking import Report, check
from segue.label_space import CITYSCAPES
from segue.models import MODELS

SEGMENTER = "stages.train.networks.segmenter"


def rendered(report, width=80):
    file = io.StringIO()
    Console(file=file, width=width).print(report.to_rich())
    return file.getvalue()


def only_problem(report):
    (problem,) = report.problems
    assert "\n" not in problem
    return problem


def folder_source(root, *more):
    """Overrides that make a folder pair the source."""
    settings = ", ".join((f"kind: folder, root: '{root}'", *more))
    return f"data.source={{{settings}}}"


@pytest.mark.parametrize(
    "name",
    [
        *("source-only-demo", "advent-demo", "ap-ci-carla", "ensemble-synthia"),
        *("bdl-carla", "fda-gta5", "cbst-synthia", "coarse-to-fine-carla"),
        *("grouping-demo", "category-adaptive-gta5", "composition-segformer-gta5"),
    ],
)
def test_shipped_recipes_are_ready(name, tiny_recipe):
    recipe = tiny_recipe(name)
    report = check(recipe)
    assert (report.problems, report.verdict) == ([], "ready")
    titles = [title for title, _ in report.sections]
    assert [title.split(" ")[0] for title in titles if title.startswith("stages.")] == [
        f"stages.{stage}" for stage in recipe.stages
    ]
    shown = rendered(report)
    assert shown.splitlines()[-1] == "ready"
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_what_is_told(tiny_recipe):
    report = check(tiny_recipe("advent-single-carla", "stages.train.accumulate=3"))
    told = {title: dict(rows) for title, rows in report.sections}
    assert told["advent-single-carla"]["device"] == "cpu, float32"
    assert told["data.source"]["as"] == "source of train"
    assert told["data.source"]["images"] == "3, each with a label"
    assert told["data.source"]["sizes"] == "64x32 (3)"
    assert told["data.source"]["resized to"] == "96x48, aspect ratio +0.0 %"
    assert told["data.target"]["images"].endswith(", labels not opened")
    assert told["data.validation"]["resized to"].endswith("labels scored as they are")
    stage = told["stages.train (train)"]
    assert stage["batch"] == "6 (2 at once) of source and of target"
    assert stage["length"].startswith("2 iterations, 4 epochs of source, ")
    assert "running statistics, all frozen" in stage["segmenter"]
    assert told["mIoU protocols"]["10"] == "10 of 11 classes, without bicyclist"
    assert told["mIoU protocols"]["11"] == "all 11 classes"
    assert told["mIoU protocols"]["not in source"] == "bicyclist"
    assert any("no label shows bicyclist: scored, but never learnt" in w for w in report.warnings)


def test_the_class_histogram(tiny_recipe, tmp_path):
    for index, train in enumerate((0, 0, 13)):
        save_image(tmp_path / f"images/{index}.jpg", random_image(index, (8, 4)))
        ids = np.full((4, 8), train, np.uint8)
        ids[0] = 255
        save_image(tmp_path / f"labels/{index}.png", ids)
    report = check(tiny_recipe("source-only-demo", folder_source(tmp_path)))
    assert report.problems == []
    lines = {line.split("  ")[0]: line.split() for line in rendered(report).splitlines()}
    assert lines["road"][1:3] == ["66.67", "67"]
    assert lines["car"][1:3] == ["33.33", "33"]
    assert dict(report.sections[1][1])["ignored"] == "25.0 % of pixels"
    assert any("data.source: no label shows sidewalk, " in line for line in report.warnings)


opened: list[str] | None = None


def note(event, arguments):
    if opened is not None and event == "open":
        opened.append(str(arguments[0]))


sys.addaudithook(note)


def test_no_label_of_a_target_is_opened(tiny_recipe, data, tmp_path):
    global opened
    write_folder(tmp_path)
    recipe = tiny_recipe("advent-demo", f"data.target={{kind: folder, root: '{tmp_path}'}}")
    opened = []
    try:
        report = check(recipe)
    finally:
        files, opened = opened, None
    assert report.problems == []
    assert any(str(tmp_path / "images") in file for file in files)
    assert not any(str(tmp_path / "labels") in file for file in files)
    for label in (tmp_path / "labels").iterdir():
        label.unlink()
    assert check(recipe).problems == []


def test_a_sample_and_progress(tiny_recipe):
    shown = io.StringIO()
    report = check(tiny_recipe("source-only-demo"), sample=2, console=Console(file=shown))
    assert dict(report.sections[1][1])["images"] == "6, each with a label, 2 looked at"
    assert "data.source: 2/2" in shown.getvalue()
    assert any("no label of 2 images shows" in line for line in report.warnings)


# Data


def missing_folder(root):
    return r"data\.source: \S*gone: no such folder; set `root`", folder_source(root / "gone")


def no_image_matches(root):
    (root / "images").mkdir()
    return r"no image matches images/\*\.jpg; check `root`", folder_source(root)


def image_without_label(root):
    write_folder(root)
    (root / "labels/1.png").unlink()
    return r"1 of 3 images have no label: images/1\.jpg; looked for", folder_source(root)


def label_of_another_size(root):
    write_folder(root)
    save_image(root / "labels/1.png", random_ids(1, (6, 4), most=19))
    return r"labels/1\.png: the label is 6x4 but its image 1\.jpg is 12x8", folder_source(root)


def unknown_ids(root):
    write_folder(root)
    save_image(root / "labels/1.png", np.full((8, 12), 77, np.uint8))
    return r"unknown ids: 77 \(96 pixels\); add them to `ids`", folder_source(root)


def truncated_image(root):
    write_folder(root)
    whole = (root / "images/2.jpg").read_bytes()
    (root / "images/2.jpg").write_bytes(whole[: len(whole) // 2])
    return r"images/2\.jpg: the image is truncated or damaged", folder_source(root)


def no_image_file(root):
    write_folder(root)
    (root / "images/2.jpg").write_text("not found")
    return r"images/2\.jpg: not an image; remove the file", folder_source(root)


def empty_file(root):
    write_folder(root)
    (root / "images/0.jpg").write_bytes(b"")
    return r"images/0\.jpg: the file is empty \(0 bytes\); copy", folder_source(root)


def nothing_labelled(root):
    write_folder(root)
    for index in range(3):
        (root / f"labels/{index}.png").write_bytes(png(np.full((8, 12), 255, np.uint16), 16))
    return r"data\.source: no pixel is of any class; check `ids`", folder_source(root)


@pytest.mark.parametrize(
    "spoil",
    [
        *(missing_folder, no_image_matches, image_without_label, label_of_another_size),
        *(unknown_ids, truncated_image, no_image_file, empty_file, nothing_labelled),
    ],
    ids=lambda function: function.__name__,
)
def test_data_that_will_not_do(spoil, tiny_recipe, tmp_path):
    message, override = spoil(tmp_path)
    report = check(tiny_recipe("source-only-demo", override))
    problem = only_problem(report)
    assert problem.startswith("data.source: ")
    assert re.search(message, problem), problem
    assert rendered(report).splitlines()[-1] == "1 problem"


def test_a_source_without_labels(tiny_recipe):
    problem = only_problem(
        check(tiny_recipe("source-only-carla", "stages.train.source.data=target"))
    )
    assert problem == (
        "data.target: labels are wanted, but there are none; describe where they lie"
    )


def test_all_problems_are_found_at_once(tiny_recipe, tmp_path):
    write_folder(tmp_path, 4)
    (tmp_path / "images/2.jpg").write_text("not found")
    save_image(tmp_path / "labels/1.png", np.full((8, 12), 77, np.uint8))
    report = check(
        tiny_recipe(
            "local-alignment-demo",
            folder_source(tmp_path),
            f"data.target.root='{tmp_path}/gone'",
            "stages.train.terms.alignment.patch=200",
            f"{SEGMENTER}.weights='{tmp_path}/gone.pth'",
            f"{SEGMENTER}.load_from=nothing.pth",
        )
    )
    starts = ("data.source", "data.source", "data.target")
    starts += (SEGMENTER, f"{SEGMENTER}.load_from", "stages.train.terms.alignment")
    assert [problem.split(":")[0] for problem in report.problems] == list(starts)
    assert rendered(report).splitlines()[-1] == "6 problems"


def test_many_problems_fit_the_screen(tiny_recipe, tmp_path):
    write_folder(tmp_path, 60)
    for image in (tmp_path / "images").iterdir():
        image.write_bytes(b"")
    report = check(tiny_recipe("source-only-demo", folder_source(tmp_path)))
    shown = rendered(report, 200)
    assert len(report.problems) == 60
    assert "and 10 more" in shown
    assert shown.splitlines()[-1] == "60 problems"


def test_stretched_images(tiny_recipe):
    report = check(tiny_recipe("source-only-demo", "stages.train.source.size=[96, 96]"))
    assert report.problems == []
    assert report.warnings[0] == (
        "data.source: resizing 64x32 to 96x96 changes the aspect ratio by -50 %; unless meant so, "
        "use size [96, 48]"
    )


# Networks and weights


def test_weights_that_fit(tiny_recipe, tmp_path):
    encoder = MODELS["deeplab_v2"](19, backbone="test_resnet").encoder
    save_file(encoder.state_dict(), tmp_path / "fit.safetensors")
    report = check(
        tiny_recipe("source-only-demo", f"{SEGMENTER}.weights='{tmp_path}/fit.safetensors'")
    )
    assert report.problems == []
    assert "fit.safetensors" in dict(dict(report.sections)["stages.train (train)"])["segmenter"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no such weights file; check `weights`"),
        (b"no weights", r"not a weights file, or one cut short; give \.safetensors"),
        ({"bias": torch.zeros(1)}, r"fills 0 of the network's \d+ tensors .*of this very model"),
    ],
)
def test_weights_that_do_not(content, message, tiny_recipe, tmp_path):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    problem = only_problem(check(tiny_recipe("source-only-demo", f"{SEGMENTER}.weights='{path}'")))
    assert re.search(message, problem), problem
    assert problem.startswith(f"{SEGMENTER}: {path}")


def test_weights_from_the_hub_are_not_fetched(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    report = check(tiny_recipe("source-only-demo", f"{SEGMENTER}.weights=hub"))
    assert report.problems == []
    assert f"{SEGMENTER}: the hub's weights are not here yet and will be downloaded" in (
        report.warnings
    )
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False
    assert not any(tmp_path.iterdir())


def test_an_unknown_backbone(tiny_recipe):
    for more in ((), (f"{SEGMENTER}.weights=hub",)):
        recipe = tiny_recipe("source-only-demo", f"{SEGMENTER}.backbone=resnet_test", *more)
        problem = only_problem(check(recipe))
        assert problem.startswith(f"{SEGMENTER}.backbone: timm has no model 'resnet_test'; did you")


LATER = "stages.later={like: train, networks: {segmenter: {load_from: train}}}"


def test_load_from(tiny_recipe, tmp_path):
    assert check(tiny_recipe("source-only-demo", LATER)).problems == []
    other = "stages.later.networks.segmenter.second_head=true"
    problem = only_problem(check(tiny_recipe("source-only-demo", LATER, other)))
    assert problem == (
        "stages.later.networks.segmenter.load_from: stage train trains another network; give both "
        "stages the same network"
    )
    whole = MODELS["deeplab_v2"](19, backbone="test_resnet").state_dict()
    save_file(whole, tmp_path / "whole.safetensors")
    override = f"{SEGMENTER}.load_from='{tmp_path}/whole.safetensors'"
    assert check(tiny_recipe("source-only-demo", override)).problems == []
    problem = only_problem(check(tiny_recipe("advent-demo", override)))
    assert "tensors (missing: heads.layer3" in problem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "stages.later.networks.discriminator={load_from: train/judge}",
            "discriminator.load_from: stage train has no judge; it trains: segmenter, discrim",
        ),
        (
            "stages.train.networks.idle={kind: discriminator}",
            "idle.load_from: stage train has no idle; it trains: segmenter, discriminator",
        ),
        (
            "stages.later.networks.discriminator={load_from: train, widths: [8, 8]}",
            "discriminator.load_from: stage train trains another network; give both stages",
        ),
    ],
)
def test_what_other_networks_are_filled_from(tiny_recipe, change, message):
    idle = "stages.later.networks.idle={kind: discriminator, load_from: train}"
    more = (LATER, idle) if "idle" in change else (LATER,)
    problem = only_problem(check(tiny_recipe("advent-single-demo", *more, change)))
    assert problem.startswith(f"stages.later.networks.{message}")
    filled = "stages.later.networks.discriminator.load_from=train"
    assert check(tiny_recipe("advent-single-demo", LATER, filled)).problems == []


def test_models_of_a_stage_that_leaves_none(tiny_recipe):
    for key, stage in (("models", "pseudo_labels_1"), ("models", "evaluate")):
        value = "[cyclegan]"
        recipe = tiny_recipe("bdl-demo", f"stages.{stage}.{key}={value}")
        assert only_problem(check(recipe)) == (
            f"stages.{stage}: stage cyclegan trains no segmenter; name a stage that does"
        )


def test_batch_norm_of_single_values(tiny_recipe):
    upernet = "{kind: upernet, encoder: test_resnet, batch_norm: batch, optimiser: sgd}"
    overrides = (f"{SEGMENTER}={upernet}", "stages.train.batch_size=1")
    problem = only_problem(check(tiny_recipe("source-only-demo", *overrides)))
    assert "stages.train.terms.segmentation: batch_norm: batch: a single image leaves" in problem
    assert "use `running` or `tracking`, or a batch of two or more" in problem
    assert check(tiny_recipe("source-only-demo", overrides[0])).problems == []


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "local-alignment-demo",
            ["stages.train.terms.alignment.patch=[49, 96]"],
            r"terms\.alignment: patch: a patch of \(49, 96\) does not fit .*\(48, 96\)",
        ),
        (
            "local-alignment-demo",
            ["stages.train.target.augment=[{kind: random_crop, size: [40, 24]}]"],
            r"terms\.alignment: patch: .* does not fit a prediction of \(24, 40\)",
        ),
        (
            "local-alignment-demo",
            ["stages.train.terms.alignment.patch=16"],
            r"terms\.alignment: discriminator: is shown 16x16 pixels; show it at least 32x32",
        ),
        (
            "source-only-demo",
            ["stages.train.terms.segmentation.head=layer3"],
            r"terms\.segmentation: head: no head is called 'layer3'; the network has: main",
        ),
        (
            "advent-single-demo",
            [f"{SEGMENTER}.optimiser=null"],
            r"stages\.train\.terms: network 'segmenter' has no optimiser; give it one",
        ),
        (
            "source-only-demo",
            ["stages.train.source.augment=[random_scale]"],
            r"stages\.train\.source: images of one batch differ in size; let `random_crop`",
        ),
        (
            "source-only-demo",
            ["stages.evaluate.heads={layer3: 1.0}"],
            r"stages\.evaluate\.heads: the model of train has no head 'layer3'; it has: main",
        ),
        ("source-only-demo", ["device=gpu"], r"device: no such device: gpu; try auto, cpu"),
    ],
)
def test_settings_that_do_not_go_together(name, overrides, message, tiny_recipe):
    problem = only_problem(check(tiny_recipe(name, *overrides)))
    assert re.search(message, problem), problem


def test_no_segmenter(tiny_recipe):
    network = "{kind: deeplab_v2, backbone: test_resnet, optimiser: sgd}"
    recipe = tiny_recipe(
        "source-only-demo", f"{SEGMENTER}=null", f"stages.train.networks.net={network}"
    )
    assert only_problem(check(recipe)) == (
        "stages.train.terms: no network is called 'segmenter'; there are: net"
    )


def test_a_crop_beyond_the_image(tiny_recipe):
    crop = "stages.train.source.augment=[{kind: random_crop, size: [96, 64]}]"
    report = check(tiny_recipe("source-only-demo", crop))
    assert report.problems == []
    assert any(
        "stages.train.source: a crop of 96x64 is larger than the images, 96x48" in line
        for line in report.warnings
    )


def test_an_empty_report():
    assert rendered(Report(CITYSCAPES)).split() == ["ready"]
