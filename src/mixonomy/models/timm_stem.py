"""Small-image stems for timm's convolutional models: the first layers without their strides and their pooling.

Most of them shrink an image by 32, and by 4 in the first two layers: of 32 x 32 pixels one location is left.

Axes: none; modules only.
"""

from typing import get_args

from torch import nn

from mixonomy.choices import Stem

STEMS = get_args(Stem)
SMALL_SIDE = 64
"""Longest side, in pixels, of the images for which "auto" takes the small stem."""

KERNEL = 3
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.ConstantPad2d)  # some pad before they pool


def stem_parts(body: nn.Module) -> list[str]:
    """The names of the children that make the stem, where a small one is known; else none.

    Known are the classes ResNet, ResNetV2 (BiT), ByobNet (BoTNet, HaloNet, RegNetZ), NormFreeNet (NFNet) and
    EfficientNet of timm.
    """
    from timm.models import byobnet, efficientnet, nfnet, resnet, resnetv2

    if isinstance(body, resnet.ResNet):
        return ["conv1", "maxpool"]
    if isinstance(body, resnetv2.ResNetV2 | byobnet.ByobNet | nfnet.NormFreeNet):
        return ["stem"]
    return ["conv_stem"] if isinstance(body, efficientnet.EfficientNet) else []


def make_small(body: nn.Module) -> int:
    """Takes strides and pooling out of the stem; kernels larger than 3 x 3 become 3 x 3, drawn from torch's generator.

    Returns:
      By how much the stem shrank an image until now, along each axis.
    Source: He et al. 2016, "Deep residual learning", section 4.2 (a 3 x 3 convolution, no pooling, for CIFAR-10).
    """
    stride = 1
    for name in stem_parts(body):
        stride *= _shrunk(body, name)
    return stride


def _shrunk(parent: nn.Module, name: str) -> int:
    """Changes one child; returns the stride that is gone."""
    child = parent.get_submodule(name)
    if isinstance(child, nn.Conv2d):
        return _unstrided(child)
    is_pool = isinstance(child, POOLS) or name in ("maxpool", "pool")  # some pool by a convolution or a blur
    if is_pool:
        setattr(parent, name, nn.Identity())
        stride = getattr(child, "stride", 1 if isinstance(child, nn.ConstantPad2d) else 2)
        return stride if isinstance(stride, int) else stride[0]
    stride = 1
    for part, _ in list(child.named_children()):
        stride *= _shrunk(child, part)
    return stride


def _unstrided(conv: nn.Conv2d) -> int:
    """Makes a convolution keep the size of the image; returns its stride."""
    stride, conv.stride = conv.stride[0], (1, 1)
    if max(conv.kernel_size) > KERNEL:
        fan_in = conv.weight[0].numel()
        conv.kernel_size = (KERNEL, KERNEL)
        conv.weight = nn.Parameter(conv.weight.new_empty(*conv.weight.shape[:2], KERNEL, KERNEL))
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as in timm's ResNets
        if not getattr(conv, "same_pad", False):  # those pad in `forward`
            conv.padding = (KERNEL // 2, KERNEL // 2)
        if hasattr(conv, "scale"):  # of standardised weights, 1 / sqrt(fan-in) (timm layers/std_conv.py)
            conv.scale = conv.scale * (fan_in / conv.weight[0].numel()) ** 0.5
    return stride
