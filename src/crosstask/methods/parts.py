"""What the methods that take a classifier apart have in common."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from crosstask.errors import AdapterError
from crosstask.methods.batchnorm import set_batch_norm
from crosstask.nets.split import Classifier
from crosstask.tasks import JointTask

TaskT = TypeVar("TaskT", bound=JointTask)


def check_classifier(method: str, model: nn.Module) -> None:
    """Raise an `AdapterError` unless the model has an encoder and a head."""
    if not isinstance(model, Classifier):
        raise AdapterError(
            f"{method} needs an encoder and a head, and got a {type(model).__name__}; see `crosstask.split`"
        )


def all_names(model: nn.Module) -> list[str]:
    """Return the names of all parameters of a model.

    Raises:
        AdapterError: there are none.
    """
    names = [name for name, _ in model.named_parameters()]
    if not names:
        raise AdapterError("nothing to adapt: the model has no parameters")
    return names


def encoder_names(model: nn.Module) -> list[str]:
    """Return the names within a classifier of all its encoder's parameters.

    Raises:
        AdapterError: there are none.
    """
    names = [name for name, _ in model.named_parameters() if name.startswith("encoder.")]
    if not names:
        raise AdapterError("nothing to adapt: the encoder has no parameters")
    return names


def taken(method: str, model: Classifier, task: nn.Module, kind: type[TaskT]) -> TaskT:
    """Return a frozen copy of a task that fits a model; the task's own batch norm keeps its source statistics.

    Args:
        method: its name, for the errors.
        model, task: what the method was given.
        kind: the task it needs.

    Raises:
        AdapterError: the model is no `Classifier`, the task of another kind, or made for another encoder.
    """
    check_classifier(method, model)
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
