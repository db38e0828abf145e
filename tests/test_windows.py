"""The sliding window against its plain formula, in bands, batches and mixtures."""

import json

import numpy as np
import pytest
import torch
from dataset_files import random_image

from segue import work_dir
from segue.errors import SegueError
from segue.exporting import export
from segue.inference import model
from segue.inference.labels import Vote
from segue.inference.model import Ensemble, Model
from segue.inference.sliding_window import averaged, cover, places, window_bands
from segue.label_space import CITYSCAPES
from segue.models import MODELS
from segue.running import run as running

NETWORK = {"kind": "deeplab_v2", "backbone": "test_resnet", "weights": None}
WINDOW = (48, 32)


def made(seed, size=WINDOW, policy="sliding", heads=None, **more):
    torch.manual_seed(seed)
    segmenter = MODELS["deeplab_v2"](19, backbone="test_resnet", **more).eval()
    with torch.no_grad():  # what a head starts with leaves all classes alike
        for parameter in segmenter.heads.parameters():
            parameter.mul_(20)
    return Model(segmenter, CITYSCAPES, size, NETWORK, heads or {"main": 1.0}, policy=policy)


def plain(one, image):
    """Mean of the softmax of every window's logits, in float64 and all at once."""
    across, down = one.size
    height, width = image.shape[:2]
    below, right = max(0, down - height), max(0, across - width)
    padded = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
    summed = np.zeros((19, *padded.shape[:2]))
    often = np.zeros(padded.shape[:2])
    for top in places(height, down):
        for left in places(width, across):
            rows, columns = slice(top, top + down), slice(left, left + across)
            seen = one.logits_of(padded[rows, columns])
            summed[:, rows, columns] += one.probabilities_from(seen, (down, across)).cpu().numpy()
            often[rows, columns] += 1
    return (summed / often)[:, :height, :width]


@pytest.mark.parametrize("length", [1, 31, 32, 33, 53, 54, 64, 100, 333])
def test_windows_cover_a_side_and_overlap_by_a_third(length):
    starts = places(length, 32)
    ends = [start + 32 for start in starts]
    assert starts[0] == 0
    assert ends[-1] == max(length, 32)
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    assert (gaps[:-1] == 21).all()
    assert (gaps <= 21).all()
    often = cover(starts, 32)
    assert len(often) == max(length, 32)
    assert often.min() == 1
    np.testing.assert_array_equal(
        often, [sum(a <= place < a + 32 for a in starts) for place in range(len(often))]
    )


@pytest.mark.parametrize("size", [(48, 32), (120, 75), (131, 20), (30, 90), (1, 1), (49, 33)])
@pytest.mark.parametrize("batch", [1, 3])
def test_probabilities_are_those_of_the_plain_formula(size, batch):
    one, image = made(0), random_image(1, size)
    bands = list(one.window_bands(image, batch=batch))
    assert [rows.start for rows, _ in bands] == [0, *(rows.stop for rows, _ in bands[:-1])]
    assert bands[-1][0].stop == size[1]
    found = torch.cat([values for _, values in bands], 1)
    wanted = plain(one, image)
    assert wanted.max() - wanted.min() > 0.1, "of probabilities that are all alike nothing is told"
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_labels_and_confidence_are_the_best_of_them():
    one, image = made(0), random_image(2, (100, 70))
    label, confidence = Ensemble([one]).predict_with_confidence(image)
    wanted = plain(one, image)
    ranked = np.sort(wanted, 0)
    clear = ranked[-1] - ranked[-2] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(label[clear], wanted.argmax(0)[clear])
    np.testing.assert_allclose(confidence, ranked[-1], atol=1e-5)
    np.testing.assert_array_equal(one.predict(image), label)


def test_heads_and_models_of_other_sizes_and_policies_are_averaged():
    models = [
        made(0, heads={"main": 1.0, "layer3": 0.5}, second_head=True),
        made(1, (40, 40)),
        made(2, (64, 48), "scaled"),
        made(3, (32, 32), "scaled"),
    ]
    image = random_image(3, (90, 61))
    _, confidence = Ensemble(models).predict_with_confidence(image)
    parts = [plain(one, image) for one in models[:2]]
    parts += [one.probabilities(image).numpy() for one in models[2:]]
    np.testing.assert_allclose(confidence, np.mean(parts, 0).max(0), atol=1e-5)


def test_bands_of_other_heights_are_averaged():
    one, two = torch.rand(3, 10, 4), torch.rand(3, 10, 4)

    def cut(whole, *ends):
        starts = (0, *ends)
        return iter([(slice(a, b), whole[:, a:b]) for a, b in zip(starts, ends, strict=False)])

    bands = list(averaged([cut(one, 3, 7, 10), cut(two, 1, 7, 9, 10)], [0.25, 0.75]))
    assert [rows.stop for rows, _ in bands] == [1, 3, 7, 9, 10]
    found = torch.cat([values for _, values in bands], 1)
    torch.testing.assert_close(found, 0.25 * one + 0.75 * two)


def test_one_row_of_windows_is_held_and_not_the_image():
    held = []

    def votes_of(windows):
        return [[Vote(torch.zeros(5, 2, 2), align_corners=False)] for _ in windows]

    image = np.zeros((1000, 40, 3), np.uint8)
    for _, values in window_bands(votes_of, image, (40, 30)):
        held.append(values.shape[1])
    assert max(held) <= 30
    assert sum(held) == 1000


@pytest.mark.parametrize("policy", ["scaled", "sliding"])
@pytest.mark.parametrize("confident", [False, True])
def test_batches_are_what_each_image_is_alone(policy, confident):
    both = Ensemble([made(0, policy=policy), made(1, (40, 40), policy)])
    images = [random_image(seed, size) for seed, size in enumerate([(70, 50), (30, 90), (70, 50)])]
    together = both.predict_all(images, confident=confident, batch=4)
    for image, (label, confidence) in zip(images, together, strict=True):
        ((alone, sure),) = both.predict_all([image], confident=True)
        assert (label == alone).mean() > 0.999, "but for ties"
        if confidence is not None:
            np.testing.assert_allclose(confidence, sure, atol=1e-5)
        else:
            assert policy == "scaled"


def test_the_policy_is_stored_with_the_model(tmp_path):
    sliding, scaled = made(0), made(0, policy="scaled")
    sliding.save(tmp_path / "sliding.safetensors")
    loaded = work_dir.load(tmp_path / "sliding.safetensors")
    assert loaded.models[0].policy == "sliding"
    assert ", sliding" in loaded._repr_html_()
    image = random_image(0, (100, 60))
    np.testing.assert_array_equal(loaded.predict(image), sliding.predict(image))
    assert not np.array_equal(loaded.predict(image), scaled.predict(image))
    other = loaded.looking("scaled")
    np.testing.assert_array_equal(other.predict(image), scaled.predict(image))
    assert loaded.models[0].policy == "sliding"


def test_files_without_a_policy_are_scaled(tmp_path, monkeypatch):
    from segue.storage.tensors import write_sealed

    def first_release(path, state, description):
        told = {key: value for key, value in description.items() if key != "policy"}
        write_sealed(path, state, told)

    monkeypatch.setattr(model, "write_sealed", first_release)
    made(0).save(tmp_path / "old.safetensors")
    assert work_dir.load(tmp_path / "old.safetensors").models[0].policy == "scaled"


def test_unknown_policies_are_told(tmp_path):
    one = made(0)
    with pytest.raises(SegueError, match=r"no policy is called 'slide'.*sliding"):
        Ensemble([one]).looking("slide")
    one.policy = "later"
    one.save(tmp_path / "m.safetensors")
    with pytest.raises(SegueError, match="does not fit its weights"):
        work_dir.load(tmp_path / "m.safetensors")


def test_a_recipe_says_the_policy_and_an_export_keeps_it(tiny_recipe, tmp_path):
    whole = tiny_recipe("source-only-demo", "stages.train.policy=sliding")
    usual = tiny_recipe("source-only-demo")
    assert whole.fingerprint("train") != usual.fingerprint("train")
    said = tiny_recipe("source-only-demo", "stages.train.policy=scaled")
    assert said.fingerprint("train") == usual.fingerprint("train")
    folder = running.run(whole, tmp_path / "run")
    assert work_dir.load(folder).models[0].policy == "sliding"
    export(folder, tmp_path / "export")
    assert work_dir.load(tmp_path / "export").models[0].policy == "sliding"
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["models"][0]["policy"] == "sliding"
    assert "through a sliding window of 96 x 48" in (tmp_path / "export/README.md").read_text()
    with pytest.raises(SegueError, match=r"sliding window, an ONNX file cannot; leave out --onnx"):
        export(folder, tmp_path / "other", onnx=True)


def test_fingerprints_of_before_there_were_policies(tiny_recipe, monkeypatch):
    """Stages that were finished then are still."""
    whole = tiny_recipe("source-only-demo")
    told = whole.fingerprint("train")
    plain = whole.model_dump(mode="json")
    assert plain["stages"]["train"].pop("policy") == "scaled"
    monkeypatch.setattr(type(whole), "model_dump", lambda *_, **__: plain)
    assert whole.fingerprint("train") == told
