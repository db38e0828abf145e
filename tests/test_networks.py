"""What trains a network: each parameter once, at the rate of the iteration, clipped, held."""

import copy
import inspect
import itertools

import pytest
import torch
from torch import nn

from segue.errors import SegueError
from segue.models import MODELS
from segue.models.table import NETWORKS
from segue.training.networks import Network, Networks
from segue.training.optimisers import OPTIMISERS, SCHEDULES, constant, parameter_groups, poly, sgd


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return MODELS["deeplab_v2"](5, backbone="test_resnet", second_head=True)


def linear():
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def optimised(module, lr=0.1, **more):
    return Network(
        module, sgd(module, lr=lr, momentum=0, weight_decay=0, head_multiplier=1), **more
    )


def give(network, value=1.0):
    for parameter in network.module.parameters():
        parameter.grad = torch.full_like(parameter, value)


def test_every_trainable_parameter_is_listed_once(segmenter):
    groups = parameter_groups(segmenter, 0.1, 10)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    frozen = {id(p) for p in segmenter.parameters()} - set(listed)
    norms = [m for m in segmenter.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert frozen <= {id(p) for norm in norms for p in norm.parameters()}
    assert {id(p) for p in segmenter.heads.parameters()} <= set(listed)


def test_the_head_learns_at_its_multiple_of_the_rate(segmenter):
    backbone, head = parameter_groups(segmenter, 0.1, 10)
    assert (backbone["lr"], backbone["base_lr"]) == (0.1, 0.1)
    assert (head["lr"], head["base_lr"]) == (1.0, 1.0)
    heads = {id(p) for p in segmenter.heads.parameters()}
    assert {id(p) for p in head["params"]} == heads
    assert not heads & {id(p) for p in backbone["params"]}


def test_other_networks_have_one_rate_and_frozen_parameters_are_left_out():
    module = nn.Sequential(linear(), linear().requires_grad_(False))
    (group,) = parameter_groups(module, 0.1, 10)
    assert group["base_lr"] == 0.1
    assert [id(p) for p in group["params"]] == [id(p) for p in module[0].parameters()]


def test_a_network_with_nothing_to_train_is_told(segmenter, monkeypatch):
    nothing = {"backbone": [], "head": []}
    monkeypatch.setattr(type(segmenter), "parameter_groups", lambda self: nothing)
    with pytest.raises(SegueError, match="nothing to train"):
        parameter_groups(segmenter, 0.1, 1)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_knows_the_base_rate_of_each_group(name, segmenter):
    optimiser = OPTIMISERS[name](segmenter, lr=0.5, head_multiplier=4.0)
    assert [group["base_lr"] for group in optimiser.param_groups] == [0.5, 2.0]
    before = copy.deepcopy(segmenter.state_dict())
    network = Network(segmenter, optimiser)
    give(network)
    network.update(0)
    moved = {k for k, v in segmenter.state_dict().items() if not torch.equal(v, before[k])}
    trained = {id(parameter) for parameter in network.trainable()}
    assert moved == {name for name, p in segmenter.named_parameters() if id(p) in trained}


def test_the_papers_defaults():
    (group,) = OPTIMISERS["sgd"](linear()).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (2.5e-4, 0.9, 5e-4)
    (group,) = OPTIMISERS["adam"](linear()).param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.99), 0)


@pytest.mark.parametrize("iteration", [0, 1, 4999, 79_999, 249_999])
def test_poly(iteration):
    factor = (1 - iteration / 250_000) ** 0.9
    assert poly(150_000, over=250_000)(iteration) == pytest.approx(factor, rel=1e-12)
    assert poly(250_000)(iteration) == pytest.approx(factor, rel=1e-12)
    assert poly(250_000, power=2)(iteration) == pytest.approx((1 - iteration / 250_000) ** 2)


def test_poly_begins_at_1_and_ends_at_0():
    assert poly(10)(0) == 1
    assert poly(10)(10) == 0
    assert poly(10, over=5)(7) == 0
    assert constant(10)(9) == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_a_factor_from_0_to_1(name):
    needed = {"step": {"every": 6}}
    schedule = SCHEDULES[name](20, **needed.get(name, {}))
    factors = [schedule(iteration) for iteration in range(20)]
    assert factors[0] == 1
    assert all(0 <= later <= factor for factor, later in itertools.pairwise(factors))


def test_step_falls_by_its_factor_after_every_so_many():
    schedule = SCHEDULES["step"](150_000, every=50_000)
    for iteration, factor in ((0, 1), (49_999, 1), (50_000, 0.1), (99_999, 0.1), (100_000, 0.01)):
        assert schedule(iteration) == pytest.approx(factor, rel=1e-12)
    assert SCHEDULES["step"](9, every=3, factor=0.5)(8) == 0.25


def test_linear_holds_and_then_falls_to_0():
    schedule = SCHEDULES["linear"](200)
    assert [schedule(iteration) for iteration in (0, 99, 100, 150, 175)] == [1, 1, 1, 0.5, 0.25]
    assert schedule(199) == pytest.approx(0.01), "0 comes only after the last iteration"
    assert schedule(200) == 0
    falling = SCHEDULES["linear"](10, hold=0)
    assert [falling(iteration) for iteration in (0, 5)] == [1, 0.5]
    held = SCHEDULES["linear"](10, hold=1)
    assert [held(iteration) for iteration in (0, 9)] == [1, 1]


def test_an_update_uses_the_rate_of_its_iteration():
    network = optimised(linear(), lr=0.1, schedule=poly(10, power=1.0))
    for iteration in (0, 5, 9, 5):
        before = network.module.weight.detach().clone()
        give(network)
        network.update(iteration)
        expected = before - 0.1 * (1 - iteration / 10)
        torch.testing.assert_close(network.module.weight.detach(), expected)
        assert network.module.weight.grad is None, "gradients do not add up over iterations"


def test_the_gradient_is_clipped_to_its_norm():
    for size, expected in ((4.0, 2.0), (0.1, 0.1 * 3**0.5)):
        network = optimised(linear(), lr=1.0, clip=2.0)
        before = [parameter.detach().clone() for parameter in network.module.parameters()]
        give(network, size)
        assert float(network.gradient_norm()) == pytest.approx(size * 3**0.5)
        network.update(0)
        after = network.module.parameters()
        moved = sum((a - b).detach().square().sum() for a, b in zip(after, before, strict=True))
        assert float(moved) ** 0.5 == pytest.approx(expected, rel=1e-4)


def test_held_networks_take_no_gradient():
    table = {name: optimised(linear()) for name in ("a", "b")}
    table["teacher"] = Network(linear().requires_grad_(False))
    networks = Networks(table)

    def open_to_gradients():
        return {
            name for name, m in networks.items() if all(p.requires_grad for p in m.parameters())
        }

    for names in (["a"], ["b"], ["a", "b"], []):
        networks.hold(names)
        assert open_to_gradients() == set(names)
    networks.hold(["teacher", "a"])
    assert open_to_gradients() == {"a"}, "what nothing trains stays as it is"


def test_holding_does_not_thaw_frozen_parameters():
    segmenter = MODELS["deeplab_v2"](5, backbone="test_resnet", batch_norm="running")
    networks = Networks({"segmenter": Network(segmenter, sgd(segmenter))})
    listed = {id(parameter) for parameter in networks.table["segmenter"].trainable()}
    assert len(listed) < len(list(segmenter.parameters())), "frozen batch norms"
    networks.hold([])
    assert not any(parameter.requires_grad for parameter in networks.table["segmenter"].trainable())
    networks.hold(["segmenter"])
    give(networks.table["segmenter"])
    before = copy.deepcopy(segmenter.state_dict())
    networks.table["segmenter"].update(0)
    moved = {k for k, v in segmenter.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {name for name, p in segmenter.named_parameters() if id(p) in listed}


def trained(seed):
    torch.manual_seed(seed)
    modules = {"a": nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "b": nn.Linear(3, 1)}
    table = {
        "a": Network(modules["a"], OPTIMISERS["sgd"](modules["a"], lr=0.1), poly(10)),
        "b": Network(modules["b"], OPTIMISERS["adam"](modules["b"], lr=0.1), poly(10)),
        "teacher": Network(nn.Linear(3, 3).requires_grad_(False)),
    }
    return Networks(table)


def go_on(networks, iterations):
    for iteration in iterations:
        generator = torch.Generator().manual_seed(iteration)
        x = torch.rand(4, 3, generator=generator)
        networks["b"](networks["a"](networks["teacher"](x))).square().mean().backward()
        for name in ("a", "b"):
            networks.table[name].update(iteration)


def test_state_comes_back_whole():
    """Going on from saved state is bit-equal to never having stopped."""
    straight, first, second = trained(0), trained(0), trained(1)
    go_on(straight, range(6))
    go_on(first, range(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    go_on(second, range(3, 6))
    for name, module in straight.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, second[name].state_dict()[key]), (name, key)


def test_networks_are_a_mapping_of_modules():
    networks = trained(0)
    assert list(networks) == ["a", "b", "teacher"]
    assert len(networks) == 3
    assert networks["a"] is networks.table["a"].module
    for module in networks.values():
        module.eval()
    networks.train()
    assert all(module.training for module in networks.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_table_is_told_how_many_classes_if_it_asks(name):
    told = inspect.signature(NETWORKS[name]).parameters
    # What sees images or styles is the same for any classes.
    indifferent = {"generator", "patch_discriminator", "style_discriminator"}
    assert ("num_classes" in told) == (name not in indifferent)
