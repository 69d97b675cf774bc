"""Two encoders side by side, one of which sees every image in the mirror (ReC-TTT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Twin(nn.Module):
    """Two encoders; the second sees the images flipped left to right. Their features stand side by side.

    A linear head on these features is the sum of two heads, one on each encoder.

    Args:
        first, second: of one architecture, with the attribute `feature_dim`.

    Attributes:
        feature_dim: the width of the features of both together.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.feature_dim = 2 * int(first.feature_dim)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to features [B, feature_dim]."""
        return torch.cat([self.first(x), self.second(x.flip(3))], dim=1)
