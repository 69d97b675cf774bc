"""Features in two dimensions: principal components, and what is drawn in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Basis:
    """The two main directions of some features.

    Attributes:
        mean: double [D], where the plane is hung up.
        axes: double [D, 2], orthonormal; of each the largest entry is positive, so that nothing is mirrored by chance.
    """

    mean: Tensor
    axes: Tensor


def principal_axes(features: Tensor) -> Basis:
    """Return the two principal components of features [N, D], D at least 2."""
    centred = features.double() - features.double().mean(dim=0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:].flip(1)
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return Basis(mean=features.double().mean(dim=0), axes=axes * largest.sign())


def explained(features: Tensor, basis: Basis) -> list[float]:
    """Return the share of the variance of features [N, D] along each of the two directions."""
    centred = features.double() - features.double().mean(dim=0)
    along, total = (centred @ basis.axes).square().sum(dim=0), centred.square().sum()
    return [round(share, 4) for share in (along / total.clamp(min=1e-30)).clamp(0, 1).tolist()]


def coordinates(features: Tensor, labels: Tensor, basis: Basis) -> list[tuple[float, float, int]]:
    """Return two coordinates, to four significant digits, and the label of each of the features [N, D]."""
    plane = (features.double() - basis.mean) @ basis.axes
    return [
        (float(f"{x:.4g}"), float(f"{y:.4g}"), label)
        for (x, y), label in zip(plane.tolist(), labels.tolist(), strict=True)
    ]
