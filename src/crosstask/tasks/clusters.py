"""Mutual-information clusters: every position of a map is told to one of K clusters, by several projectors (ClusT3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from crosstask.config import Count
from crosstask.nets.taps import spatial_maps, tapped, upstream
from crosstask.tasks.base import JointTask


class Clusters(JointTask):
    """Positions of a map are clustered surely and evenly, which maximises what a cluster tells of its position.

    Each linear projector gives logits l_i [K] at the positions i of all maps of the batch. With `p_i = softmax(l_i)`,

        loss = mean_i H(p_i) - H(mean_i p_i)

    summed over projectors and layers: the negative mutual information of positions and clusters, as the paper has it
    (Hakim et al. 2023, ClusT3).
    Differences from the official code: the marginal is the mean probability (there the softmax of the mean logit); its
    entropy has the weight 1 (there 1/K, through a mean over a vector); the K logits of a position are its channels
    (there the map is reshaped without a permutation, so that they are K chunks of the batch).

    Args:
        encoder: whose maps are clustered. It is not kept.
        image_shape: (C, H, W) of its images.
        layers: names of the encoder's modules, separated by commas.
        projectors: 1x1 convolutions a layer; for 224 pixels the paper has 1, with a hidden layer.
        clusters: K.

    Raises:
        UnknownName: a layer is no module of the encoder.
        ConfigError: a layer gives no maps.
    """

    def __init__(
        self,
        encoder: nn.Module,
        image_shape: Sequence[int],
        *,
        layers: str = "stages.0,stages.1",
        projectors: Count = 15,
        clusters: Annotated[int, Field(ge=2)] = 10,
    ) -> None:
        super().__init__()
        shapes = spatial_maps(encoder, image_shape, layers)
        self.names, self.upstream = list(shapes), upstream(encoder, image_shape, list(shapes))
        self.clusters = clusters
        self.projectors = nn.ModuleList(
            nn.Conv2d(channels, projectors * clusters, 1) for channels, _, _ in shapes.values()
        )

    def joint(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        features, maps = tapped(encoder, x, self.names)
        return features, self.loss(maps)

    def forward(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        # The whole network runs: where running averages move, they do so after the tapped layers as well.
        return self.joint(encoder, x, generator)[1]

    def loss(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the loss of the maps [B, C, H, W] of the tapped layers, in their order."""
        losses = [
            _negative_information(projector(each).float().unflatten(1, (-1, self.clusters)))
            for projector, each in zip(self.projectors, maps, strict=True)
        ]
        return torch.stack(losses).sum()


def _negative_information(logits: Tensor) -> Tensor:
    """Return `mean_i H(p_i) - H(mean_i p_i)`, summed over projectors P, of logits [B, P, K, H, W]."""
    log_p = logits.log_softmax(dim=2)
    positions = log_p.numel() // math.prod(log_p.shape[1:3])
    of_each = -(log_p.exp() * log_p).sum() / positions
    marginal = log_p.logsumexp(dim=(0, 3, 4)) - math.log(positions)
    return of_each + (marginal.exp() * marginal).sum()
