"""SimCLR: two views of an image attract each other, views of different images repel."""

from __future__ import annotations

from torch import Tensor, nn

from crosstask import distributed, losses
from crosstask.config import Count, Positive, Steps
from crosstask.nets.encoders import projection_head
from crosstask.tasks.base import TwoViewTask
from crosstask.views import ViewSampler


class SimCLR(TwoViewTask):
    """Two views of an image attract, views of different images repel (Chen et al. 2020).

    Args:
        feature_dim: D, the width of the encoder's features; any where there is no projector.
        sampler: draws the views.
        temperature: of NT-Xent.
        hidden, out: widths of the projector; hidden=0: none, the features themselves are compared.
    """

    def __init__(
        self,
        feature_dim: int,
        sampler: ViewSampler,
        *,
        temperature: Positive = 0.2,
        hidden: Steps = 512,
        out: Count = 128,
    ) -> None:
        super().__init__(sampler)
        self.temperature = temperature
        self.projector = projection_head(feature_dim, hidden, out) if hidden else nn.Identity()

    def loss(self, features: Tensor, views: Tensor, encoder: nn.Module) -> Tensor:
        own = self.projector(features)
        rows = distributed.own_pair_rows(len(own), own.device)
        return losses.nt_xent(distributed.gather_pairs(own), self.temperature, rows)
