"""A normalising flow on maps: how likely a map is under the source (TTTFlow)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.config import Count
from crosstask.nets.taps import maps_of, spatial_maps, tapped, upstream
from crosstask.tasks.base import JointTask


class Flow(JointTask):
    """The negative log-likelihood of a map under an invertible network (Osowiechi et al. 2023, TTTFlow).

    A RealNVP (Dinh et al. 2017) of three affine couplings on alternating checkerboards with an activation norm between
    each two turns a map into z; over all its elements,

        loss = -mean [log N(z; 0, 1) + log-scale of the element]

    at source time, where the encoder is frozen, as at test time. Several layers: their sum.
    Differences from the official code: no weight norm; activation norms begin at scale 1 and shift 0, not from a first
    batch. Log-scales are `a tanh(.) + b` with a and b from 0, as there.

    Args:
        encoder: whose maps are weighed. It is not kept.
        image_shape: (C, H, W) of its images.
        layers: names of the encoder's modules, separated by commas.
        hidden: channels inside the coupling networks.

    Raises:
        UnknownName: a layer is no module of the encoder.
        ConfigError: a layer gives no maps.
    """

    def __init__(
        self, encoder: nn.Module, image_shape: Sequence[int], *, layers: str = "stages.1", hidden: Count = 64
    ) -> None:
        super().__init__()
        shapes = spatial_maps(encoder, image_shape, layers)
        self.names, self.upstream = list(shapes), upstream(encoder, image_shape, list(shapes))
        self.flows = nn.ModuleList(RealNVP(channels, hidden) for channels, _, _ in shapes.values())

    def joint(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        features, maps = tapped(encoder, x, self.names)
        return features, self.loss(maps)

    def forward(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.loss(maps_of(encoder, x, self.names))

    def loss(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the loss of the maps [B, C, H, W] of the tapped layers, in their order."""
        losses = []
        for flow, each in zip(self.flows, maps, strict=True):
            z, log_scale = flow(each)
            losses.append((0.5 * z.square() - log_scale).mean() + 0.5 * math.log(2 * math.pi))
        return torch.stack(losses).sum()


class RealNVP(nn.Module):
    """Three couplings and two activation norms, each of which gives its output and the log-scale of every element.

    Args:
        channels: of the maps.
        hidden: channels inside the coupling networks.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.transforms = nn.Sequential(
            Coupling(channels, hidden, parity=1),
            ActNorm(channels),
            Coupling(channels, hidden, parity=0),
            ActNorm(channels),
            Coupling(channels, hidden, parity=1),
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, C, H, W] to float32 [B, C, H, W]; and the log-scales, whose sum is the Jacobian's log-determinant."""
        z = z.float()
        total = torch.zeros_like(z)
        for transform in self.transforms:
            z, log_scale = transform(z)
            total = total + log_scale
        return z, total


class Coupling(nn.Module):
    """Scale and shift the squares of one colour of a checkerboard by what stands on the other.

    Args:
        channels: of the maps.
        hidden: channels inside.
        parity: of row + column where squares stay as they are.
    """

    def __init__(self, channels: int, hidden: int, parity: int) -> None:
        super().__init__()
        self.parity = parity
        self.network = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, 1, 1),
            Residual(hidden),
            Residual(hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * channels, 1),
        )
        self.a, self.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moved map, and the log-scale of each of its elements."""
        rows, columns = (torch.arange(size, device=z.device) for size in z.shape[2:])
        moves = ((rows[:, None] + columns) % 2 != self.parity).to(z.dtype)
        seen = ((1 - moves) * z).to(next(self.network.parameters()).dtype)
        raw, shift = self.network(seen).float().chunk(2, dim=1)
        log_scale = moves * (self.a * raw.tanh() + self.b)
        return z * log_scale.exp() + moves * shift, log_scale


class ActNorm(nn.Module):
    """Shift and scale each channel (Kingma & Dhariwal 2018).

    Args:
        channels: of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias, self.log_scale = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moved map, and the log-scale of each channel [1, C, 1, 1]."""
        bias, log_scale = (each.float().view(1, -1, 1, 1) for each in (self.bias, self.log_scale))
        return (z + bias) * log_scale.exp(), log_scale


class Residual(nn.Module):
    """Batch norm, ReLU and a convolution, three times, beside a shortcut (He et al. 2016, identity mappings).

    Args:
        width: channels; half of them inside.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, half, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(half), nn.Conv2d(half, half, 3, 1, 1, bias=False)
        self.norm3, self.conv3 = nn.BatchNorm2d(half), nn.Conv2d(half, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x)))
        out = self.conv2(F.relu(self.norm2(out)))
        return x + self.conv3(F.relu(self.norm3(out)))
