"""What is done for GPUs and for memory, tried on a CPU: the same training up to rounding."""

import copy

import pytest
import torch
from tiny import ITERATIONS, SIZE
from torch import nn

from segue.batch import Batch
from segue.checking.one_step import fill
from segue.datasets.loading import _one_ahead
from segue.errors import SegueError
from segue.models import MODELS
from segue.models.checkpointing import blocks, checkpoint_blocks
from segue.recipe import build as assembly
from segue.recipe.recipe import TrainStage
from segue.training.loop import iterate
from segue.training.networks import Network, Networks, quicken
from segue.training.optimisers import adam, adamw, sgd
from segue.training.state import Training

OPTIMISERS = {"sgd": sgd, "adam": adam, "adamw": adamw}


def drawn(count, seed):
    """A source with labels and a target."""
    random = torch.Generator().manual_seed(seed)
    width, height = SIZE
    source, target = torch.rand(2, count, 3, height, width, generator=random)
    label = torch.randint(0, 11, (count, height, width), generator=random)
    return {"source": Batch(source, label), "target": Batch(target, label)}


def trained(recipe, change=lambda networks: None, *, steps=ITERATIONS, examine_every=None):
    """The networks of a recipe's last train stage after a few iterations on random images."""
    name, stage = [(n, s) for n, s in recipe.stages.items() if isinstance(s, TrainStage)][-1]
    networks = assembly.networks(recipe, name, stage)
    for network in networks.table.values():
        fill(network)
    change(networks)
    terms = assembly.terms(stage.terms, where="terms")
    views = assembly.views(stage.views, where="views")
    phases = assembly.phases(terms, stage.phases, views, where="phases")
    training = Training(
        networks, phases, steps, lambda *_: iter(()), views=views, examine_every=examine_every
    )
    networks.train()
    recorded = [
        iterate(training, iteration, [drawn(stage.batch_size, iteration)])[0].recorded
        for iteration in range(steps)
    ]
    return networks, recorded


def weights(networks):
    return {
        f"{name}.{key}": value
        for name, module in networks.items()
        for key, value in module.state_dict().items()
    }


def furthest(one, other):
    """The largest difference of two networks' weights, beside their largest values."""
    assert list(one) == list(other)
    return max(
        float((one[key].double() - other[key].double()).abs().max())
        / max(1.0, float(one[key].double().abs().max()))
        for key in one
        if one[key].numel()
    )


SYSTEMS = ("local-alignment-demo", "grouping-demo", "coarse-to-fine-demo", "category-adaptive-demo")


@pytest.mark.parametrize("name", SYSTEMS)
def test_channels_last_and_fused_updates_train_alike(name, tiny_recipe):
    recipe = tiny_recipe(name)

    def quick(networks):
        for network in networks.table.values():
            quicken(network)

    plain, told = trained(recipe)
    fast, told_fast = trained(recipe, quick)
    assert furthest(weights(plain), weights(fast)) < 1e-4
    for one, other in zip(told, told_fast, strict=True):
        for key, value in one.items():
            assert float(other[key]) == pytest.approx(float(value), rel=1e-2, abs=1e-4), key


def test_on_a_cpu_nothing_changes_layout_or_updates():
    networks = Networks({"net": Network(nn.Conv2d(3, 8, 3), None)})
    network = networks.table["net"]
    network.optimiser = sgd(network.module)
    networks.to(torch.device("cpu"))
    assert network.module.weight.is_contiguous()
    assert not network.optimiser.param_groups[0]["fused"]


@pytest.mark.parametrize("kind", sorted(OPTIMISERS))
def test_training_goes_on_where_updates_are_of_another_kind(kind):
    """A GPU's checkpoint on a CPU, and the other way round."""

    def made(quick):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))
        network = Network(module, OPTIMISERS[kind](module, lr=1e-2))
        if quick:
            quicken(network)
        return Networks({"net": network})

    def go_on(networks, iterations):
        for iteration in iterations:
            image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(iteration))
            networks["net"](image).square().mean().backward()
            networks.table["net"].update(iteration)
        return networks

    whole = weights(go_on(made(False), range(4)))
    for first, then in ((True, False), (False, True), (True, True)):
        state = copy.deepcopy(go_on(made(first), range(2)).state_dict())
        resumed = made(then)
        resumed.load_state_dict(state)
        optimiser = resumed.table["net"].optimiser
        assert bool(optimiser.param_groups[0]["fused"]) == then
        for parameter, values in optimiser.state.items():
            for value in values.values():
                assert value.shape != parameter.shape or value.stride() == parameter.stride()
        assert furthest(whole, weights(go_on(resumed, range(2, 4)))) < 1e-6


def encoded(kind, mode, **arguments):
    torch.manual_seed(0)
    return MODELS[kind](5, batch_norm=mode, **arguments)


def gradients(network, image, *, twice=False):
    torch.manual_seed(1)
    network.train()
    loss = sum(x.square().mean() for x in network(image).logits.values())
    parameters = [p for p in network.parameters() if p.requires_grad]
    if twice:  # as a term's pull is measured before the backward pass
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    loss.backward()
    return [p.grad for p in parameters]


@pytest.mark.parametrize("mode", ["batch", "running", "tracking"])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("deeplab_v2", {"backbone": "test_resnet"}),
        ("deeplab_v2", {"backbone": "resnet18"}),
        ("deeplab_v2_caffe", {"depths": (1, 1, 1, 1)}),
        ("deeplab_v3_plus", {"encoder": "test_resnet"}),
        ("segformer", {"encoder": "mit_b0"}),
        ("upernet", {"encoder": "test_convnext"}),
    ],
)
def test_blocks_computed_again_give_the_same_bits(kind, arguments, mode):
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    plain, thrifty = encoded(kind, mode, **arguments), encoded(kind, mode, **arguments)
    checkpoint_blocks(thrifty, where="segmenter")
    copied = copy.deepcopy(thrifty)
    wanted = gradients(plain, image)
    for network, twice in ((thrifty, False), (copied, True)):
        for one, other in zip(wanted, gradients(network, image, twice=twice), strict=True):
            assert torch.equal(one, other)
        state = network.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_two_backward_passes_add_their_gradients(kind):
    """As where the source's terms are backpropagated before the target runs."""
    small = {"deeplab_v2": {"backbone": "test_resnet"}, "deeplab_v2_caffe": {"depths": (1,) * 4}}
    network = encoded(kind, "running", **small.get(kind, {"encoder": "test_resnet"}))
    images = torch.rand(2, 1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    alone = [[p.clone() for p in gradients(network, image)] for image in images[:1]]
    network.zero_grad()
    alone.append([p.clone() for p in gradients(network, images[1])])
    network.zero_grad()
    for image in images:
        both = gradients(network, image)
    for one, other, joint in zip(*alone, both, strict=True):
        torch.testing.assert_close(joint, one + other, rtol=1e-4, atol=1e-6)


def test_blocks_of_encoders():
    deep = blocks(MODELS["deeplab_v2"](5, backbone="resnet50").encoder)
    assert len(deep) == 3 + 4 + 6 + 3
    assert len(blocks(MODELS["segformer"](5, encoder="mit_b0").encoder)) == 8
    assert len(blocks(MODELS["deeplab_v2"](5, backbone="vit_tiny_patch16_224").encoder)) == 12
    with pytest.raises(SegueError, match=r"judge\.checkpointing: there are no blocks to compute"):
        checkpoint_blocks(nn.Conv2d(1, 1, 1), where="judge.checkpointing")


@pytest.mark.parametrize("name", SYSTEMS)
def test_checkpointing_in_a_recipe_changes_no_bit(name, tiny_recipe):
    recipe = tiny_recipe(name)
    last = [n for n, s in recipe.stages.items() if isinstance(s, TrainStage)][-1]
    thrifty = tiny_recipe(name, f"stages.{last}.networks.segmenter.checkpointing=true")
    assert thrifty.fingerprint(last) == recipe.fingerprint(last)
    plain, told = trained(recipe, examine_every=1)
    same, told_again = trained(thrifty, examine_every=1)
    assert furthest(weights(plain), weights(same)) == 0
    assert told == told_again


@pytest.mark.slow
# dynamo looks at more than it traces
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", SYSTEMS)
def test_compiled_networks_train_alike(name, tiny_recipe):
    recipe = tiny_recipe(name)
    plain, told = trained(recipe, examine_every=1)
    torch.compiler.reset()
    quick, told_compiled = trained(
        recipe, lambda networks: networks.compile(backend="aot_eager"), examine_every=1
    )
    assert furthest(weights(plain), weights(quick)) < 1e-4
    assert [one.keys() for one in told] == [one.keys() for one in told_compiled]


def test_compiled_networks_keep_what_they_need(tiny_recipe):
    checkpointing = "stages.train.networks.segmenter.checkpointing=true"
    assert not tiny_recipe("advent-demo", checkpointing).compile
    with pytest.raises(SegueError, match=r"segmenter\.checkpointing: does not go together with"):
        tiny_recipe("advent-demo", checkpointing, "compile=true")


def test_batches_one_ahead():
    closed = []

    def draws():
        try:
            yield from range(5)
        finally:
            closed.append(True)

    assert list(_one_ahead(draws(), 5)) == list(range(5))
    assert list(_one_ahead(draws(), 0)) == []
    begun = _one_ahead(draws(), 5)
    assert [next(begun), next(begun)] == [0, 1]
    begun.close()
    assert len(closed) == 2  # one was never begun
