"""Stage 2: the self-supervised encoder learns the features of the frozen supervised one. No label is looked at."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from crosstask import distributed, losses
from crosstask.augmix import some_mixed
from crosstask.config import Align
from crosstask.data.images import ImageSet
from crosstask.errors import ConfigError
from crosstask.nets.split import Classifier
from crosstask.tasks import SelfSupervisedTask
from crosstask.train.loop import Run, fit
from crosstask.train.statistics import refit_batch_norm


def align(
    encoder: nn.Module, task: SelfSupervisedTask, teacher: Classifier, images: ImageSet, config: Align, run: Run
) -> list[float]:
    """Align a self-supervised encoder with a supervised one (CTA, arXiv 2507.05221); return the losses on the way.

    With f the encoder, f_s and h the frozen teacher and its head, v = views of x, and p = the same crops in their
    original colours:

        contrastive * CLIP(f(v), f_s(p)) + distillation * KL(h f_s(p) || h f(v)) + self_supervised * task(f(v))

    CLIP and KL are also taken on the images themselves. With `augmix` that share of the views v is mixed with chains of
    small changes of itself. The encoder normalises by the batch's statistics, of views and of images apart, as it will
    at test time; the teacher by its own running averages. At the end the encoder's running averages are taken anew from
    the images themselves.

    Args:
        encoder, task: trained in place; with `start = "supervised"` the encoder first takes the teacher's weights.
        teacher: left as it is.
        images: with labels or without.

    Raises:
        TrainingError: the loss is no longer finite.
        ConfigError: the teacher is no `Classifier`, or the student is to start as one of another architecture.
    """
    if not isinstance(teacher, Classifier):
        raise ConfigError(
            f"the teacher must have an encoder and a head, and is a {type(teacher).__name__}; see `crosstask.split`"
        )
    teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
    if config.start == "supervised":
        _take_weights(encoder, teacher.encoder)

    def imitation(student: Tensor, seen: Tensor) -> Tensor:
        with torch.no_grad():
            features = teacher.encoder(seen)
        rows = distributed.own_rows(len(student), student.device)
        everyone = distributed.gather(student), distributed.gather(features)
        contrast = losses.alignment(*everyone, config.temperature, rows)
        divergence = losses.distillation(teacher.head(student), teacher.head(features))
        return config.contrastive * contrast + config.distillation * divergence

    def objective(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        views, plain = task.view_pairs(x, generator)
        views = some_mixed(views, config.augmix, generator)
        features = encoder(views)
        pairs = [*zip(features.split(len(x)), plain.split(len(x)), strict=True), (encoder(x), x)]
        imitations = torch.stack([imitation(student, seen) for student, seen in pairs])
        return imitations.mean() + config.self_supervised * task.loss(features, views, encoder)

    task.begin(encoder)
    trainee = nn.ModuleDict({"encoder": encoder, "task": task}).train()
    history = fit(objective, trainee, images.unlabelled(), config, run)
    refit_batch_norm(encoder, images, run)
    trainee.eval()
    return history


def _take_weights(encoder: nn.Module, other: nn.Module) -> None:
    if _shapes(encoder) != _shapes(other):
        raise ConfigError(
            "with start = 'supervised' both encoders have one architecture, and these differ; "
            "let the student keep its own weights with start = 'self-supervised'"
        )
    encoder.load_state_dict(other.state_dict())


def _shapes(module: nn.Module) -> dict[str, torch.Size | None]:
    return {name: getattr(value, "shape", None) for name, value in module.state_dict().items()}
