"""SimCLR: two views of an image attract each other, views of different images repel."""

from __future__ import annotations

import torch
from torch import Tensor

from crosstask import losses
from crosstask.nets.encoders import projection_head
from crosstask.tasks.base import SelfSupervisedTask
from crosstask.views import ViewSampler, two_views


class SimCLR(SelfSupervisedTask):
    """Two views of an image attract, views of different images repel (Chen et al. 2020).

    Args:
        feature_dim: D, the width of the encoder's features.
        temperature: of NT-Xent.
        sampler: draws the views.
        hidden, out: widths of the projector.
    """

    def __init__(
        self, feature_dim: int, *, temperature: float, sampler: ViewSampler, hidden: int = 512, out: int = 128
    ) -> None:
        super().__init__()
        self.temperature, self.sampler = temperature, sampler
        self.projector = projection_head(feature_dim, hidden, out)

    def views(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return two_views(x, self.sampler, generator)

    def view_pairs(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return two views of each image, and the same crops in their original colours."""
        plain = self.sampler.geometric(torch.cat([x, x]), generator)
        return self.sampler.photometric(plain, generator), plain

    def loss(self, features: Tensor) -> Tensor:
        return losses.nt_xent(self.projector(features), self.temperature)
