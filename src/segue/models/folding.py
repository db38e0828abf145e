"""Batch norms folded into the convolutions before them, for a network that only predicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from segue.models.batch_norm import BatchNorm2d
from segue.models.segmenter import Segmenter

PROBE = 64  # pixels a side


def fold_batch_norms(segmenter: Segmenter) -> None:
    """Folds batch norms into convolutions that feed them and nothing else, in place and for good.

    At evaluation a batch norm multiplies by one number and adds another for each channel: exact up
    to rounding, a tenth of DeepLab-v2's time on a CPU.

    Example:
        >>> from segue.models import MODELS
        >>> network = MODELS["deeplab_v2"](5, backbone="test_resnet").eval()
        >>> before = network(image := torch.rand(1, 3, 32, 32)).logits["main"]
        >>> fold_batch_norms(network)
        >>> any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
        False
        >>> bool(torch.allclose(network(image).logits["main"], before, atol=1e-5))
        True
    """
    for conv, norm in _pairs(segmenter.eval()):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        name = next(name for name, module in segmenter.named_modules() if module is norm)
        segmenter.set_submodule(name, nn.Identity())


def _pairs(segmenter: Segmenter) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions with the batch norm that alone reads what they give, found by a trial run."""
    made: list[tuple[nn.Conv2d, Tensor]] = []
    read: list[tuple[nn.BatchNorm2d, Tensor]] = []

    def after(module: nn.Module, _: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            made.append((module, output))

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # What derives from torch's may do more, as timm's with an activation inside.
        plain = isinstance(module, BatchNorm2d) or type(module) is nn.BatchNorm2d
        if plain and module.track_running_stats:
            read.append((cast(nn.BatchNorm2d, module), inputs[0]))

    handles = [one.register_forward_hook(after) for one in segmenter.modules()]
    handles += [one.register_forward_pre_hook(before) for one in segmenter.modules()]
    image = next(segmenter.parameters()).new_zeros(1, 3, PROBE, PROBE)
    with torch.no_grad(), _Uses() as uses:
        output = segmenter(image)
    for handle in handles:
        handle.remove()
    uses.note([output.logits, output.features])
    calls = Counter(module for module, _ in (*made, *read))
    by_output = {id(tensor): conv for conv, tensor in made}
    pairs = [(by_output[id(x)], norm, x) for norm, x in read if id(x) in by_output]
    return [
        (conv, norm)
        for conv, norm, x in pairs
        if calls[conv] == calls[norm] == uses.times[id(x)] == 1
    ]


class _Uses(TorchFunctionMode):
    """Counts how many operations read each tensor, by its identity."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[int] = Counter()
        self.kept: list[Tensor] = []

    def note(self, what: Any) -> None:
        """Counts a use of each tensor in any nest of containers."""
        self.times.update({id(x) for x in self.keep(what)})

    def keep(self, what: Any) -> list[Tensor]:
        """The tensors in it, kept: one that is let go of may give its identity to another."""
        tensors = [x for x in tree_leaves(what) if isinstance(x, Tensor)]
        self.kept += tensors
        return tensors

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Shapes and the like read no values.
        if self.keep(result):
            self.note([args, kwargs])
        return result
