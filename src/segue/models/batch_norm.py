"""What batch norms do while a network trains: one setting with three names.

- `batch`: they normalise with the batch's statistics and update the running ones.
- `running`: they normalise with the running statistics; statistics, scale and shift are frozen in
  the whole network. Weights whose batch norm was folded into the convolutions allow only this.
- `tracking`: they normalise with the running statistics, which still follow the batches.

One name is for the whole network; `{backbone: running, head: batch}` tells its parts apart: a
decoder that starts from random values has no statistics to run on; frozen, its norms do nothing.
At evaluation all three use the running statistics. Scale and shift of a backbone that started from
weights are frozen in every mode; those of heads and decoders train in `batch` and `tracking`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from segue.models.segmenter import Segmenter

Mode = Literal["batch", "running", "tracking"]
Part = Literal["backbone", "head"]
BatchNormMode = Mode | dict[Part, Mode]

DESCRIPTIONS: dict[Mode, str] = {
    "batch": "batch statistics",
    "running": "running statistics, all frozen",
    "tracking": "running statistics, still updated",
}


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm, but where nothing of it is learnt it keeps nothing for the backward pass.

    With frozen statistics, scale and shift the gradient is a multiple of what comes: torch keeps
    the input all the same, half of what a ResNet keeps. The same bits; differentiable once.

    Example:
        >>> norm = BatchNorm2d(3).eval().requires_grad_(False)
        >>> norm(torch.ones(1, 3, 2, 2, requires_grad=True)).grad_fn.name()
        '_FrozenBackward'
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            # Compilers choose by themselves what is kept; exporters know torch's own alone.
            return super().forward(input)
        learns = any(parameter.requires_grad for parameter in self.parameters())
        if self.training or self.running_mean is None or learns:
            return super().forward(input)
        frozen = (self.running_mean, self.running_var, self.weight, self.bias, self.eps)
        normalised: Tensor = _Frozen.apply(input, *frozen)
        return normalised


class _Frozen(torch.autograd.Function):
    """Input [B, C, H, W], mean, variance, scale and shift [C] (or None), epsilon."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        epsilon: float,
    ) -> Tensor:
        ctx.save_for_backward(mean, variance, scale)
        ctx.epsilon = epsilon
        return F.batch_norm(x, mean, variance, scale, shift, eps=epsilon)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mean, variance, scale = ctx.saved_tensors
        # torch's own, for its bits; of the input it reads the shape alone.
        asked, *_ = torch.ops.aten.native_batch_norm_backward(
            gradient, gradient, scale, mean, variance, None, None, False, ctx.epsilon,
            [True, False, False],
        )  # fmt: skip
        return asked, None, None, None, None, None


def part_of(name: str) -> Part:
    """Which part of a segmenter a module or parameter of this name belongs to.

    Example:
        >>> part_of("encoder.bn1"), part_of("decoder.aspp.1")
        ('backbone', 'head')
    """
    return "backbone" if name.startswith("encoder.") else "head"


def mode_of(setting: BatchNormMode, part: Part) -> Mode:
    """The mode of a part; one that is not named runs on frozen statistics.

    Example:
        >>> mode_of("tracking", "head"), mode_of({"head": "batch"}, "backbone")
        ('tracking', 'running')
    """
    return setting.get(part, "running") if isinstance(setting, dict) else setting


def describe(setting: BatchNormMode, *, freeze_affine: bool) -> str:
    """The setting in words.

    Example:
        >>> describe({"backbone": "running", "head": "batch"}, freeze_affine=True)
        'running statistics, all frozen; in the head batch statistics'
    """
    backbone, head = (mode_of(setting, part) for part in ("backbone", "head"))
    told = DESCRIPTIONS[backbone]
    if freeze_affine and backbone != "running":
        told += ", backbone affine frozen"
    return told if head == backbone else f"{told}; in the head {DESCRIPTIONS[head]}"


def set_batch_norm(segmenter: Segmenter, setting: BatchNormMode) -> None:
    """Make every batch norm of a segmenter behave as the setting says from now on.

    Example:
        >>> from segue.models import MODELS
        >>> network = MODELS["deeplab_v2"](5, backbone="test_resnet")
        >>> set_batch_norm(network, "running")
        >>> network.batch_norm
        'running'
    """
    segmenter.batch_norm = setting
    frozen = frozen_parameters(segmenter)
    for handle in segmenter.tracking_hooks:
        handle.remove()
    segmenter.tracking_hooks.clear()
    for name, layer in _batch_norms(segmenter):
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = BatchNorm2d
        for kind, parameter in layer.named_parameters(recurse=False):
            parameter.requires_grad_(f"{name}.{kind}" not in frozen)
        follows = mode_of(setting, part_of(name)) == "tracking"
        if follows and layer.running_mean is not None:
            hook = layer.register_forward_hook(partial(_follow_batch, segmenter))
            segmenter.tracking_hooks.append(hook)
    apply_mode(segmenter)


def apply_mode(segmenter: Segmenter) -> None:
    """Put each batch norm into training or evaluation, as the segmenter's own state asks."""
    for name, layer in _batch_norms(segmenter):
        mode = mode_of(segmenter.batch_norm, part_of(name))
        layer.train(segmenter.training and mode == "batch")


def frozen_parameters(segmenter: Segmenter) -> set[str]:
    """Names of the scales and shifts that are never trained in the segmenter's mode."""
    return {
        f"{name}.{kind}"
        for name, layer in _batch_norms(segmenter)
        if mode_of(segmenter.batch_norm, part_of(name)) == "running"
        or (segmenter.freeze_affine and part_of(name) == "backbone")
        for kind, _ in layer.named_parameters(recurse=False)
    }


def _batch_norms(module: nn.Module) -> list[tuple[str, _BatchNorm]]:
    return [(name, part) for name, part in module.named_modules() if isinstance(part, _BatchNorm)]


def _follow_batch(
    segmenter: Segmenter, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor
) -> None:
    del output
    if not segmenter.training:
        return
    assert isinstance(layer, _BatchNorm)
    x = args[0].detach().float()
    if x.numel() // x.shape[1] < 2:
        return  # one value per channel has no variance
    mean, variance = layer.running_mean, layer.running_var
    count = layer.num_batches_tracked
    assert mean is not None
    assert variance is not None
    assert count is not None
    dims = [axis for axis in range(x.ndim) if axis != 1]
    with torch.no_grad():
        # New tensors: autograd still needs the old ones for the backward pass of this forward.
        layer.num_batches_tracked = count + 1
        share = 1 / float(count + 1) if layer.momentum is None else layer.momentum
        of_batch = x.mean(dims, keepdim=True)
        # Two passes that processors do in parallel, three times faster than `var`.
        spread = (x - of_batch).square_().sum(dims) / (x.numel() // x.shape[1] - 1)
        layer.running_mean = torch.lerp(mean, of_batch.flatten().to(mean.dtype), share)
        layer.running_var = torch.lerp(variance, spread.to(variance.dtype), share)
