"""Source: the frozen model, the figure every method must beat."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from crosstask.methods.adapter import Adapter


@final
class Source(Adapter):
    """The supervised model as it was trained, in eval mode. Nothing moves.

    Args:
        model: maps floats [B, C, H, W] in [0, 1] to logits [B, K].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, steps=0, batch_norm="source")
        self.begin(())

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        """Learn nothing."""
