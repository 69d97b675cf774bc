"""A ConvNeXt for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.nets.base import LAYER_SCALE, ChannelNorm, Encoder, Patches


class ConvNeXtBlock(nn.Module):
    """A 7x7 convolution of each channel by itself, a norm, and a perceptron four times as wide, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 7, 1, 3, groups=width)
        self.norm = ChannelNorm(width)
        self.widen = nn.Conv2d(width, 4 * width, 1)
        self.narrow = nn.Conv2d(4 * width, width, 1)
        self.scale = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        out = self.narrow(F.gelu(self.widen(self.norm(self.mix(x)))))
        return x + self.scale.view(-1, 1, 1) * out


@final
class ConvNeXt(Encoder):
    """A convolutional network in the shape of a transformer (Liu et al. 2022, A ConvNet for the 2020s).

    Differences from the paper: the stem cuts patches of 2 pixels, not 4; layer scales start at 0.1, not 1e-6; the last
    norm stands before the mean over positions, not after it; no stochastic depth.

    Args:
        depths, widths: blocks and channels of each stage, from the finest resolution to the coarsest.
        channels: image channels, 1 or 3.
    """

    def __init__(self, *, depths: Sequence[int], widths: Sequence[int], channels: int) -> None:
        super().__init__(channels)
        self.patches = Patches(channels, widths[0], 2)
        self.norm = ChannelNorm(widths[0])
        self.stages = nn.Sequential()
        before = widths[0]
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            halving = [ChannelNorm(before), Patches(before, width, 2)] if index else []
            blocks = nn.Sequential(*halving, *(ConvNeXtBlock(width) for _ in range(depth)))
            self.stages.append(blocks)
            before = width
        blocks.append(ChannelNorm(before))
        self.feature_dim = before

    def stem(self, x: Tensor) -> Tensor:
        return self.norm(self.patches(x))


def convnext_narrow(channels: int = 3) -> ConvNeXt:
    """A ConvNeXt of three stages: 0.7 M parameters, 128 features, for two CPU cores."""
    return ConvNeXt(depths=(2, 2, 4), widths=(32, 64, 128), channels=channels)
