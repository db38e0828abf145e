"""Batch norms folded for prediction: the same network up to rounding, and only where it is."""

import pytest
import torch
from torch import nn

from segue.models import MODELS
from segue.models.batch_norm import BatchNorm2d
from segue.models.folding import fold_batch_norms

NETWORKS = {
    "resnet": {"kind": "deeplab_v2", "backbone": "resnet18", "second_head": True},
    "fused scales": {"kind": "deeplab_v2", "backbone": "hrnet_w18_small"},
    "caffe": {"kind": "deeplab_v2_caffe"},
    "activations inside": {"kind": "deeplab_v3_plus", "encoder": "mobilenetv2_100"},
    "segformer": {"kind": "segformer"},
}


def built(settings):
    torch.manual_seed(0)
    arguments = dict(settings)
    network = MODELS[arguments.pop("kind")](5, **arguments).eval().double()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_stay(name):
    network, image = built(NETWORKS[name]), torch.rand(1, 3, 64, 96).double()
    norms = sum(type(part) is BatchNorm2d for part in network.modules())
    with torch.no_grad():
        before = network(image)
        fold_batch_norms(network)
        after = network(image)
    for head, logits in before.logits.items():
        scale = logits.abs().max()
        torch.testing.assert_close(after.logits[head] / scale, logits / scale, rtol=0, atol=1e-11)
    left = sum(type(part) is BatchNorm2d for part in network.modules())
    assert left == 0 or name == "activations inside"
    assert norms > left


def test_what_others_read_too_is_left_alone():
    network = built(NETWORKS["resnet"])
    stem = network.encoder.model

    def also(module, inputs, output):
        return output + 0 * stem.conv1.last.mean()

    stem.conv1.register_forward_hook(lambda module, _, output: setattr(module, "last", output))
    stem.bn1.register_forward_hook(also)
    fold_batch_norms(network)
    assert [name for name, one in network.named_modules() if type(one) is BatchNorm2d] == [
        "encoder.model.bn1"
    ]
