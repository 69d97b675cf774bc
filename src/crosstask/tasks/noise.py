"""Noise told apart: a discriminator learns whether much or little noise was added to projected maps (NC-TTT)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.config import Count, Positive
from crosstask.errors import ConfigError
from crosstask.nets.taps import spatial_maps, tapped, upstream
from crosstask.tasks.base import JointTask


class Noise(JointTask):
    """A discriminator q tells projections with much noise from those with little (Osowiechi et al. 2024, NC-TTT).

    Source time, for z = a map projected to D numbers and noise e of deviation `large` and of deviation `small` in turn:

        loss = mean BCE(sigmoid(q(z + e)), Y(e)),
        Y(e) = sigmoid((1 / small^2 - 1 / large^2) ||e||^2 / 2 - D ln(large / small))

    where Y(e) is the exact probability that e was drawn with `large`. So q is a logit of being far from the source, and
    at test time, without noise, `loss = mean softplus(q(z))`. Several layers: their sum.
    Differences from the official code: maps of any size are flattened, also where the code has a discriminator at each
    position (VisDA-C); both noisy copies share one pass of q's batch norm; the projector's weights have Xavier's scale
    through a constant factor, as all weights are He-normal.

    Args:
        encoder: whose maps are projected. It is not kept.
        image_shape: (C, H, W) of its images.
        layers: names of the encoder's modules, separated by commas.
        embedding: most numbers of a projection, if a map has no more positions: D is H * W times a whole number.
        hidden: width of the discriminator.
        large, small: the two deviations.

    Raises:
        UnknownName: a layer is no module of the encoder.
        ConfigError: a layer gives no maps, or `large` is not larger than `small`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        image_shape: Sequence[int],
        *,
        layers: str = "stages.1",
        embedding: Count = 1536,
        hidden: Count = 4,
        large: Positive = 0.1,
        small: Positive = 0.015,
    ) -> None:
        super().__init__()
        if large <= small:
            raise ConfigError(f"the large noise must be larger than the small one, got {large} and {small}")
        shapes = spatial_maps(encoder, image_shape, layers)
        self.names, self.upstream = list(shapes), upstream(encoder, image_shape, list(shapes))
        self.large, self.small = large, small
        self.projectors, self.discriminators = nn.ModuleList(), nn.ModuleList()
        for channels, height, width in shapes.values():
            depth = max(1, embedding // (height * width))
            self.projectors.append(_Projector(channels, depth))
            self.discriminators.append(
                nn.Sequential(
                    nn.Linear(depth * height * width, hidden),
                    nn.BatchNorm1d(hidden),
                    nn.LeakyReLU(0.2),
                    nn.Linear(hidden, 1, bias=False),
                )
            )

    def joint(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        features, maps = tapped(encoder, x, self.names)
        losses = [self._told_apart(z, index, generator) for index, z in self._projected(maps)]
        return features, torch.stack(losses).sum()

    def forward(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        # The whole network runs: where running averages move, they do so after the tapped layers as well.
        _, maps = tapped(encoder, x, self.names)
        return torch.stack([F.softplus(self._judged(z, index)).mean() for index, z in self._projected(maps)]).sum()

    def _projected(self, maps: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        projectors = zip(self.projectors, maps, strict=True)
        return [(index, projector(each).flatten(1).float()) for index, (projector, each) in enumerate(projectors)]

    def _told_apart(self, z: Tensor, index: int, generator: torch.Generator) -> Tensor:
        draws = torch.randn(2, *z.shape, generator=generator, device=z.device)
        noise = torch.cat([self.large * draws[0], self.small * draws[1]])
        logits = self._judged(torch.cat([z, z]) + noise, index)
        return F.binary_cross_entropy_with_logits(logits, self.posterior(noise))

    def _judged(self, z: Tensor, index: int) -> Tensor:
        """Return the logits [B] of projections [B, D]. In bfloat16 the small noise would drown in rounding."""
        discriminator = self.discriminators[index]
        with torch.autocast(z.device.type, enabled=False):
            return discriminator(z.to(next(discriminator.parameters()).dtype)).squeeze(1).float()

    def posterior(self, noise: Tensor) -> Tensor:
        """Return the probability [B] that noise [B, D] was drawn with the large deviation, both being as likely."""
        precision = 1 / self.small**2 - 1 / self.large**2
        odds = 0.5 * precision * noise.square().sum(dim=1) - noise.shape[1] * math.log(self.large / self.small)
        return odds.sigmoid()


class _Projector(nn.Conv2d):
    """A 1x1 convolution whose He-normal weights (by outputs) act as Xavier-normal ones: the noise has a fixed size."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__(channels, depth, 1)
        self.factor = math.sqrt(depth / (channels + depth))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * super().forward(x)
