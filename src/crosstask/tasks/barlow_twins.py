"""Barlow Twins: two views of an image agree in every dimension, and no dimension repeats another."""

from __future__ import annotations

from torch import Tensor, nn

from crosstask import distributed, losses
from crosstask.config import Count, NotNegative, Positive
from crosstask.nets.encoders import normed_head
from crosstask.tasks.base import TwoViewTask
from crosstask.views import ViewSampler


class BarlowTwins(TwoViewTask):
    """The cross-correlation of two views' projections goes to the identity (Zbontar et al. 2021).

    Loss: `scale` times `crosstask.losses.barlow_twins` of a projector of three layers on the features. Differences from
    the paper: the projector is as wide as the recipe says, where that one has 8192.

    Args:
        feature_dim: D, the width of the encoder's features.
        sampler: draws the views.
        off_diagonal: weight of the redundancy between dimensions.
        scale: of the whole loss, which is a sum over dimensions; the official code's.
        hidden, out: widths of the projector: of both hidden layers, and of the projections.
    """

    def __init__(
        self,
        feature_dim: int,
        sampler: ViewSampler,
        *,
        off_diagonal: NotNegative = 5e-3,
        scale: Positive = 0.024,
        hidden: Count = 512,
        out: Count = 128,
    ) -> None:
        super().__init__(sampler)
        self.off_diagonal, self.scale = off_diagonal, scale
        self.projector = normed_head(feature_dim, hidden, hidden, out)

    def loss(self, features: Tensor, views: Tensor, encoder: nn.Module) -> Tensor:
        return self.scale * losses.barlow_twins(distributed.gather_pairs(self.projector(features)), self.off_diagonal)
