"""Views: images change, what is known about them stays, and chance follows from the step."""

import inspect

import pytest
import torch
from torchvision.transforms import functional

from segue.batch import Batch
from segue.errors import SegueError
from segue.parts import build
from segue.training.step import Step
from segue.translation.fourier import Fourier
from segue.translation.photometric import Photometric
from segue.views import VIEWS
from segue.views.jittered import Jittered
from segue.views.translated import translated

ORDER = ("brightness", "contrast", "saturation", "hue")


def images(seed, count=2, size=(12, 16)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def batch(seed, count=2, size=(12, 16)):
    """A batch of which everything is known."""
    return Batch(
        images(seed, count, size),
        label=torch.randint(0, 5, (count, *size)),
        weight=torch.rand(count, *size),
        box=torch.rand(count, 4),
        names=tuple(f"{seed}-{index}.png" for index in range(count)),
    )


def step_of(source, target, iteration=3, **more):
    return Step({"source": source, "target": target}, {}, iteration=iteration, **more)


def assert_all_but_the_image_stays(made, of):
    assert made.label is of.label
    assert made.weight is of.weight
    assert made.box is of.box
    assert made.names == of.names
    assert made.image.shape == of.image.shape
    assert not made.image.requires_grad
    assert not torch.equal(made.image, of.image)


@pytest.mark.parametrize("name", VIEWS)
def test_arguments_are_keywords_with_types(name):
    for parameter in inspect.signature(VIEWS[name]).parameters.values():
        assert parameter.kind == parameter.KEYWORD_ONLY
        assert parameter.annotation is not parameter.empty


# Translated


@pytest.mark.parametrize("by", ["photometric", "fourier", {"kind": "fourier", "beta": 0.2}])
def test_translated_changes_the_image_alone(by):
    source = batch(1)
    source.image.requires_grad_()
    made = translated(by=by)(step_of(source, batch(2)))
    assert_all_but_the_image_stays(made, source)


def test_translated_takes_the_image_drawn_beside():
    source, target = batch(1, count=5), batch(2, count=2, size=(8, 10))
    made = translated(by="fourier")(step_of(source, target))
    for index in range(5):
        beside = target.image[index % 2 : index % 2 + 1]
        alone = Fourier()(source.image[index : index + 1], beside)
        torch.testing.assert_close(made.image[index : index + 1], alone, atol=1e-6, rtol=0)


def test_translated_needs_no_more_references_than_images():
    source, target = batch(1, count=1), batch(2, count=3)
    made = translated()(step_of(source, target))
    assert torch.equal(made.image, Photometric()(source.image, target.image[:1]))


def test_translated_reads_other_views():
    step = Step(
        {"source": batch(1), "target": batch(2)},
        {},
        iteration=0,
        views={
            "shaken": Jittered(of="target"),
            "aligned": translated(of="source", towards="shaken"),
        },
    )
    expected = Photometric()(step.source.image, step.view("shaken").image)
    assert torch.equal(step.view("aligned").image, expected)


def test_translated_by_none_leaves_the_image():
    source = batch(1)
    assert torch.equal(translated(by="none")(step_of(source, batch(2))).image, source.image)


def test_translated_shares_no_graph():
    assert translated().parents == ()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"by": "fourrier"}, "by: unknown translation 'fourrier'; did you mean 'fourier'?"),
        ({"by": {"kind": "fourier", "bta": 1}}, "by.bta: unknown key; did you mean 'beta'?"),
        ({"toward": "target"}, "views.aligned.toward: unknown key; did you mean 'towards'?"),
    ],
)
def test_mistakes_are_told(settings, said):
    part = {"kind": "translated", **settings}
    with pytest.raises(SegueError) as caught:
        build(VIEWS, part, where="views.aligned", what="view")
    assert said in str(caught.value)


# Jittered


def test_jittered_changes_the_image_alone():
    source = batch(1)
    source.image.requires_grad_()
    made = Jittered()(step_of(source, batch(2)))
    assert_all_but_the_image_stays(made, source)
    assert 0 <= made.image.min() <= made.image.max() <= 1


def test_jittered_is_torchvisions_changes_in_the_order_drawn():
    step = step_of(batch(1), batch(2))
    made = Jittered(brightness=0.5, contrast=0.4, saturation=1.5, hue=0.2)(step).image
    low = {"brightness": 0.5, "contrast": 0.6, "saturation": 0.0, "hue": -0.2}
    high = {"brightness": 1.5, "contrast": 1.4, "saturation": 2.5, "hue": 0.2}
    for index, image in enumerate(step.source.image):
        generator = step.random("jitter source", image=index)
        drawn = torch.rand(4, generator=generator).tolist()
        for which in torch.randperm(4, generator=generator).tolist():
            name = ORDER[which]
            factor = low[name] + drawn[which] * (high[name] - low[name])
            image = getattr(functional, f"adjust_{name}")(image, factor)
        torch.testing.assert_close(made[index], image, atol=1e-5, rtol=0)


def test_every_order_and_the_whole_range_occur():
    orders, factors = set(), []
    for iteration in range(300):
        generator = step_of(batch(1), batch(2), iteration).random("jitter source", image=0)
        factors.append(torch.rand(4, generator=generator))
        orders.add(tuple(torch.randperm(4, generator=generator).tolist()))
    assert len(orders) == 24
    spread = torch.stack(factors)
    assert bool((spread.min(0).values < 0.05).all())
    assert bool((spread.max(0).values > 0.95).all())


def test_jitter_follows_from_seed_iteration_and_place():
    source, target = batch(1, count=3), batch(2)
    source = Batch(source.image[:1].expand(3, -1, -1, -1))
    whole = Jittered()(step_of(source, target)).image
    assert torch.equal(whole, Jittered()(step_of(source, target)).image)
    assert not torch.equal(whole[0], whole[1])
    # The same image in a process that has but the last of the joint batch.
    last = Jittered()(step_of(Batch(source.image[2:]), target, slot=2)).image
    assert torch.equal(last[0], whole[2])
    for other in ({"iteration": 4}, {"seed": 1}):
        assert not torch.equal(whole, Jittered()(step_of(source, target, **other)).image)


def test_source_and_target_are_jittered_differently():
    step = step_of(batch(1), batch(1))
    assert not torch.equal(Jittered()(step).image, Jittered(of="target")(step).image)


def test_strength_zero_leaves_the_image():
    source = batch(1)
    none = Jittered(brightness=0, contrast=0, saturation=0, hue=0)
    assert torch.equal(none(step_of(source, batch(2))).image, source.image)


@pytest.mark.parametrize("name", ORDER)
def test_each_strength_acts_alone_and_moves_no_other_draw(name):
    step, strengths = step_of(batch(1), batch(2)), dict.fromkeys(ORDER, 0.0)
    made = Jittered(**{**strengths, name: 0.4})(step).image
    place = ORDER.index(name)
    for index, image in enumerate(step.source.image):
        drawn = torch.rand(4, generator=step.random("jitter source", image=index))[place]
        factor = float(drawn * 0.8 - 0.4) + (name != "hue")
        expected = getattr(functional, f"adjust_{name}")(image, factor)
        torch.testing.assert_close(made[index], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_and_grey_images_are_jittered(value):
    made = Jittered()(step_of(Batch(torch.full((2, 3, 4, 5), value)), batch(2))).image
    assert torch.isfinite(made).all()
    torch.testing.assert_close(made[:, 0], made[:, 2], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hue": 0.6}, "hue: 0.6 will not do; use 0 to 0.5"),
        ({"contrast": -1}, "contrast: -1.0 will not do; use 0 or more"),
        ({"contrasts": 1}, "views.x.contrasts: unknown key; did you mean 'contrast'?"),
    ],
)
def test_strengths_out_of_range_are_refused(settings, said):
    with pytest.raises(SegueError) as caught:
        build(VIEWS, {"kind": "jittered", **settings}, where="views.x", what="view")
    assert said in str(caught.value)
