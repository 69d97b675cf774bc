"""The spine: a recipe becomes a run folder, stage by stage. A finished stage is found and not made again.

OUT/config.toml  checkpoints/{supervised,self-supervised,aligned,...}/  records.jsonl  examples.json  report.html
log.txt; with [tune] also tune/records.jsonl, the trials, and tuned.toml, what was chosen; diagnostics.json if one looks
inside the models
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import torch

from crosstask import report
from crosstask.bench.cells import check, check_batch_norm
from crosstask.checkpoint import Checkpoint
from crosstask.config import JointKind, Recipe
from crosstask.data.images import ImageSet, check_same_kind
from crosstask.errors import ConfigError
from crosstask.nets.encoders import make_encoder
from crosstask.pipeline.comparison import bench_stage
from crosstask.pipeline.diagnosis import diagnose_stage, diagnosed_models
from crosstask.pipeline.experiment import (
    ALIGNED,
    PRETRAINED,
    SELF_SUPERVISED,
    SUPERVISED,
    Experiment,
    Narrator,
    Silent,
    needed,
    source_images,
    target_images,
)
from crosstask.pipeline.joint import GO_ON, joint_stage
from crosstask.pipeline.training import align_stage, self_supervised_stage, supervised_stage
from crosstask.pipeline.tuning import check_tuning, tune_stage


def pretrain_stages(experiment: Experiment, images: ImageSet, only: str | None = None) -> dict[str, Checkpoint]:
    """Stage 1: train the supervised encoder, its self-supervised twin, and what else the recipe's columns need.

    Args:
        only: the one kind to train; what it goes on from is trained, or found, too.

    Raises:
        ConfigError: a column of the recipe needs batch norm or SimCLR, and the recipe's encoder or task is another.
    """
    _check_columns(experiment.recipe, images)
    kinds = [kind for kind in needed(experiment.recipe) if kind in get_args(JointKind)]
    wanted = [SUPERVISED, SELF_SUPERVISED, *kinds] if only is None else [only]
    made: dict[str, Checkpoint] = {}
    if any(kind in (SUPERVISED, *GO_ON) for kind in wanted):
        made[SUPERVISED] = supervised_stage(experiment, images)
    if SELF_SUPERVISED in wanted:
        made[SELF_SUPERVISED] = self_supervised_stage(experiment, images)
    for kind in get_args(JointKind):
        if kind in wanted:
            made[kind] = joint_stage(experiment, kind, images, made.get(SUPERVISED))
    return made


def _check_columns(recipe: Recipe, images: ImageSet) -> None:
    """Raise for a column that could not be measured on the recipe's encoder, before hours are spent on training it."""
    with torch.device("meta"):
        encoder = make_encoder(recipe.encoder, images.images.shape[1])
    for label, column in recipe.bench.columns.items():
        check_batch_norm(label, column, encoder, recipe.encoder)
        if column.method == "ttt++" and recipe.task.name != "simclr":
            raise ConfigError(
                f"column {label!r}: ttt++ needs the task 'simclr', and the recipe has {recipe.task.name!r}; "
                "take the column away"
            )


def report_stage(experiment: Experiment) -> Path:
    """Stage 4: turn the records into `report.html` and return its path."""
    path = report.write(experiment.folder)
    experiment.say(f"report: {path}")
    return path


def run_recipe(experiment: Experiment) -> Path:
    """Run all stages of a recipe and return the path of the report. Whatever is finished is found, not made again."""
    source, tuning = source_images(experiment.recipe, experiment.narrator.say)
    target = target_images(experiment.recipe, experiment.narrator.say)
    tune = experiment.recipe.tune
    check(experiment.recipe.bench, target, tune.steps[0] if tune else None)
    check_same_kind(target, source.images.shape[1:], source.class_names)
    if tune:
        check_tuning(experiment.recipe, tuning)
    made = pretrain_stages(experiment, source)
    if ALIGNED in needed(experiment.recipe):
        made[ALIGNED] = align_stage(experiment, source, made[SUPERVISED], made[SELF_SUPERVISED])
    family: dict[str, Checkpoint] = {kind: made[kind] for kind in needed(experiment.recipe)}
    if tune:
        tune_stage(experiment, tuning, family)
    bench_stage(experiment, target, family)
    return report_stage(experiment)


__all__ = [
    "ALIGNED",
    "PRETRAINED",
    "SELF_SUPERVISED",
    "SUPERVISED",
    "Experiment",
    "Narrator",
    "Silent",
    "align_stage",
    "bench_stage",
    "check_tuning",
    "diagnose_stage",
    "diagnosed_models",
    "joint_stage",
    "needed",
    "pretrain_stages",
    "report_stage",
    "run_recipe",
    "self_supervised_stage",
    "source_images",
    "supervised_stage",
    "target_images",
    "tune_stage",
]
