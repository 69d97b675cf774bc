"""What all encoders are: images in [0, 1] in, features out; and the layers that several of them are built from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_SCALE = 0.1
"""Where the learned factors of a residual branch's channels start (layer scale): a network of up to 18 blocks needs no
smaller ones (Touvron et al. 2021, CaiT, sec. 2)."""


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


class Encoder(nn.Module, ABC):
    """The base of our encoders: normalisation, a stem, stages of maps, and the mean of the last maps over positions.

    Methods that learn from maps inside an encoder tap its stages, `stages.0` and so on, which every encoder has.

    Args:
        channels: image channels, 1 or 3.

    Attributes:
        normalize: the first layer.
        stages: maps [B, C, H, W] to maps, from the finest to the coarsest.
        feature_dim: D, the width of the features.
    """

    stages: nn.Sequential
    feature_dim: int

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.normalize = Normalize([0.5] * channels, [0.25] * channels)

    @abstractmethod
    def stem(self, x: Tensor) -> Tensor:
        """Map normalised images [B, C, H, W] to the maps that the first stage takes."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to features [B, feature_dim]."""
        return self.stages(self.stem(self.normalize(x))).mean(dim=(2, 3))


class Patches(nn.Conv2d):
    """Cut maps into squares that do not overlap, and project each linearly: a convolution with a stride of its size.

    Maps whose sides are no multiple of the square's are padded with zeros on the right and below. The weights are those
    of a 1x1 convolution on flattened squares, so that He's rule sees each input used once.

    Args:
        inputs, width: channels before and after.
        side: of a square, in pixels.
    """

    def __init__(self, inputs: int, width: int, side: int) -> None:
        super().__init__(inputs * side**2, width, 1)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        below, right = -x.shape[2] % self.side, -x.shape[3] % self.side
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        return super().forward(F.pixel_unshuffle(x, self.side))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps [B, C, H, W], at each position by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
