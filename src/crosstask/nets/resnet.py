"""Residual networks for small images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.nets.base import Encoder

Norm = Callable[[int], nn.Module]
"""Makes the norm layer of so many channels."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, fig. 5 left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = norm(width)
        self.shortcut = _shortcut(inputs, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al. 2016, fig. 5 right)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = norm(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = F.relu(self.norm2(self.conv2(out)))
        return F.relu(self.norm3(self.conv3(out)) + self.shortcut(x))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One resolution of a ResNet: `depth` blocks of `width` channels, the first with `stride`."""

    depth: int
    width: int
    stride: int


@final
class ResNet(Encoder):
    """A residual network with a 3x3 stem and no max-pool, as used on small images, ending in mean-pooled features.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        stages: from the finest resolution to the coarsest.
        stem_stride: 1 keeps the resolution (the CIFAR stem); 2 halves it, which is four times cheaper.
        channels: image channels, 1 or 3.
        norm: after every convolution.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        stages: Sequence[Stage],
        *,
        stem_stride: int,
        channels: int,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels)
        width = stages[0].width
        self.conv = nn.Conv2d(channels, width, 3, stem_stride, 1, bias=False)
        self.norm = norm(width)
        self.stages = nn.Sequential()
        for stage in stages:
            blocks = nn.Sequential()
            for index in range(stage.depth):
                blocks.append(block(width, stage.width, stage.stride if index == 0 else 1, norm))
                width = stage.width * block.expansion
            self.stages.append(blocks)
        self.feature_dim = width

    def stem(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


def resnet18(channels: int = 3) -> ResNet:
    """ResNet-18 with the CIFAR stem: 11.2 M parameters, 512 features."""
    return ResNet(BasicBlock, _four_stages(2, 2, 2, 2), stem_stride=1, channels=channels)


def resnet50(channels: int = 3) -> ResNet:
    """ResNet-50 with the CIFAR stem: 23.5 M parameters, 2048 features."""
    return ResNet(Bottleneck, _four_stages(3, 4, 6, 3), stem_stride=1, channels=channels)


def resnet_small(channels: int = 3) -> ResNet:
    """A residual network of 0.3 M parameters and 128 features for two CPU cores: one block a stage, stem stride 2."""
    stages = [
        Stage(depth=1, width=32, stride=1),
        Stage(depth=1, width=64, stride=2),
        Stage(depth=1, width=128, stride=2),
    ]
    return ResNet(BasicBlock, stages, stem_stride=2, channels=channels)


def resnet18_narrow(channels: int = 3) -> ResNet:
    """ResNet-18 with the CIFAR stem and a quarter of its widths: 0.7 M parameters, 128 features, for two CPU cores."""
    return ResNet(BasicBlock, _four_stages(2, 2, 2, 2, width=16), stem_stride=1, channels=channels)


def resnet18_narrow_gn(channels: int = 3) -> ResNet:
    """`resnet18_narrow` with group norm in 8 groups, so that each image is normalised by itself alone (Wu & He 2018).

    As there (sec. 4.1), the scales of each block's last norm start at zero; otherwise it hardly learns at usual rates.
    """
    norm = functools.partial(nn.GroupNorm, 8)
    encoder = ResNet(BasicBlock, _four_stages(2, 2, 2, 2, width=16), stem_stride=1, channels=channels, norm=norm)
    for block in encoder.modules():
        if isinstance(block, BasicBlock):
            nn.init.zeros_(block.norm2.get_parameter("weight"))
    return encoder


def _shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))


def _four_stages(*depths: int, width: int = 64) -> list[Stage]:
    widths, strides = (width, 2 * width, 4 * width, 8 * width), (1, 2, 2, 2)
    return [Stage(depth=d, width=w, stride=s) for d, w, s in zip(depths, widths, strides, strict=True)]
