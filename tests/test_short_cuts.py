"""Short cuts against the formulas that they stand for, written out."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from segue.errors import SegueError
from segue.inference import labels as labelling
from segue.inference.confusion_matrix import ConfusionMatrix
from segue.inference.labels import Vote, labels, labels_and_confidence, probability_bands
from segue.inference.model import Ensemble, Model
from segue.label_space import LabelSpace
from segue.models import MODELS, Segmenter
from segue.models.atrous import atrous_sum
from segue.models.deeplab_v2 import DILATIONS, AtrousHead

Weights = Sequence[Tensor]


def dilated(feature: Tensor, weights: Weights, biases: Weights, dilations: Sequence[int]) -> Tensor:
    """The sum as it stands in the paper."""
    maps = [
        functional.conv2d(feature, weight, bias, padding=d, dilation=d)
        for weight, bias, d in zip(weights, biases, dilations, strict=True)
    ]
    return torch.stack(maps).sum(0)


def with_gradients(
    form: Callable[..., Tensor], head: AtrousHead, feature: Tensor, slope: Tensor
) -> list[Tensor]:
    """What a form of the head gives, and the gradients of feature and parameters."""
    feature = feature.detach().requires_grad_()
    weights = [branch.weight for branch in head.branches]
    biases = [branch.bias for branch in head.branches]
    logits = form(feature, weights, biases, DILATIONS[: len(weights)])
    return [logits, *torch.autograd.grad((logits * slope).sum(), [feature, *weights, *biases])]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("branches", [1, 2, 4])
@pytest.mark.parametrize("size", [(33, 65), (1, 1), (5, 7), (25, 3), (7, 60), (13, 700)])
def test_head_is_the_sum_of_dilated_convolutions(
    size: tuple[int, int], branches: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    head = AtrousHead(6, 3, branches).double()
    feature = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=layout)
    slope = torch.randn(2, 3, *size, dtype=torch.float64)
    ours = with_gradients(atrous_sum, head, feature, slope)
    theirs = with_gradients(dilated, head, feature, slope)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert ours[1].stride() == feature.stride()
    torch.testing.assert_close(head(feature), theirs[0], atol=1e-12, rtol=1e-12)


def test_head_in_half_precision_is_no_worse_than_convolutions() -> None:
    torch.manual_seed(0)
    head = AtrousHead(64, 5)
    feature, slope = torch.randn(1, 64, 17, 33), torch.randn(1, 5, 17, 33)
    exact = with_gradients(dilated, head, feature, slope)
    with torch.autocast("cpu", torch.bfloat16):
        ours = with_gradients(atrous_sum, head, feature, slope)
        theirs = with_gradients(dilated, head, feature, slope)
    assert ours[0].dtype == torch.bfloat16
    for found, plain, expected in zip(ours, theirs, exact, strict=True):
        assert found.dtype == plain.dtype
        error, usual = ((one.float() - expected).norm() for one in (found, plain))
        assert error <= 1.5 * usual


def test_head_keeps_its_names_and_runs_where_only_shapes_are_known() -> None:
    assert AtrousHead(4, 3).state_dict().keys() == {
        f"branches.{number}.{name}" for number in range(4) for name in ("weight", "bias")
    }
    with torch.device("meta"):
        assert AtrousHead(4, 3)(torch.zeros(2, 4, 9, 17)).shape == (2, 3, 9, 17)


def test_gradients_of_a_frozen_feature_or_frozen_kernels() -> None:
    torch.manual_seed(0)
    head, feature = AtrousHead(4, 3), torch.randn(1, 4, 9, 9)
    head(feature).sum().backward()
    known = [parameter.grad for parameter in head.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in known)
    head.requires_grad_(False)
    head(feature.requires_grad_()).sum().backward()
    assert feature.grad is not None
    assert feature.grad.abs().sum() > 0


SIZES = [(40, 57), (300, 411), (9, 13), (1, 1), (260, 1), (5, 70), (2, 40000)]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_labels_are_those_of_argmax_to_the_bit(size: tuple[int, int], align_corners: bool) -> None:
    torch.manual_seed(0)
    for cells in ((9, 13), (1, 5), (5, 1)):
        logits = torch.randn(19, *cells)
        expected = resized(logits, size, align_corners).argmax(0)
        for given in (logits, channels_last(logits)):
            found = labels([Vote(given, align_corners)], size)
            assert found.dtype == torch.uint8
            assert torch.equal(found.long(), expected)


def channels_last(logits: Tensor) -> Tensor:
    """The same with channels last."""
    return logits[None].contiguous(memory_format=torch.channels_last)[0]


def resized(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """All classes of all pixels."""
    return functional.interpolate(logits[None], size, mode="bilinear", align_corners=align_corners)[
        0
    ]


def test_of_equal_logits_the_first_wins() -> None:
    logits = torch.randint(0, 3, (8, 6, 7), generator=torch.Generator().manual_seed(0)).float()
    for size in ((300, 400), (6, 7)):
        expected = resized(logits, size, True).argmax(0)
        assert torch.equal(labels([Vote(logits, True)], size).long(), expected)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [*SIZES, (4, 5), (8, 6)])
def test_bands_are_the_mean_probabilities(
    size: tuple[int, int], align_corners: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(labelling, "CPU_VALUES", 5 * 7 * size[1])  # seven rows at once
    shares = (0.5, 0.3, 0.2)
    votes = [
        Vote(torch.randn(5, *cells, dtype=torch.float64) * 4, align_corners, share)
        for cells, share in zip(((9, 13), (4, 5), (12, 3)), shares, strict=True)
    ]
    expected = torch.stack(
        [vote.share * resized(vote.logits, size, align_corners).softmax(0) for vote in votes]
    ).sum(0)
    bands = list(probability_bands(votes, size))
    assert [rows.start for rows, _ in bands] == list(range(0, size[0], 7))
    found = torch.cat([part for _, part in bands], 1)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    label, confidence = labels_and_confidence(votes, size)
    best, number = expected.max(0)
    assert torch.equal(label.long(), number)
    assert torch.equal(labels(votes, size), label)
    torch.testing.assert_close(confidence.double(), best, atol=1e-6, rtol=0)


def test_confidence_of_one_vote_belongs_to_its_label() -> None:
    torch.manual_seed(0)
    for scale in (4.0, 400.0):
        vote = Vote(torch.randn(19, 9, 13) * scale, align_corners=True)
        label, confidence = labels_and_confidence([vote], (300, 411))
        assert torch.equal(label, labels([vote], (300, 411)))
        probabilities = resized(vote.logits, (300, 411), True).softmax(0)
        torch.testing.assert_close(
            confidence, probabilities.gather(0, label.long()[None])[0], atol=scale * 1e-6, rtol=0
        )
        assert confidence.max() <= 1


def test_models_and_ensembles_predict_from_mean_probabilities() -> None:
    torch.manual_seed(0)
    space = LabelSpace.from_settings("toy", ["a", "b", "c"], protocols={"3": "abc"})
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    models = []
    for heads in ({"main": 1.0}, {"main": 3.0, "layer3": 1.0}):
        network = MODELS["deeplab_v2"](3, backbone="test_resnet", second_head=True)
        assert isinstance(network, Segmenter)
        models.append(Model(network, space, (64, 48), {}, heads))
    for chosen in (models[:1], models[1:], models):
        both = Ensemble(chosen)
        mean = torch.stack([model.probabilities(image) for model in chosen]).mean(0)
        label, confidence = both.predict_with_confidence(image)
        best, number = mean.max(0)
        np.testing.assert_array_equal(label, number.numpy())
        np.testing.assert_array_equal(label, both.predict(image))
        np.testing.assert_allclose(confidence, best.numpy(), atol=1e-6)
    np.testing.assert_array_equal(models[1].predict(image), Ensemble(models[1:]).predict(image))


def counted(label: NDArray[np.integer], prediction: NDArray[np.integer], classes: int) -> object:
    """The counts, one pixel at a time."""
    counts = np.zeros((classes, classes), np.int64)
    for row, column in zip(label.flat, prediction.flat, strict=True):
        if 0 <= row < classes:
            counts[row, column] += 1
    return counts.tolist()


@pytest.mark.parametrize("classes", [1, 19, 150, 255])
@pytest.mark.parametrize("shape", [(8, 12), (7, 9), (1, 1), (0, 3)])
def test_bytes_are_counted_as_other_numbers_are(classes: int, shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    label = random.integers(0, 256, shape).astype(np.uint8)
    prediction = random.integers(0, classes, shape).astype(np.uint8)
    prediction.flags.writeable = False
    expected = counted(label, prediction, classes)
    for one in (label, label.astype(np.int64), np.asfortranarray(label)):
        matrix = ConfusionMatrix(classes)
        matrix.add(one, prediction)
        assert matrix.counts.tolist() == expected
        assert matrix.counts.dtype == np.int64
    flipped = ConfusionMatrix(classes)
    flipped.add(label[:, ::-1], prediction[:, ::-1])
    assert flipped.counts.tolist() == expected


def test_large_images_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.inference.confusion_matrix.COUNTED_EXACTLY", 1000)
    random = np.random.default_rng(0)
    label, prediction = random.integers(0, 5, (2, 61, 83)).astype(np.uint8)
    matrix = ConfusionMatrix(5)
    matrix.add(label, prediction)
    matrix.add(label, prediction)
    assert (matrix.counts == 2 * np.array(counted(label, prediction, 5))).all()


def test_bytes_that_are_no_class_are_refused_where_labelled() -> None:
    matrix = ConfusionMatrix(3)
    label = np.array([[0, 255], [3, 1]], np.uint8)
    matrix.add(label, np.array([[0, 200], [3, 1]], np.uint8))
    with pytest.raises(SegueError, match="a prediction of class 7 where there are 3"):
        matrix.add(label, np.array([[7, 200], [3, 4]], np.uint8))
    assert matrix.counts.sum() == 2, "nothing of a refused image is counted"
