"""Means and covariances of the source that test-time methods align to: of each class, and of SimCLR's projections."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from crosstask import runtime
from crosstask.data.images import ImageSet
from crosstask.errors import DataError
from crosstask.tasks import SimCLR
from crosstask.train.loop import Run
from crosstask.train.pretrain import check_labels
from crosstask.train.statistics import SAMPLE

TYPICAL = 256
"""Images of a batch whose distance from the whole source counts as one unit (TTT++)."""


def class_moments(encoder: nn.Module, images: ImageSet, run: Run) -> dict[str, Tensor]:
    """Return `class_mean` [K, D] and `class_covariance` [K, D, D] of the encoder's features, in eval mode.

    A class without images in the sample has the moments of all images, one with a single image their covariance.

    Raises:
        DataError: the images have no labels.
    """
    check_labels(images)
    assert images.labels is not None
    order = _sample(images, run)
    features, labels = _features(encoder.eval(), images, order, run), images.labels.cpu()[order]
    mean, covariance = moments(features)
    means, covariances = [], []
    for label in range(len(images.class_names)):
        own = features[labels == label]
        means.append(own.mean(dim=0) if len(own) else mean)
        covariances.append(moments(own)[1] if len(own) > 1 else covariance)
    return {"class_mean": torch.stack(means).float(), "class_covariance": torch.stack(covariances).float()}


def projection_moments(encoder: nn.Module, task: SimCLR, images: ImageSet, run: Run) -> dict[str, Tensor]:
    """Return what TTT++ aligns projections with, and how far a typical batch of the source is from the source.

    Returns:
        `task_mean` [P] and `task_covariance` [P, P] of the projector's outputs, not normalised, in eval mode; and
        `discrepancy` [4]: CORAL and MMD of the features, then of the projections, between a batch of about 256 images
        and all images, averaged over the batches (Liu et al. 2021).

    Raises:
        DataError: there are fewer than four images, too few for two batches with a covariance each.
    """
    if len(images) < 4:
        raise DataError(f"{images.name}: expected at least 4 images for the moments of TTT++, got {len(images)}")
    task.eval()
    order = _sample(images, run)
    features = _features(encoder.eval(), images, order, run)
    with torch.no_grad(), runtime.autocast(run.device, run.precision):
        weight = next(task.projector.parameters(), features)
        parts = [task.projector(part.to(weight)).double().cpu() for part in features.split(500)]
    projections = torch.cat(parts)
    mean, covariance = moments(projections)
    discrepancy = torch.stack([*_discrepancy(features), *_discrepancy(projections)])
    return {"task_mean": mean.float(), "task_covariance": covariance.float(), "discrepancy": discrepancy.float()}


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean [D] and covariance [D, D] of at least two rows [N, D], with N - 1 below the line."""
    mean = rows.mean(dim=0)
    centred = rows - mean
    return mean, centred.T @ centred / (len(rows) - 1)


def coral(first: Tensor, second: Tensor) -> Tensor:
    """Return the distance of two covariances [D, D], `||A - B||_F^2 / (4 D^2)` (Sun & Saenko 2016)."""
    return (first - second).square().sum() / (4 * len(first) ** 2)


def mmd(first: Tensor, second: Tensor) -> Tensor:
    """Return the distance of two means [D]: the mean of the squared differences."""
    return (first - second).square().mean()


def _discrepancy(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return CORAL and MMD between typical batches and all rows; two batches at least, or both would be nought."""
    mean, covariance = moments(rows)
    batches = [moments(batch) for batch in rows.tensor_split(max(2, math.ceil(len(rows) / TYPICAL)))]
    corals = torch.stack([coral(own, covariance) for _, own in batches])
    mmds = torch.stack([mmd(own, mean) for own, _ in batches])
    return corals.mean(), mmds.mean()


def _sample(images: ImageSet, run: Run) -> Tensor:
    """Return the same images that `crosstask.train.statistics` looks at."""
    generator = runtime.generator(torch.device("cpu"), run.seed, "statistics")
    return torch.randperm(len(images), generator=generator)[:SAMPLE]


@torch.no_grad()
def _features(encoder: nn.Module, images: ImageSet, order: Tensor, run: Run) -> Tensor:
    with runtime.autocast(run.device, run.precision):
        batches = (runtime.to_unit_floats(images.images[part], run.device) for part in order.split(500))
        return torch.cat([encoder(x).double().cpu() for x in batches])
