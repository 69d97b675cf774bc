"""What the methods that take a classifier apart have in common."""

from __future__ import annotations

from torch import nn

from crosstask.errors import AdapterError
from crosstask.nets.split import Classifier


def check_classifier(method: str, model: nn.Module) -> None:
    """Raise an `AdapterError` unless the model has an encoder and a head."""
    if not isinstance(model, Classifier):
        raise AdapterError(
            f"{method} needs an encoder and a head, and got a {type(model).__name__}; see `crosstask.split`"
        )


def encoder_names(model: nn.Module) -> list[str]:
    """Return the names within a classifier of all its encoder's parameters.

    Raises:
        AdapterError: there are none.
    """
    names = [name for name, _ in model.named_parameters() if name.startswith("encoder.")]
    if not names:
        raise AdapterError("nothing to adapt: the encoder has no parameters")
    return names
