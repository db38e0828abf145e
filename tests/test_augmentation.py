import pytest
import torch
from torchvision import tv_tensors

from segue.datasets.augmentation import (
    AUGMENTATIONS,
    colour_jitter,
    flip,
    random_crop,
    random_scale,
)
from segue.errors import SegueError

ARGUMENTS = {
    "random_crop": {"size": (5, 4)},
    "random_scale": {"low": 0.5, "high": 2.0},
    "flip": {"probability": 1.0},
    "colour_jitter": {},
}


def test_every_augmentation_is_tested():
    assert set(ARGUMENTS) == set(AUGMENTATIONS)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_image_and_label_change_alike_and_the_label_may_be_absent(name):
    change = AUGMENTATIONS[name](**ARGUMENTS[name])
    pattern = torch.arange(48, dtype=torch.uint8).reshape(6, 8)
    image = tv_tensors.Image(pattern.expand(3, -1, -1).clone())
    changed, label = change(image, tv_tensors.Mask(pattern))
    assert changed.dtype == label.dtype == torch.uint8
    assert changed.shape[-2:] == label.shape
    if name in ("random_crop", "flip"):
        assert torch.equal(changed[0].as_subclass(torch.Tensor), label.as_subclass(torch.Tensor))
    if name == "colour_jitter":
        assert torch.equal(label.as_subclass(torch.Tensor), pattern)
    alone, nothing = change(image, None)
    assert nothing is None
    assert isinstance(alone, tv_tensors.Image)


def test_a_crop_beyond_the_image_is_black_and_ignored():
    image, label = random_crop((10, 10))(
        tv_tensors.Image(torch.full((3, 4, 4), 9, dtype=torch.uint8)),
        tv_tensors.Mask(torch.ones(4, 4, dtype=torch.uint8)),
    )
    assert image.shape == (3, 10, 10)
    assert torch.equal(image[0] == 0, label == 255)
    assert (label == 1).sum() == 16


def test_a_scaled_label_lies_on_its_image():
    half = torch.zeros(40, 60, dtype=torch.uint8)
    half[:, 31:] = 200
    image, label = random_scale(0.6, 0.6)(
        tv_tensors.Image(half.expand(3, -1, -1).clone()), tv_tensors.Mask(half)
    )
    inside = (image[0] > 100).sum(1).float() - (label > 100).sum(1).float()
    assert inside.abs().max() <= 0


@pytest.mark.parametrize(
    ("make", "settings_"),
    [
        (random_crop, {"size": (0, 4)}),
        (random_scale, {"low": 0}),
        (random_scale, {"low": 2, "high": 1}),
        (flip, {"probability": 1.5}),
        (colour_jitter, {"hue": 0.6}),
        (colour_jitter, {"contrast": -1}),
    ],
)
def test_settings_out_of_range(make, settings_):
    with pytest.raises(SegueError, match=make.__name__):
        make(**settings_)
