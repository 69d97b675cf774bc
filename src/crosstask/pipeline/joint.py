"""The source-time stages of the methods CTA is compared with."""

from __future__ import annotations

import copy
from typing import cast

from torch import nn

from crosstask import runtime
from crosstask.checkpoint import Checkpoint
from crosstask.config import Auxiliary, JointKind, Recipe, Task
from crosstask.data.images import ImageSet
from crosstask.nets.encoders import Encoder, initialise
from crosstask.nets.split import Classifier
from crosstask.nets.twin import Twin
from crosstask.pipeline.experiment import SUPERVISED, Experiment
from crosstask.pipeline.parts import find_or_make, fresh_encoder, initial, origin, source_statistics
from crosstask.tasks import JointTask, SelfSupervisedTask, SimCLR, make_joint_task, make_task
from crosstask.tasks.reconstruction import Reconstruction
from crosstask.train.joint import pretrain_joint, pretrain_on_frozen, pretrain_with_views
from crosstask.train.loop import Run
from crosstask.train.moments import class_moments, projection_moments

GO_ON = ("joint", "tttflow", "rec-ttt")
"""Kinds that go on from the supervised checkpoint; the others start anew."""


def joint_stage(experiment: Experiment, kind: JointKind, images: ImageSet, supervised: Checkpoint | None) -> Checkpoint:
    """The source-time stage of a method CTA is compared with, at the backbone of stage 1a.

    `joint` (SimCLR beside the classifier) and `tttflow` go on from the supervised checkpoint, `rec-ttt` from two copies
    of it; the others start anew and look at none. All see the crops of stage 1a but `joint`, which sees its task's
    views.
    """
    recipe, settings = experiment.recipe, experiment.recipe.supervised.beside_task()
    task_config = recipe.task if kind == "joint" else Auxiliary(name=kind, arguments=recipe.tasks.get(kind, {}))
    start = supervised if kind in GO_ON else None
    parents: dict[str, str] = {} if start is None else {SUPERVISED: start.weights_hash}

    def make(run: Run) -> Checkpoint:
        classifier, task = _joint_start(recipe, kind, images, start, task_config)
        runtime.place(classifier, run.device), runtime.place(task, run.device)
        if isinstance(task, SelfSupervisedTask):
            losses = pretrain_with_views(classifier, task, images, settings, run)
        elif kind == "tttflow":
            losses = pretrain_on_frozen(classifier.encoder, task, images, settings, run)
        else:
            losses = pretrain_joint(classifier, task, images, settings, run)
        statistics = source_statistics(classifier.encoder, classifier.head, images, run)
        if kind == "joint":
            statistics |= class_moments(classifier.encoder, images, run)
        if isinstance(task, SimCLR):
            statistics |= projection_moments(classifier.encoder, task, images, run)
        return Checkpoint(
            kind=kind,
            encoder=classifier.encoder,
            head=classifier.head,
            task=task,
            task_config=task_config,
            metrics={"loss": losses[-1]},
            statistics=statistics,
            parents=parents,
            **origin(recipe, images),
        )

    return find_or_make(experiment, kind, images, {"supervised": settings, "task": task_config}, parents, make)


def _joint_start(
    recipe: Recipe, kind: str, images: ImageSet, supervised: Checkpoint | None, task_config: Task | Auxiliary
) -> tuple[Classifier, SelfSupervisedTask | JointTask]:
    """Return the classifier and the task that a joint stage starts from."""
    if supervised is None:
        encoder: nn.Module = fresh_encoder(recipe, images, kind)
        head: nn.Module = nn.Linear(cast(Encoder, encoder).feature_dim, len(images.class_names))
        initialise(head, initial(recipe, kind, "head"))
    else:
        encoder, head = copy.deepcopy(supervised.encoder), copy.deepcopy(supervised.classifier.head)
    if kind == "rec-ttt":
        encoder = Twin(encoder, copy.deepcopy(encoder))
        head = nn.Linear(encoder.feature_dim, len(images.class_names))
        initialise(head, initial(recipe, kind, "head"))
    if isinstance(task_config, Task):
        task: SelfSupervisedTask | JointTask = make_task(task_config, cast(Encoder, encoder).feature_dim)
    else:
        task = make_joint_task(task_config, encoder, tuple(images.images.shape[1:]))
    initialise(task, initial(recipe, kind, "task"))
    if isinstance(task, Reconstruction) and isinstance(encoder, Twin):
        task.teacher.load_state_dict(encoder.first.state_dict())
    return Classifier(encoder, head), task
