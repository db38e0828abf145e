"""Every model of the table, and what is particular to some."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pydantic
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.errors import SegueError
from segue.models import MODELS, Segmenter
from segue.models.batch_norm import BatchNormMode, set_batch_norm
from segue.models.deeplab_v2 import AtrousHead
from segue.models.deeplab_v2_caffe import LAYOUTS, deeplab_v2_caffe
from segue.models.normalisation import NORMALISATIONS

TINY: dict[str, dict[str, Any]] = {
    "deeplab_v2": {"backbone": "test_resnet", "second_head": True},
    "deeplab_v2_caffe": {"depths": (1, 1, 2, 1), "width": 4, "second_head": True},
    "deeplab_v3_plus": {"encoder": "test_resnet"},
    "segformer": {"encoder": "test_resnet"},
    "upernet": {"encoder": "test_resnet"},
}
EXTRA: list[tuple[str, dict[str, Any]]] = [
    ("deeplab_v2", {"backbone": "test_vit"}),
    ("deeplab_v2", {"backbone": "test_convnext", "align_corners": False}),
    ("deeplab_v3_plus", {"encoder": "mobilenetv2_035", "output_stride": 8}),
    ("segformer", {"encoder": "mit_b0"}),
    ("upernet", {"encoder": "test_convnext"}),
]
MODES: tuple[BatchNormMode, ...] = ("batch", "running", "tracking")


def build(name: str, **changes: Any) -> Segmenter:
    torch.manual_seed(0)
    return MODELS[name](5, **{**TINY[name], **changes})


def test_every_model_has_a_tiny_form_here() -> None:
    assert TINY.keys() == MODELS.keys()


@pytest.mark.parametrize(("name", "arguments"), [*TINY.items(), *EXTRA])
@pytest.mark.parametrize("size", [(97, 65), (72, 119)])
def test_any_size_gives_logits_and_features(
    name: str, arguments: dict[str, Any], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    network = MODELS[name](5, **arguments).eval()
    output = network(torch.rand(2, 3, *size))
    assert output.logits.keys() == ({"main", "layer3"} if "second_head" in arguments else {"main"})
    assert {"layer1", "layer2", "layer3", "layer4", "penultimate"} == output.features.keys()
    for logits in output.logits.values():
        assert logits.shape[:2] == (2, 5)
        full = network.upsample(logits, size)
        assert full.shape == (2, 5, *size)
        assert full.isfinite().all()
    assert output.features["penultimate"].shape[2:] == output.logits["main"].shape[2:]
    areas = [feature[0, 0].numel() for feature in list(output.features.values())[:4]]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("freeze", [False, True])
def test_groups_hold_each_trainable_parameter_once(
    name: str, mode: BatchNormMode, freeze: bool
) -> None:
    network = build(name, batch_norm=mode)
    network.freeze_affine = freeze
    set_batch_norm(network, mode)
    groups = network.parameter_groups()
    assert groups.keys() == {"backbone", "head"}
    listed = [id(parameter) for group in groups.values() for parameter in group]
    trainable = {id(p) for p in network.parameters() if p.requires_grad}
    assert len(listed) == len(set(listed))
    assert set(listed) == trainable
    encoder = {id(parameter) for parameter in network.encoder.parameters()}
    assert {id(parameter) for parameter in groups["backbone"]} <= encoder
    assert not {id(parameter) for parameter in groups["head"]} & encoder
    affine = {id(p) for m in network.encoder.modules() if is_norm(m) for p in m.parameters()}
    assert affine.isdisjoint(listed) == (freeze or mode == "running")


@pytest.mark.parametrize("name", MODELS)
def test_groups_survive_a_loop_that_freezes_what_they_list(name: str) -> None:
    network = build(name, batch_norm="running")
    before = [len(group) for group in network.parameter_groups().values()]
    for flag in (False, True):
        for group in network.parameter_groups().values():
            for parameter in group:
                parameter.requires_grad_(flag)
        assert [len(group) for group in network.parameter_groups().values()] == before
    assert not any(p.requires_grad for m in network.modules() if is_norm(m) for p in m.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", MODES)
def test_every_listed_parameter_gets_a_gradient(name: str, mode: BatchNormMode) -> None:
    network = build(name, batch_norm=mode).train()
    output = network(torch.rand(2, 3, 64, 96))
    sum(logits.square().mean() for logits in output.logits.values()).backward()
    missing = [key for key, p in network.named_parameters() if p.requires_grad and (p.grad is None)]
    assert missing == []


# Batch norm


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def statistics(network: nn.Module) -> list[Tensor]:
    return [value.clone() for key, value in network.named_buffers() if "running" in key]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_batch_norm_mode_decides_what_normalises_and_what_is_updated(mode: BatchNormMode) -> None:
    network = build("deeplab_v2", batch_norm=mode)
    image = torch.rand(2, 3, 64, 64)
    expected = network.eval()(image).logits["main"]
    before = statistics(network)
    network.train()
    logits = network(image).logits["main"]
    assert torch.equal(logits, expected) == (mode != "batch")
    assert same(before, statistics(network)) == (mode == "running")
    after = statistics(network)
    network.eval()(image)
    assert same(after, statistics(network))


def test_tracking_updates_as_torch_does_in_training() -> None:
    tracking = build("deeplab_v2", batch_norm="tracking").train()
    image = torch.rand(2, 3, 64, 64)
    tracking(image)
    plain = build("deeplab_v2", batch_norm="batch").train()
    plain(image)
    # Only the first norm sees the same input in both.
    first = next(m for m in tracking.modules() if is_norm(m))
    other = next(m for m in plain.modules() if is_norm(m))
    torch.testing.assert_close(first.running_mean, other.running_mean)
    torch.testing.assert_close(first.running_var, other.running_var)
    assert first.num_batches_tracked == other.num_batches_tracked == 1


def kept_and_gradients(network: Segmenter, image: Tensor) -> tuple[int, list[Tensor]]:
    """Bytes of what a forward pass keeps beside parameters, and the gradients that it leads to."""
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = network(image).logits["main"].square().mean()
    for parameter in network.parameters():
        kept.pop(parameter.data_ptr(), None)
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return sum(x.nbytes for x in kept.values()), list(torch.autograd.grad(loss, learnt))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("mode", ["running", "tracking"])
def test_frozen_batch_norms_keep_nothing_and_give_the_same_bits(
    mode: BatchNormMode, half: bool
) -> None:
    # With torch's a bottleneck's maps are kept twice: for a convolution, and for a batch norm.
    thrifty = deeplab_v2_caffe(5, depths=(1, 1, 2, 1), width=4, batch_norm=mode).train()
    for layer in filter(is_norm, thrifty.modules()):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    plain = copy.deepcopy(thrifty)
    for layer in filter(is_norm, plain.modules()):
        layer.__class__ = nn.BatchNorm2d
    image = torch.rand(2, 3, 64, 96)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        kept, ours = kept_and_gradients(thrifty, image)
        more, theirs = kept_and_gradients(plain, image)
    assert kept < 0.7 * more
    assert same(ours, theirs)
    assert same(statistics(thrifty), statistics(plain))


@pytest.mark.parametrize("mode", MODES)
def test_several_forwards_before_a_backward(mode: BatchNormMode) -> None:
    network = build("deeplab_v2", batch_norm=mode).train()
    losses = [network(torch.rand(2, 3, 64, 64)).logits["main"].square().mean() for _ in range(3)]
    torch.stack(losses).sum().backward()


def test_a_copy_tracks_on_its_own() -> None:
    network = build("deeplab_v2", batch_norm="tracking").train()
    teacher = copy.deepcopy(network).eval()
    before = statistics(teacher)
    network(torch.rand(2, 3, 64, 64))
    assert same(before, statistics(teacher))
    kept = statistics(network)
    teacher.train()(torch.rand(2, 3, 64, 64))
    assert same(kept, statistics(network))
    assert not same(before, statistics(teacher))


def test_the_mode_can_be_changed_and_changed_back() -> None:
    network = build("deeplab_v2", batch_norm="tracking").train()
    for mode, moved in (("running", False), ("batch", True), ("tracking", True)):
        set_batch_norm(network, mode)
        before = statistics(network)
        network(torch.rand(2, 3, 64, 64))
        assert same(before, statistics(network)) != moved
    assert len(network.tracking_hooks) == sum(map(is_norm, network.modules()))
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_one_image_has_no_batch_statistics_after_pooling() -> None:
    network = build("deeplab_v3_plus", batch_norm="batch").train()
    with pytest.raises(SegueError, match="batch of two or more"):
        network(torch.rand(1, 3, 64, 64))
    set_batch_norm(network, "tracking")
    assert network(torch.rand(1, 3, 64, 64)).logits["main"].isfinite().all()


def test_description_says_what_is_trained() -> None:
    assert build("deeplab_v2_caffe").describe() == (
        "DeepLab-v2, old geometry, 17 layers, stride 8, 0.1 M parameters, batch norm: batch "
        "statistics, backbone affine frozen, normalisation caffe"
    )


# Geometry


class _Average(nn.Module):
    """Cells of 4x4 pixels, at four "stages"."""

    def forward(self, image: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(image, 4)] * 4


@pytest.mark.parametrize("size", [(60, 60), (53, 58), (49, 63)])
def test_padding_shifts_and_stretches_nothing(size: tuple[int, int]) -> None:
    network = Segmenter(
        _Average(),
        {"main": nn.Identity()},
        num_classes=3,
        normalisation=NORMALISATIONS["none"],
        align_corners=False,
        divisor=16,
        name="averages",
    )
    rows = torch.arange(size[0]).view(-1, 1) / 64
    columns = torch.arange(size[1]).view(1, -1) / 64
    image = torch.stack([rows + 0 * columns, 0 * rows + columns, 0 * (rows + columns)])[None]
    logits = network(image).logits["main"]
    assert logits.shape[2:] == tuple(-(-side // 4) for side in size)
    # Away from the edge, where the padding's zeros are averaged in, a ramp stays where it was.
    inner = (slice(None), slice(None), slice(8, 40), slice(8, 40))
    torch.testing.assert_close(
        network.upsample(logits, size)[inner], image[inner], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("align_corners", [False, True])
def test_unpadding_is_upsampling_then_cropping(align_corners: bool) -> None:
    network = build("deeplab_v2", align_corners=align_corners)
    ramp = torch.arange(16.0)
    x = torch.stack([ramp.view(-1, 1).expand(16, 16), ramp.expand(16, 16)])[None]
    ours = network.upsample(network._unpad(x, (57, 61), (64, 64)), (57, 61))
    expected = network.upsample(x, (64, 64))[..., :57, :61]
    # Without aligned corners the outermost cell's outer half is held constant.
    inner = ... if align_corners else (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(ours[inner], expected[inner], atol=1e-4, rtol=0)


def test_old_geometry_has_65_by_129_logits_and_today_s_has_64_by_128() -> None:
    image = torch.zeros(1, 3, 512, 1024)
    with torch.no_grad():
        assert build("deeplab_v2_caffe").eval()(image).logits["main"].shape[2:] == (65, 129)
        assert build("deeplab_v2").eval()(image).logits["main"].shape[2:] == (64, 128)


def test_head_is_the_sum_of_its_dilated_convolutions() -> None:
    torch.manual_seed(0)
    head = AtrousHead(6, 3)
    x = torch.rand(1, 6, 40, 40)
    expected = sum(
        F.conv2d(x, branch.weight, branch.bias, padding=rate, dilation=rate)
        for branch, rate in zip(head.branches, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(head(x), expected)
    weight = AtrousHead(512, 19).branches[0].weight.detach()
    assert float(weight.std()) == pytest.approx(0.01, rel=0.02)


# Names and the hub


def test_builders_can_be_validated_from_their_signatures(tmp_path: Path) -> None:
    for name, arguments in TINY.items():
        builder = pydantic.validate_call(MODELS[name])
        given = {key: list(x) if isinstance(x, tuple) else x for key, x in arguments.items()}
        assert builder(5, batch_norm="running", **given).batch_norm == "running"
        with pytest.raises(pydantic.ValidationError, match="batch_norm"):
            builder(5, batch_norm="frozen", **given)
        with pytest.raises(SegueError, match="no such weights file"):
            builder(5, weights=str(tmp_path / "none.pth"), **given)


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (lambda: MODELS["deeplab_v2"](5, backbone="resnet_101"), "did you mean .*resnet101"),
        (lambda: MODELS["upernet"](5, encoder="convnext_tinny"), "did you mean convnext_tiny"),
        (lambda: MODELS["segformer"](5, encoder="test_vit"), "cannot stand on test_vit"),
    ],
)
def test_unknown_or_unsuitable_encoders(build_it: Callable[[], object], message: str) -> None:
    with pytest.raises(SegueError, match=message):
        build_it()


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("deeplab_v2", {"backbone": "resnet18"}),
        ("segformer", {"encoder": "mit_b0"}),
        ("segformer", {"encoder": "resnet18"}),
    ],
)
def test_hub_out_of_reach(
    name: str, encoder: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SegueError, match=r"cannot be fetched.*give its path as `weights`"):
        MODELS[name](5, weights="hub", **encoder)


# The public checkpoints, against a ResNet that shares no code with ours


def norm(x: Tensor, state: dict[str, Tensor], key: str) -> Tensor:
    mean, var, weight, bias = (
        state[f"{key}.{part}"].view(1, -1, 1, 1)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def plain_block(x: Tensor, state: dict[str, Tensor], key: str, stride: int, rate: int) -> Tensor:
    y = F.conv2d(x, state[f"{key}.conv1.weight"], stride=stride)
    y = norm(y, state, f"{key}.bn1").relu()
    y = F.conv2d(y, state[f"{key}.conv2.weight"], padding=rate, dilation=rate)
    y = norm(y, state, f"{key}.bn2").relu()
    y = norm(F.conv2d(y, state[f"{key}.conv3.weight"]), state, f"{key}.bn3")
    if f"{key}.downsample.0.weight" in state:
        x = F.conv2d(x, state[f"{key}.downsample.0.weight"], stride=stride)
        x = norm(x, state, f"{key}.downsample.1")
    return (x + y).relu()


def plain_head(x: Tensor, state: dict[str, Tensor], key: str, summed: int) -> Tensor:
    parts = [
        F.conv2d(
            x,
            state[f"{key}.conv2d_list.{i}.weight"],
            state[f"{key}.conv2d_list.{i}.bias"],
            padding=6 * (i + 1),
            dilation=6 * (i + 1),
        )
        for i in range(summed)
    ]
    return torch.stack(parts).sum(0)


def plain_resnet(
    image: Tensor, state: dict[str, Tensor], heads: dict[str, str], summed: int
) -> dict[str, Tensor]:
    red, green, blue = (image * 255).unbind(1)
    x = torch.stack([blue - 104.00698793, green - 116.66876762, red - 122.67891434], dim=1)
    x = norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), state, "bn1").relu()
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1, ceil_mode=True)
    seen: dict[str, Tensor] = {}
    plan = [(1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 1, 4)]
    for (stage, stride, rate), depth in zip(plan, (1, 2, 2, 1), strict=True):
        for block in range(depth):
            x = plain_block(x, state, f"layer{stage}.{block}", stride if block == 0 else 1, rate)
        seen[f"layer{stage}"] = x
    return {
        ours: plain_head(seen["layer3" if ours == "layer3" else "layer4"], state, theirs, summed)
        for theirs, ours in heads.items()
    }


def checkpoint(layers: dict[str, int], width: int = 4, classes: int = 7) -> dict[str, Tensor]:
    """A random state dict in the public names; `layers`: head -> channels it reads."""
    draw = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = {}

    def conv(key: str, out: int, channels: int, kernel: int) -> None:
        scale = (2 / (channels * kernel * kernel)) ** 0.5
        state[f"{key}.weight"] = torch.randn(out, channels, kernel, kernel, generator=draw) * scale

    def bn(key: str, channels: int) -> None:
        state[f"{key}.weight"] = 0.5 + torch.rand(channels, generator=draw)
        state[f"{key}.bias"] = torch.randn(channels, generator=draw) * 0.1
        state[f"{key}.running_mean"] = torch.randn(channels, generator=draw) * 0.1
        state[f"{key}.running_var"] = 0.5 + torch.rand(channels, generator=draw)

    conv("conv1", width, 3, 7)
    bn("bn1", width)
    channels = width
    for stage, depth in zip((1, 2, 3, 4), (1, 2, 2, 1), strict=True):
        inner = width * 2 ** (stage - 1)
        for block in range(depth):
            key = f"layer{stage}.{block}"
            for index, (out, into, kernel) in enumerate(
                [(inner, channels, 1), (inner, inner, 3), (4 * inner, inner, 1)], start=1
            ):
                conv(f"{key}.conv{index}", out, into, kernel)
                bn(f"{key}.bn{index}", out)
            if block == 0:
                conv(f"{key}.downsample.0", 4 * inner, channels, 1)
                bn(f"{key}.downsample.1", 4 * inner)
            channels = 4 * inner
    for head, into in layers.items():
        for i in range(4):
            conv(f"{head}.conv2d_list.{i}", classes, into, 3)
            state[f"{head}.conv2d_list.{i}.bias"] = torch.randn(classes, generator=draw)
    return state


LAYERS = {
    "adaptsegnet": {"layer5": 128},
    "adaptsegnet_multi": {"layer5": 64, "layer6": 128},
    "advent": {"layer5": 64, "layer6": 128},
    "bdl": {"layer5": 128},
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("layout", LAYERS)
def test_public_checkpoints_give_the_logits_of_a_plain_resnet(
    layout: Any, prefix: str, tmp_path: Path
) -> None:
    state = checkpoint(LAYERS[layout])
    path = tmp_path / "public.pth"
    torch.save({prefix + key: value for key, value in state.items()}, path)
    network = deeplab_v2_caffe(
        7,
        weights=path,
        layout=layout,
        second_head=len(LAYERS[layout]) == 2,
        depths=(1, 2, 2, 1),
        width=4,
    ).eval()
    image = torch.rand(2, 3, 97, 134, generator=torch.Generator().manual_seed(1))
    summed = 2 if layout.startswith("adaptsegnet") else 4
    heads = (
        {"layer5": "layer3", "layer6": "main"} if len(LAYERS[layout]) == 2 else {"layer5": "main"}
    )
    expected = plain_resnet(image, state, heads, summed)
    with torch.no_grad():
        logits = network(image).logits
    assert logits.keys() == expected.keys()
    for name, value in expected.items():
        assert value.abs().mean() > 0.1
        assert (logits[name] - value).abs().max() < 1e-5 * value.abs().max()


def test_every_layout_is_tested() -> None:
    assert {*LAYERS, "backbone"} == LAYOUTS.keys()


def test_initial_weights_fill_the_backbone_and_leave_the_head_alone(tmp_path: Path) -> None:
    state = checkpoint({"layer5": 128}, classes=21)
    path = tmp_path / "initial.pth"
    torch.save({f"Scale.{key}": value for key, value in state.items()}, path)
    network = deeplab_v2_caffe(19, weights=path, depths=(1, 2, 2, 1), width=4)
    torch.testing.assert_close(network.encoder.conv1.weight, state["conv1.weight"])
    assert network.heads["main"].branches[0].weight.std() < 0.02


@pytest.mark.parametrize(
    ("layout", "arguments", "message"),
    [
        ("bdl", {"num_classes": 16}, "shape"),
        ("advent", {"num_classes": 7}, "fills 115 of the network's 123.*heads.main"),
        ("bdl", {"num_classes": 7, "second_head": True}, "missing: heads.layer3"),
    ],
)
def test_checkpoints_of_another_make_are_refused(
    layout: Any, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "public.pth"
    torch.save(checkpoint({"layer5": 128}), path)
    with pytest.raises(SegueError, match=message):
        deeplab_v2_caffe(weights=path, layout=layout, depths=(1, 2, 2, 1), width=4, **arguments)


def test_one_level_of_a_two_level_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "advent.pth"
    torch.save(checkpoint(LAYERS["advent"]), path)
    network = deeplab_v2_caffe(7, weights=path, layout="advent", depths=(1, 2, 2, 1), width=4)
    assert set(network(torch.rand(2, 3, 64, 64)).logits) == {"main"}


def test_a_new_decoder_may_use_batch_statistics_beside_a_frozen_backbone() -> None:
    network = build("deeplab_v3_plus", batch_norm={"backbone": "running", "head": "batch"}).train()
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.BatchNorm2d)
    }
    before = {name: layer.running_mean.clone() for name, layer in layers.items()}
    network(torch.rand(2, 3, 64, 64))
    for name, layer in layers.items():
        backbone = name.startswith("encoder.")
        assert torch.equal(layer.running_mean, before[name]) == backbone, name
        assert layer.weight.requires_grad != backbone, name
    told = network.describe()
    assert "running statistics, all frozen; in the head batch statistics" in told


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (3, 3)])
def test_images_that_are_too_small_for_an_encoder_are_one_line(size: tuple[int, int]) -> None:
    network = MODELS["deeplab_v2"](3, backbone="test_convnext").eval()
    with pytest.raises(SegueError) as caught:
        network(torch.zeros(1, 3, *size))
    assert f"takes no images of {size[1]}x{size[0]}" in str(caught.value)
    assert "use multiples of 32" in str(caught.value)


def test_windows_that_do_not_fit_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    network = MODELS["upernet"](3, encoder="test_resnet").eval()

    def encode(image: Tensor) -> None:  # as timm's MaxViT does
        raise AssertionError("height (4) must be divisible by window (8)")

    monkeypatch.setattr(network.encoder, "forward", encode)
    with pytest.raises(SegueError, match=r"takes no images of 40x32 \(height \(4\) must be divi"):
        network(torch.zeros(1, 3, 32, 40))

    def fail(image: Tensor) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(network.encoder, "forward", fail)
    with pytest.raises(RuntimeError, match="something else"):
        network(torch.zeros(1, 3, 32, 40))


@pytest.mark.parametrize("kind", ["upernet", "segformer", "deeplab_v3_plus"])
@pytest.mark.parametrize("size", [(1, 1), (8, 31), (20, 100)])
def test_small_images_are_padded_for_decoders(kind: str, size: tuple[int, int]) -> None:
    network = MODELS[kind](3, encoder="test_convnext").eval()
    with torch.no_grad():
        logits = network(torch.zeros(1, 3, *size)).logits["main"]
    assert logits.isfinite().all()
