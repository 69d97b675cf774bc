"""What a task must answer: one without labels on its own (CTA), or one trained beside the classifier (the TTT family).

A task is an object one can swap. It never sees a label and never holds the encoder; what it keeps of it, as the slow
copy of BYOL, is values of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from crosstask.views import ViewSampler, two_views


class SelfSupervisedTask(nn.Module, ABC):
    """What a self-supervised task on features must answer. Its own parameters (a projector, say) train with it.

    Attributes:
        passes: forward and backward passes of one batch of images through the encoder in a loss.
    """

    passes: ClassVar[tuple[int, int]] = (2, 2)

    @abstractmethod
    def views(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return V views of each image, [V * B, C, H, W] in [0, 1]: the first views of all images, then the second."""

    def view_pairs(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return views as in `views`, and what the teacher of an alignment sees in their place: by default the same."""
        views = self.views(x, generator)
        return views, views

    def begin(self, encoder: nn.Module) -> None:
        """Take from the encoder what the task keeps of it, if anything: before training, and before a state is loaded.

        What a task has taken already stays.
        """

    @abstractmethod
    def loss(self, features: Tensor, views: Tensor, encoder: nn.Module) -> Tensor:
        """Return the scalar loss of the features [V * B, D] that `encoder` made of those views [V * B, C, H, W]."""

    def forward(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of `encoder` on the batch `x`, float [B, C, H, W] in [0, 1]."""
        views = self.views(x, generator)
        return self.loss(encoder(views), views, encoder)


class TwoViewTask(SelfSupervisedTask, ABC):
    """A task on two random views of each image.

    Args:
        sampler: draws the views.
    """

    def __init__(self, sampler: ViewSampler) -> None:
        super().__init__()
        self.sampler = sampler

    def views(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return two_views(x, self.sampler, generator)

    def view_pairs(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return two views of each image, and the same crops in their original colours."""
        plain = self.sampler.geometric(torch.cat([x, x]), generator)
        return self.sampler.photometric(plain, generator), plain


class JointTask(nn.Module, ABC):
    """What a task that is trained beside the classifier must answer, on features or on maps from inside the encoder.

    Attributes:
        upstream: names of the encoder's parameters that it teaches at test time.
    """

    upstream: Sequence[str]

    @abstractmethod
    def joint(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the encoder's features [B, D] of `x` for the classifier, and the task's own loss at source time."""

    @abstractmethod
    def forward(self, encoder: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the scalar loss at test time of `encoder` on the batch `x`, float [B, C, H, W] in [0, 1]."""
