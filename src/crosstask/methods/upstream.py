"""What methods share that teach the first layers of an encoder with the task it was trained beside."""

from __future__ import annotations

import copy
from typing import TypeVar

from crosstask.errors import AdapterError
from crosstask.methods.batchnorm import set_batch_norm
from crosstask.nets.split import Classifier
from crosstask.tasks.base import JointTask

TaskT = TypeVar("TaskT", bound=JointTask)


def taken(method: str, model: object, task: object, kind: type[TaskT]) -> TaskT:
    """Return a frozen copy of a task that fits a model; the task's own batch norm keeps its source statistics.

    Args:
        method: its name, for the errors.
        model, task: what the method was given.
        kind: the task it needs.

    Raises:
        AdapterError: the model is no `Classifier`, the task of another kind, or made for another encoder.
    """
    if not isinstance(model, Classifier):
        raise AdapterError(
            f"{method} needs an encoder and a head, and got a {type(model).__name__}; see `crosstask.split`"
        )
    if not isinstance(task, kind):
        raise AdapterError(
            f"{method} needs the {kind.__name__} task its encoder was trained beside, and got a {type(task).__name__}"
        )
    known = {name for name, _ in model.encoder.named_parameters()}
    if missing := sorted(set(task.upstream) - known):
        raise AdapterError(
            f"{method} got a task made for another encoder: it teaches {missing[0]}, which this one lacks"
        )
    task = copy.deepcopy(task).requires_grad_(False)
    set_batch_norm(task, "source")
    return task
