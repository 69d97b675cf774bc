"""What a task must answer: one without labels on its own (CTA), or one trained beside the classifier (the TTT family).

A task is an object one can swap. It never sees a label and never holds the encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SelfSupervisedTask(nn.Module, ABC):
    """What a self-supervised task on features must answer. Its own parameters (a projector, say) train with it."""

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
