"""Self-supervised tasks: what the second encoder learns from images alone, in pretraining, alignment and adaptation.

A task is an object one can swap. It turns a batch into views and features of views into a loss; it never sees a label
and never holds the encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from crosstask import losses
from crosstask.config import Task
from crosstask.errors import UnknownName
from crosstask.nets.encoders import projection_head
from crosstask.views import ViewSampler, two_views


class SelfSupervisedTask(nn.Module, ABC):
    """What a self-supervised task must answer. Its own parameters (a projector, say) train beside the encoder."""

    @abstractmethod
    def views(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return V views of each image, [V * B, C, H, W] in [0, 1]: the first views of all images, then the second."""

    def view_pairs(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return views as in `views`, and what the teacher of an alignment sees in their place: by default the same."""
        views = self.views(x, generator)
        return views, views

    @abstractmethod
    def loss(self, features: Tensor) -> Tensor:
        """Return the scalar loss of the encoder's features [V * B, D] of those views."""

    def forward(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of `encoder` on the batch `x`, float [B, C, H, W] in [0, 1]."""
        return self.loss(encoder(self.views(x, generator)))


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


TASKS = {"simclr": SimCLR}


def make_task(config: Task, feature_dim: int) -> SelfSupervisedTask:
    """Return a freshly initialised task by the name in its config.

    Raises:
        UnknownName: the name is not in `TASKS`.
    """
    if config.name not in TASKS:
        raise UnknownName("self-supervised task", config.name, TASKS)
    sampler = ViewSampler(config.views)
    return TASKS[config.name](
        feature_dim, temperature=config.temperature, sampler=sampler, hidden=config.hidden, out=config.out
    )
