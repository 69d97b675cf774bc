"""Stages 1 and 2 of CTA: the supervised encoder, its self-supervised twin, and their alignment."""

from __future__ import annotations

import copy

from torch import nn

from crosstask import runtime
from crosstask.checkpoint import Checkpoint
from crosstask.data.images import ImageSet, check_same_kind
from crosstask.errors import CheckpointError
from crosstask.nets.encoders import initialise
from crosstask.nets.split import Classifier
from crosstask.pipeline.experiment import ALIGNED, SELF_SUPERVISED, SUPERVISED, Experiment
from crosstask.pipeline.parts import find_or_make, fresh_encoder, initial, origin, source_statistics
from crosstask.tasks import SelfSupervisedTask, make_task
from crosstask.train.align import align
from crosstask.train.loop import Run
from crosstask.train.pretrain import check_labels, pretrain_self_supervised, pretrain_supervised
from crosstask.train.statistics import feature_statistics


def supervised_stage(experiment: Experiment, images: ImageSet) -> Checkpoint:
    """Stage 1a: train encoder and head on labels, or find them trained."""
    recipe = experiment.recipe
    check_labels(images)

    def make(run: Run) -> Checkpoint:
        encoder = fresh_encoder(recipe, images, SUPERVISED)
        head = nn.Linear(encoder.feature_dim, len(images.class_names))
        initialise(head, initial(recipe, SUPERVISED, "head"))
        classifier = runtime.place(Classifier(encoder, head), run.device)
        losses = pretrain_supervised(classifier, images, recipe.supervised, run)
        return Checkpoint(
            kind="supervised",
            encoder=encoder,
            head=head,
            metrics={"loss": losses[-1]},
            statistics=source_statistics(encoder, head, images, run),
            **origin(recipe, images),
        )

    return find_or_make(experiment, SUPERVISED, images, {"supervised": recipe.supervised.alone()}, {}, make)


def self_supervised_stage(experiment: Experiment, images: ImageSet) -> Checkpoint:
    """Stage 1b: train the twin encoder without labels, or find it trained."""
    recipe = experiment.recipe

    def make(run: Run) -> Checkpoint:
        encoder = fresh_encoder(recipe, images, SELF_SUPERVISED)
        task = make_task(recipe.task, encoder.feature_dim)
        initialise(task, initial(recipe, SELF_SUPERVISED, "task"))
        runtime.place(encoder, run.device), runtime.place(task, run.device)
        losses = pretrain_self_supervised(encoder, task, images, recipe.self_supervised, run)
        return Checkpoint(
            kind="self-supervised",
            encoder=encoder,
            task=task,
            task_config=recipe.task,
            metrics={"loss": losses[-1]},
            statistics=feature_statistics(encoder, images, run),
            **origin(recipe, images),
        )

    what = {"task": recipe.task, "self_supervised": recipe.self_supervised}
    return find_or_make(experiment, SELF_SUPERVISED, images, what, {}, make)


def align_stage(experiment: Experiment, images: ImageSet, teacher: Checkpoint, student: Checkpoint) -> Checkpoint:
    """Stage 2: align the self-supervised encoder with the supervised one, or find it aligned."""
    recipe = experiment.recipe

    task = _check_twins(teacher, student, images)
    parents: dict[str, str] = {SUPERVISED: teacher.weights_hash, SELF_SUPERVISED: student.weights_hash}

    def make(run: Run) -> Checkpoint:
        classifier = runtime.place(copy.deepcopy(teacher.classifier), run.device)
        encoder = runtime.place(copy.deepcopy(student.encoder), run.device)
        own_task = runtime.place(copy.deepcopy(task), run.device)
        losses = align(encoder, own_task, classifier, images, recipe.align, run)
        return Checkpoint(
            kind="aligned",
            encoder_name=student.encoder_name,
            encoder=encoder,
            head=classifier.head,
            task=own_task,
            task_config=student.task_config,
            image_shape=teacher.image_shape,
            class_names=teacher.class_names,
            metrics={"loss": losses[-1]},
            statistics=source_statistics(encoder, classifier.head, images, run),
            parents=parents,
        )

    return find_or_make(experiment, ALIGNED, images, {"align": recipe.align}, parents, make)


def _check_twins(teacher: Checkpoint, student: Checkpoint, images: ImageSet) -> SelfSupervisedTask:
    """Check that two checkpoints and the images go together; return the student's task."""
    if not isinstance(student.task, SelfSupervisedTask):
        raise CheckpointError(f"alignment starts from a self-supervised checkpoint, and this one is {student.kind}")
    for checkpoint in (teacher, student):
        check_same_kind(images, checkpoint.image_shape)
    expected, found = (len(checkpoint.statistics["mean"]) for checkpoint in (teacher, student))
    if expected != found:
        raise CheckpointError(
            f"the supervised encoder has {expected} features and the self-supervised one {found}; "
            "alignment needs two of one width"
        )
    return student.task
