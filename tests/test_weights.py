"""Reading weights: what is taken, what is refused."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segue.errors import SegueError
from segue.models import MODELS
from segue.models.weights import load_weights, read_weights

REAL = Path(os.environ.get("SEGUE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
MOBILENET = REAL / "weights" / "mobilenetv2_100.safetensors"


def small() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(3, 4, 3), bn1=nn.BatchNorm2d(4), conv2=nn.Conv2d(4, 2, 1))
    )


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "module.model."])
@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model",), ("model", "state_dict")])
def test_wrappers_are_seen_through(prefix: str, nest: tuple[str, ...], tmp_path: Path) -> None:
    given = small()
    content: Any = prefixed(given.state_dict(), prefix)
    for name in nest:
        content = {name: content, "epoch": 3}
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    module = small()
    report = load_weights(module, path)
    assert report.matched == report.total == 8
    assert torch.equal(module.conv1.weight, given.conv1.weight)


def test_safetensors_and_old_torch_files(tmp_path: Path) -> None:
    given = small()
    save_file(given.state_dict(), tmp_path / "new.safetensors")
    torch.save(given.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        module = small()
        load_weights(module, path, minimum=1.0)
        assert torch.equal(module.bn1.running_var, given.bn1.running_var)
        assert torch.equal(module.conv2.bias, given.conv2.bias)


def test_few_matches_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.ones(4, 3, 3, 3), "stem.weight": torch.ones(2)}, path)
    module = small()
    before = module.conv1.weight.clone()
    with pytest.raises(
        SegueError,
        match=r"other.pth: fills 1 of the network's 8 tensors \(missing: conv1.bias, .*"
        r"unexpected: stem.weight\)",
    ):
        load_weights(module, path)
    assert torch.equal(module.conv1.weight, before)


def test_a_share_may_be_missing_where_that_is_asked_for(tmp_path: Path) -> None:
    state = small().state_dict()
    del state["conv2.bias"]
    path = tmp_path / "most.pth"
    torch.save(state, path)
    assert load_weights(small(), path, minimum=0.8).missing == ("conv2.bias",)
    with pytest.raises(SegueError, match="fills 7 of the network's 8"):
        load_weights(small(), path)


def test_other_shapes_are_refused(tmp_path: Path) -> None:
    state = small().state_dict()
    state["conv2.weight"] = torch.ones(19, 4, 1, 1)
    path = tmp_path / "classes.pth"
    torch.save(state, path)
    with pytest.raises(SegueError, match=r"conv2.weight has shape \(19, 4, 1, 1\).*\(2, 4, 1, 1\)"):
        load_weights(small(), path)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(os.environ["SEGUE_TEST_MARK"]),)


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_code_in_a_pickle_is_never_run(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("SEGUE_TEST_MARK", str(mark))
    path = tmp_path / "evil.pth"
    content = {"conv1.weight": torch.ones(1), "x": _Evil()}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(SegueError, match=r"any code.*safetensors.torch.save_file"):
        read_weights(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", None, "no such weights file"),
        ("a.pth", b"", "not a weights file"),
        ("a.pth", b"\x89PNG\r\n\x1a\n" + bytes(100), "not a weights file"),
        ("a.pth", b"PK\x03\x04" + bytes(100), "not a weights file"),
        ("a.safetensors", b"", "not a safetensors file"),
        ("a.safetensors", b"hello, this is text", "not a safetensors file"),
    ],
)
def test_other_files_are_refused(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SegueError, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(1)], torch.ones(2), {}])
def test_a_file_without_named_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(SegueError, match="no tensors by name"):
        read_weights(path)


@pytest.mark.parametrize(
    ("model", "key", "name"),
    [
        ("deeplab_v2", "backbone", "test_resnet"),
        ("deeplab_v2", "backbone", "test_convnext"),
        ("deeplab_v2", "backbone", "test_vit"),
        ("deeplab_v3_plus", "encoder", "test_resnet"),
        ("upernet", "encoder", "test_convnext"),
    ],
)
def test_files_with_timm_names_fill_encoders(
    model: str, key: str, name: str, tmp_path: Path
) -> None:
    source = timm.create_model(name, num_classes=10)
    path = tmp_path / "timm.safetensors"
    save_file(source.state_dict(), path)
    network = MODELS[model](5, weights=path, **{key: name})
    first = next(iter(source.parameters()))
    assert any(torch.equal(first, parameter) for parameter in network.encoder.parameters())
    assert network.freeze_affine
    config = timm.models.get_pretrained_cfg(name)
    assert (network.normalisation.mean, network.normalisation.std) == (config.mean, config.std)


def test_the_wrong_backbone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(SegueError, match="fills 0 of"):
        MODELS["deeplab_v2"](5, backbone="test_convnext", weights=path)


@pytest.mark.real_data
@pytest.mark.skipif(not MOBILENET.exists(), reason=f"needs {MOBILENET.name} (SEGUE_REAL_DATA)")
@pytest.mark.parametrize(
    ("model", "key"), [("deeplab_v2", "backbone"), ("deeplab_v3_plus", "encoder")]
)
def test_shared_mobilenet_fills_encoders(model: str, key: str) -> None:
    network = MODELS[model](
        11,
        weights=MOBILENET,
        normalisation="half",
        batch_norm="running",
        **{key: "mobilenetv2_100"},
    ).eval()
    output = network(torch.rand(1, 3, 297, 480))
    # Weights of its own kind keep the scale of features; random ones with these statistics do not.
    assert 0.05 < output.features["layer2"].std() < 50
    given = read_weights(MOBILENET)["conv_stem.weight"]
    assert torch.equal(network.encoder.model.conv_stem.weight, given)
