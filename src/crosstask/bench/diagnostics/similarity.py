"""How like are the features of two encoders? Linear centred kernel alignment."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Return linear CKA in 0..1 (Kornblith et al. 2019, sec. 3): `||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F)`, both centred.

    It does not change when features are rotated, scaled by one factor or shifted. With few images for the width of the
    features it comes out too high. Features that do not vary are like nothing: 0.

    Args:
        first, second: features [N, D] and [N, E] of the same N images.
    """
    x, y = (features.double() - features.double().mean(dim=0) for features in (first, second))
    scale = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    if scale == 0:
        return 0.0
    return min(1.0, (torch.linalg.matrix_norm(y.T @ x).square() / scale).item())


def linear_cka_without(first: Tensor, second: Tensor, batch_size: int) -> list[float]:
    """Return linear CKA with one batch of images left out, each in turn."""
    parts = list(zip(first.split(batch_size), second.split(batch_size), strict=True))
    rests = [[part for other, part in enumerate(parts) if other != place] for place in range(len(parts))]
    return [linear_cka(*(torch.cat(side) for side in zip(*rest, strict=True))) for rest in rests]
