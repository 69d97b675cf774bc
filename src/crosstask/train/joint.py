"""The source-time stages of the methods CTA is compared with: a task is trained beside the classifier, or after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.config import Supervised
from crosstask.data.images import ImageSet
from crosstask.nets.split import Classifier
from crosstask.tasks import JointTask, SelfSupervisedTask
from crosstask.train.loop import Objective, Run, fit
from crosstask.train.pretrain import check_labels, seen


def pretrain_joint(
    classifier: Classifier, task: JointTask, images: ImageSet, config: Supervised, run: Run, *, weight: float = 1.0
) -> list[float]:
    """Train a classifier and a task on one encoder: `CE(y, h f(x)) + weight * task(f, x)`, x as `seen`.

    Args:
        classifier, task: trained in place.
        images: with labels.
        weight: of the task's loss.

    Returns:
        The losses on the way.

    Raises:
        DataError: the images have no labels.
        TrainingError: the loss is no longer finite.
    """
    check_labels(images)

    def objective(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        features, own = task.joint(classifier.encoder, seen(x, config, generator), generator)
        return F.cross_entropy(classifier.head(features).float(), y) + weight * own

    return _trained(objective, nn.ModuleList([classifier, task]), images, config, run)


def pretrain_with_views(
    classifier: Classifier,
    task: SelfSupervisedTask,
    images: ImageSet,
    config: Supervised,
    run: Run,
    *,
    share: float = 0.9,
) -> list[float]:
    """Train a classifier and a self-supervised task on the task's own views v (TTT++, Liu et al. 2021).

    Loss: `share * sum_v CE(y, h f(v)) + (1 - share) * task(f(v))`. This is the joint training whose gradients CTA
    keeps apart.

    Args:
        classifier, task: trained in place.
        images: with labels.
        share: the weight of the classifier's loss, in [0, 1].

    Returns, raises:
        As `pretrain_joint`.
    """
    check_labels(images)

    def objective(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        views = task.views(x, generator)
        features = classifier.encoder(views)
        each = len(views) // len(x)
        supervised = each * F.cross_entropy(classifier.head(features).float(), y.repeat(each))
        return share * supervised + (1 - share) * task.loss(features, views, classifier.encoder)

    task.begin(classifier.encoder)
    return _trained(objective, nn.ModuleList([classifier, task]), images, config, run)


def pretrain_on_frozen(
    encoder: nn.Module, task: JointTask, images: ImageSet, config: Supervised, run: Run
) -> list[float]:
    """Train a task on the maps of an encoder that stays as it is, in eval mode (TTTFlow); return the losses.

    Args:
        encoder: left as it is.
        task: trained in place.
        images: with labels or without; as `seen` by the supervised stage.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    encoder.eval().requires_grad_(False)

    def objective(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return task(encoder, seen(x, config, generator), generator)

    losses = _trained(objective, task, images.unlabelled(), config, run)
    encoder.requires_grad_()
    return losses


def _trained(objective: Objective, trainee: nn.Module, images: ImageSet, config: Supervised, run: Run) -> list[float]:
    trainee.train()
    losses = fit(objective, trainee, images, config, run)
    trainee.eval()
    return losses
