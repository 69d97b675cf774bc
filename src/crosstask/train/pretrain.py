"""Stage 1: two identical encoders learn the source images, one with labels, one without."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.augmix import some_mixed
from crosstask.config import SelfSupervised, Supervised, Views
from crosstask.data.images import ImageSet
from crosstask.errors import DataError
from crosstask.nets.split import Classifier
from crosstask.tasks import SelfSupervisedTask
from crosstask.train.loop import Run, fit
from crosstask.views import ViewSampler


def pretrain_supervised(classifier: Classifier, images: ImageSet, config: Supervised, run: Run) -> list[float]:
    """Train encoder and head with cross-entropy on what is `seen`; return the losses on the way.

    Args:
        classifier: trained in place.
        images: with labels.

    Raises:
        DataError: the images have no labels.
        TrainingError: the loss is no longer finite.
    """
    check_labels(images)

    def objective(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(classifier(seen(x, config, generator)).float(), y)

    classifier.train()
    losses = fit(objective, classifier, images, config, run)
    classifier.eval()
    return losses


def seen(x: Tensor, config: Supervised, generator: torch.Generator) -> Tensor:
    """Return random resized crops of images [B, C, H, W] in [0, 1], flipped at random, a share of them mixed."""
    crops = ViewSampler(Views(crop=config.crop)).geometric(x, generator)
    return some_mixed(crops, config.augmix, generator)


def check_labels(images: ImageSet) -> None:
    """Raise a `DataError` unless the images have labels."""
    if images.labels is None:
        raise DataError(
            f"supervised pretraining needs labels, and {images.name} has none; give class folders or labels"
        )


def pretrain_self_supervised(
    encoder: nn.Module, task: SelfSupervisedTask, images: ImageSet, config: SelfSupervised, run: Run
) -> list[float]:
    """Train an encoder with its self-supervised task; return the losses on the way. Labels are not looked at.

    Args:
        encoder, task: trained in place.
        images: with labels or without.

    Raises:
        TrainingError: the loss is no longer finite.
    """

    def objective(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return task(encoder, x, generator)

    task.begin(encoder)
    trainee = nn.ModuleDict({"encoder": encoder, "task": task}).train()
    losses = fit(objective, trainee, images.unlabelled(), config, run)
    trainee.eval()
    return losses
