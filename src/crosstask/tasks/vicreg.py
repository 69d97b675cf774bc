"""VICReg: two views of an image agree, while every dimension keeps a spread of its own."""

from __future__ import annotations

from torch import Tensor, nn

from crosstask import distributed, losses
from crosstask.config import Count, NotNegative
from crosstask.nets.encoders import normed_head
from crosstask.tasks.base import TwoViewTask
from crosstask.views import ViewSampler


class VICReg(TwoViewTask):
    """Two views agree, each dimension varies over the batch, and no two vary together (Bardes, Ponce, LeCun 2022).

    Loss: `crosstask.losses.vicreg` of an expander of three layers on the features. Differences from the paper: the
    expander is as wide as the recipe says, where that one has 8192. The weights are the paper's, for LARS: plain SGD
    wants a learning rate some 25 times lower than other tasks do, or weights as much smaller.

    Args:
        feature_dim: D, the width of the encoder's features.
        sampler: draws the views.
        invariance, variance, covariance: weights of the three terms.
        hidden, out: widths of the expander: of both hidden layers, and of the projections.
    """

    def __init__(
        self,
        feature_dim: int,
        sampler: ViewSampler,
        *,
        invariance: NotNegative = 25.0,
        variance: NotNegative = 25.0,
        covariance: NotNegative = 1.0,
        hidden: Count = 512,
        out: Count = 128,
    ) -> None:
        super().__init__(sampler)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        self.projector = normed_head(feature_dim, hidden, hidden, out)

    def loss(self, features: Tensor, views: Tensor, encoder: nn.Module) -> Tensor:
        return losses.vicreg(distributed.gather_pairs(self.projector(features)), **self.weights)
