"""Encoders: floats in [0, 1] of shape [B, C, H, W] in, features [B, D] out. Normalisation is the first layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.errors import UnknownName


class Normalize(nn.Module):
    """Subtract a mean and divide by a deviation per channel, both kept as buffers so that they travel with the weights.

    Args:
        mean, std: one number a channel, in units of the [0, 1] pixel range.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, fig. 5 left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al. 2016, fig. 5 right)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

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


class ResNet(nn.Module):
    """A residual network with a 3x3 stem and no max-pool, as used on small images, ending in mean-pooled features.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        stages: from the finest resolution to the coarsest.
        stem_stride: 1 keeps the resolution (the CIFAR stem); 2 halves it, which is four times cheaper.
        channels: image channels, 1 or 3.

    Attributes:
        feature_dim: D, the width of the features.
    """

    def __init__(
        self, block: type[BasicBlock | Bottleneck], stages: Sequence[Stage], *, stem_stride: int, channels: int
    ) -> None:
        super().__init__()
        width = stages[0].width
        self.normalize = Normalize([0.5] * channels, [0.25] * channels)
        self.conv = nn.Conv2d(channels, width, 3, stem_stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.stages = nn.Sequential()
        for stage in stages:
            blocks = nn.Sequential()
            for index in range(stage.depth):
                blocks.append(block(width, stage.width, stage.stride if index == 0 else 1))
                width = stage.width * block.expansion
            self.stages.append(blocks)
        self.feature_dim = width

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to features [B, feature_dim]."""
        x = F.relu(self.norm(self.conv(self.normalize(x))))
        return self.stages(x).mean(dim=(2, 3))


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


ENCODERS: dict[str, Callable[[int], ResNet]] = {
    "resnet-small": resnet_small,
    "resnet18-narrow": resnet18_narrow,
    "resnet18": resnet18,
    "resnet50": resnet50,
}


def make_encoder(name: str, channels: int) -> ResNet:
    """Return a freshly initialised encoder by its name in `ENCODERS`.

    Raises:
        UnknownName: the name is not in the table.
    """
    if name not in ENCODERS:
        raise UnknownName("encoder", name, ENCODERS)
    return ENCODERS[name](channels)


def projection_head(feature_dim: int, hidden: int = 512, out: int = 128) -> nn.Sequential:
    """Return SimCLR's projector g: Linear, ReLU, Linear (Chen et al. 2020, sec. 4.2)."""
    return nn.Sequential(nn.Linear(feature_dim, hidden), nn.ReLU(), nn.Linear(hidden, out))


def normed_head(*widths: int) -> nn.Sequential:
    """Return a perceptron through `widths`: Linear, batch norm and ReLU to each inner width, Linear to the last.

    The projector and predictor of BYOL (Grill et al. 2020, sec. 3.3), the expander of VICReg (Bardes et al. 2022,
    sec. 4.2), the projector of Barlow Twins (Zbontar et al. 2021, sec. 2.2).
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights of convolutions and linear layers anew: He-normal, biases zero (He et al. 2015).

    Args:
        generator: on the CPU, where the module is.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _four_stages(*depths: int, width: int = 64) -> list[Stage]:
    widths, strides = (width, 2 * width, 4 * width, 8 * width), (1, 2, 2, 2)
    return [Stage(depth=d, width=w, stride=s) for d, w, s in zip(depths, widths, strides, strict=True)]
