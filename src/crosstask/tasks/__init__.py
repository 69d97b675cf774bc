"""Self-supervised tasks: what an encoder learns from images alone, in pretraining, alignment and adaptation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from crosstask.config import Auxiliary, Task, keyword_config, validate
from crosstask.errors import ConfigError, UnknownName
from crosstask.tasks.barlow_twins import BarlowTwins
from crosstask.tasks.base import JointTask, SelfSupervisedTask
from crosstask.tasks.byol import BYOL
from crosstask.tasks.clusters import Clusters
from crosstask.tasks.flow import Flow
from crosstask.tasks.noise import Noise
from crosstask.tasks.reconstruction import Reconstruction
from crosstask.tasks.rotation import Rotation, RotNet
from crosstask.tasks.simclr import SimCLR
from crosstask.tasks.vicreg import VICReg
from crosstask.views import ViewSampler

TASKS: dict[str, type[SelfSupervisedTask]] = {
    "simclr": SimCLR,
    "vicreg": VICReg,
    "barlow-twins": BarlowTwins,
    "byol": BYOL,
    "rotation": RotNet,
}
"""Tasks on the encoder's features, which CTA pretrains, aligns and adapts with."""

JOINT_TASKS: dict[str, type[JointTask]] = {
    "ttt": Rotation,
    "tttflow": Flow,
    "clust3": Clusters,
    "nc-ttt": Noise,
    "rec-ttt": Reconstruction,
}
"""Tasks that are trained beside the classifier, by the method that adapts with them."""


def make_task(config: Task, feature_dim: int) -> SelfSupervisedTask:
    """Return a freshly initialised task by the name in its config.

    Raises:
        UnknownName: the name is not in `TASKS`.
        ConfigError: an argument is unknown or out of range.
    """
    arguments = check_task(config)
    return TASKS[config.name](feature_dim, ViewSampler(config.views), **arguments)


def check_task(config: Task) -> dict[str, Any]:
    """Return a self-supervised task's keyword arguments; raise for a name or an argument that it does not have."""
    if config.name not in TASKS:
        raise UnknownName("self-supervised task", config.name, TASKS)
    own, what = keyword_config(TASKS[config.name]), f"the task {config.name}"
    shared = {name: getattr(config, name) for name in ("temperature", "hidden", "out")}
    if twice := sorted(shared.keys() & config.arguments.keys()):
        raise ConfigError(f"{what} has {twice[0]} among its arguments; it is a setting of [task] itself")
    known = {field.name for field in dataclasses.fields(own)}
    # Nobody asked for the default of a setting that this task lacks; any other value would be ignored, and is refused.
    given = {name: value for name, value in shared.items() if name in known or value != getattr(Task, name)}
    arguments = {**given, **config.arguments}
    validate(own, arguments, what)
    return arguments


def make_joint_task(config: Auxiliary, encoder: nn.Module, image_shape: Sequence[int]) -> JointTask:
    """Return a freshly initialised task that fits an encoder and images of `image_shape` (C, H, W).

    Raises:
        UnknownName: the name is not in `JOINT_TASKS`.
        ConfigError: an argument is unknown or out of range.
    """
    check_joint_task(config)
    return JOINT_TASKS[config.name](encoder, image_shape, **config.arguments)


def check_joint_task(config: Auxiliary) -> None:
    """Raise for a name or an argument that a joint task does not have."""
    if config.name not in JOINT_TASKS:
        raise UnknownName("joint task", config.name, JOINT_TASKS)
    validate(keyword_config(JOINT_TASKS[config.name]), dict(config.arguments), f"the task of {config.name}")


__all__ = [
    "JOINT_TASKS",
    "TASKS",
    "JointTask",
    "SelfSupervisedTask",
    "SimCLR",
    "check_joint_task",
    "check_task",
    "make_joint_task",
    "make_task",
]
