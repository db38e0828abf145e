"""One confusion matrix against its formula, and against Cityscapes' own evaluation."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from segue.datasets import cityscapes
from segue.errors import SegueError
from segue.inference.confusion_matrix import ConfusionMatrix
from segue.inference.evaluation import Evaluation, evaluate
from segue.inference.model import Ensemble
from segue.label_space import CITYSCAPES, CITYSCAPES_IDS, LabelSpace

RAW_IDS = {train: raw for raw, train in CITYSCAPES_IDS.items()}
TOY = LabelSpace.from_settings("toy", ["a", "b", "c"], protocols={"3": "abc", "2": "ac"})


def filled(pairs, classes):
    matrix = ConfusionMatrix(classes)
    for label, prediction in pairs:
        matrix.add(label, prediction)
    return matrix


def random_pairs(seed=0, classes=5, images=3):
    random = np.random.default_rng(seed)
    for _ in range(images):
        label = random.integers(0, classes, (6, 7)).astype(np.uint8)
        label[random.random(label.shape) < 0.2] = 255
        right = random.random(label.shape) < 0.5
        guess = random.integers(0, classes, label.shape).astype(np.uint8)
        yield label, np.where(right & (label != 255), label, guess)


def test_iou_is_tp_over_tp_fn_fp_of_the_whole_set():
    pairs = list(random_pairs())
    found = filled(pairs, 5).iou()
    for c in range(5):
        tp = fn = fp = 0
        for label, prediction in pairs:
            for y, x in np.ndindex(*label.shape):
                truth, guess = label[y, x], prediction[y, x]
                if truth == 255:
                    continue
                tp += truth == c and guess == c
                fn += truth == c and guess != c
                fp += truth != c and guess == c
        assert found[c] == pytest.approx(tp / (tp + fn + fp), abs=1e-12)


def test_rows_are_labels_and_columns_predictions():
    matrix = filled([(np.array([[0, 1, 2]]), np.array([[1, 1, 0]]))], 3)
    assert matrix.counts.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_only_train_ids_count(kind):
    label = np.array([[0, 255, 19, 5, 254]]).astype(kind)
    matrix = filled([(label, np.zeros((1, 5), np.uint8))], 5)
    assert matrix.counts.sum() == 1
    if kind is np.int64:
        matrix.add(np.array([[-1, 3]]), np.array([[0, 3]]))
        assert matrix.counts.sum() == 2


def test_a_set_is_scored_as_one_image_would_be():
    pairs = list(random_pairs())
    joined = [tuple(np.concatenate(side) for side in zip(*pairs, strict=True))]
    assert np.array_equal(filled(pairs, 5).counts, filled(joined, 5).counts)


def test_a_class_that_is_nowhere_is_nan_and_left_out():
    label, prediction = np.array([[0, 0, 1]]), np.array([[0, 1, 1]])
    matrix = filled([(label, prediction)], 3)
    assert matrix.iou()[:2].tolist() == [0.5, 0.5]
    assert math.isnan(matrix.iou()[2])
    assert matrix.miou(TOY, "3") == 0.5
    assert matrix.miou(TOY, "2") == 0.5
    matrix.add(np.array([[0]]), np.array([[2]]))
    assert matrix.iou()[2] == 0, "predicted, though absent from the labels: it counts"
    assert matrix.miou(TOY, "2") == pytest.approx((1 / 3 + 0) / 2)


def test_nothing_labelled_is_nan():
    assert math.isnan(ConfusionMatrix(3).miou(TOY, "3"))


def test_protocols_average_their_classes_of_one_matrix():
    """16 and 13 leave classes out of the mean, never out of the matrix."""
    matrix = filled(random_pairs(1, classes=19, images=20), 19)
    iou = matrix.iou()
    left_out = {"19": (), "16": (9, 14, 16), "13": (9, 14, 16, 3, 4, 5)}
    for protocol, without in left_out.items():
        chosen = [iou[c] for c in range(19) if c not in without]
        assert len(chosen) == int(protocol)
        assert matrix.miou(CITYSCAPES, protocol) == pytest.approx(np.mean(chosen))
    with pytest.raises(SegueError, match="no protocol is called '18'"):
        matrix.miou(CITYSCAPES, "18")


def test_what_cannot_be_compared_is_told():
    matrix = ConfusionMatrix(3)
    with pytest.raises(SegueError, match=r"prediction of \(1, 2\) for a label of \(2, 2\)"):
        matrix.add(np.zeros((2, 2), int), np.zeros((1, 2), int))
    with pytest.raises(SegueError, match="a prediction of class 3 where there are 3"):
        matrix.add(np.zeros((1, 2), int), np.array([[0, 3]]))
    matrix.add(np.array([[0, 255]]), np.array([[0, 3]]))


@pytest.fixture
def written(tmp_path):
    """Cityscapes' folders with labels in raw ids, and predictions of every kind of pixel."""
    random = np.random.default_rng(0)
    predictions = {}
    for index in range(4):
        stem = f"town_{index:06}_000019"
        raw = random.integers(0, 34, (8, 12)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        # Class 18 (bicycle) is absent from labels and predictions, 16 (train) from labels.
        raw[(raw == 33) | (raw == 31)] = 26
        prediction = random.integers(0, 18, raw.shape).astype(np.uint8)
        for value, train in CITYSCAPES_IDS.items():
            prediction[(raw == value) & (random.random(raw.shape) < 0.6)] = train
        predictions[stem] = prediction
        save(tmp_path / f"leftImg8bit/val/town/{stem}_leftImg8bit.png", np.stack([raw] * 3, -1))
        save(tmp_path / f"gtFine/val/town/{stem}_gtFine_labelIds.png", raw)
        table = np.zeros(19, np.uint8)
        table[list(RAW_IDS)] = list(RAW_IDS.values())
        save(tmp_path / f"results/{stem}_pred.png", table[prediction])
    return tmp_path, predictions


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@dataclass
class Known:
    """The label space of a model whose answers are known."""

    label_space: LabelSpace = CITYSCAPES
    range: None = None


class Recorded(Ensemble):
    """A model whose answers are known: it meets the images in order."""

    def __init__(self, answers, label_space=CITYSCAPES):
        super().__init__([Known(label_space)])
        self.answers = answers

    def predict(self, image):
        return self.answers.pop(0)


def test_evaluation_equals_cityscapes_scripts(written, monkeypatch):
    root, predictions = written
    dataset = cityscapes(root, split="val", label_space=CITYSCAPES)
    model = Recorded([predictions[stem] for stem in sorted(predictions)])
    found = evaluate(model, dataset, ["19", "16", "13"])

    monkeypatch.setenv("CITYSCAPES_DATASET", str(root))
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(root / "results"))
    referee = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    # A copy, since it reads the environment only once. Scores per instance need files of their
    # own and a numpy before 2.4; they are not part of the pixel-level mean.
    args = copy.copy(referee.args)
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    args.predictionPath = args.predictionWalk = None
    labels = sorted(str(path) for path in root.glob("gtFine/val/*/*_gtFine_labelIds.png"))
    matched = [referee.getPrediction(args, path) for path in labels]
    theirs = referee.evaluateImgLists(matched, labels, args)

    scored = {name: value for name, value in theirs["classScores"].items() if name in found.iou}
    assert scored.keys() == found.iou.keys()
    for name, value in found.iou.items():
        assert value == pytest.approx(scored[name], abs=1e-6, nan_ok=True), name
    assert found.miou["19"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-6)
    assert [name for name, value in found.iou.items() if math.isnan(value)] == ["bicycle"]
    assert found.iou["train"] == 0
    assert len({round(value, 6) for value in found.miou.values()}) == 3
    assert found.images == 4
    ours = np.zeros((34, 34), np.int64)
    raw = list(RAW_IDS.values())
    ours[np.ix_(raw, raw)] = found.confusion
    assert np.array_equal(np.array(theirs["confMatrix"])[np.ix_(raw, raw)], ours[np.ix_(raw, raw)])


def test_an_evaluation_comes_back_from_its_file(tmp_path):
    label, prediction = np.array([[0, 0, 1]]), np.array([[0, 1, 1]])
    counts = filled([(label, prediction)], 3).counts
    before = Evaluation(TOY.classes, counts, dict(TOY.protocols), 1)
    before.save(tmp_path / "evaluation.json")
    after = Evaluation.read(tmp_path / "evaluation.json")
    assert after.miou == before.miou == {"3": 0.5, "2": 0.5}
    assert list(after.miou) == ["3", "2"], "the headline first"
    assert np.array_equal(after.confusion, counts)
    assert "NaN" not in (tmp_path / "evaluation.json").read_text(), "which is no JSON"
    with pytest.raises(SegueError, match="no evaluation yet"):
        Evaluation.read(tmp_path / "other.json")


def test_a_model_of_other_classes_is_not_scored(written):
    root, _ = written
    dataset = cityscapes(root, split="val", label_space=CITYSCAPES)
    with pytest.raises(SegueError, match="trained for other classes"):
        evaluate(Recorded([], TOY), dataset, ["19"])
