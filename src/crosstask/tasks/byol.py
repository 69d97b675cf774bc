"""BYOL: one view predicts what a slow copy of the network makes of the other view."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from crosstask import losses
from crosstask.config import Count, Share
from crosstask.errors import ConfigError
from crosstask.nets.encoders import normed_head
from crosstask.nets.shadow import Shadow
from crosstask.tasks.base import TwoViewTask
from crosstask.views import ViewSampler


class BYOL(TwoViewTask):
    """From one view, predict what a slow copy of encoder and projector makes of the other (Grill et al. 2020).

    Loss: `crosstask.losses.byol` of `q g f(v)` against `g' f'(v)`, with q the predictor, g the projector, f the encoder
    and v the views. The target network g' f' is the values of a moving average, kept as buffers, with which the encoder
    and the projector are called: no gradient reaches them, and they are saved with the task. It starts as a copy, when
    the task begins with an encoder. In train mode each loss first moves it: `target <- keep * target + (1 - keep) *
    online`, which is the paper's move after the step before. In eval mode, as at test time, its weights stay, and its
    batch norm follows the adapter's policy like any other.
    A checkpoint's target has the shapes of the checkpoint's encoder: to load one, the task begins with that encoder,
    and the saved values take the copy's place.
    Differences from the paper: `keep` is constant, where that one rises to 1; projector and predictor are as wide as
    the recipe says, where those have 4096 and 256.

    Args:
        feature_dim: D, the width of the encoder's features.
        sampler: draws the views.
        keep: of the target's average; 0.99 for 300 epochs in the paper, 0.996 for 1000.
        hidden, out: widths of projector and predictor.
    """

    passes: ClassVar[tuple[int, int]] = (4, 2)
    target: Shadow | None

    def __init__(
        self, feature_dim: int, sampler: ViewSampler, *, keep: Share = 0.99, hidden: Count = 512, out: Count = 128
    ) -> None:
        super().__init__(sampler)
        self.keep = keep
        self.projector = normed_head(feature_dim, hidden, out)
        self.predictor = normed_head(out, hidden, out)
        self.register_module("target", None)

    def begin(self, encoder: nn.Module) -> None:
        """Copy the encoder, under the projector, as the target network, unless there is one."""
        if self.target is None:
            self.target = Shadow(nn.Sequential(encoder, self.projector))

    def loss(self, features: Tensor, views: Tensor, encoder: nn.Module) -> Tensor:
        """Return the loss, and first, in train mode, move the target.

        Raises:
            ConfigError: the task has not begun.
        """
        if self.target is None:
            raise ConfigError("BYOL has no target network yet: train with the task, or call its begin(encoder)")
        online = nn.Sequential(encoder, self.projector)
        if self.training:
            self.target.follow(online, 1 - self.keep)
        return losses.byol(self.predictor(self.projector(features)), self.target(online, views))
