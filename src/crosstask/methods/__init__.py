"""Test-time methods under one contract, and the one table of their names."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from crosstask.checkpoint import Checkpoint
from crosstask.config import keyword_config, validate
from crosstask.errors import AdapterError, UnknownName
from crosstask.methods.adapter import Adapter
from crosstask.methods.cta import CTA
from crosstask.methods.ptbn import PTBN
from crosstask.methods.source import Source
from crosstask.methods.tent import Tent


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table of methods.

    Attributes:
        adapter: its class.
        needs: the checkpoint it starts from.
        moves: what changes at test time.
        cost: forward (F) and backward (B) passes of one batch of images, for T steps.
        paper: where it comes from.
    """

    adapter: type[Adapter]
    needs: Literal["supervised", "aligned"]
    moves: str
    cost: str
    paper: str

    @property
    def summary(self) -> str:
        """The first sentence about it."""
        return self.explanation.splitlines()[0]

    @property
    def explanation(self) -> str:
        """All that its docstring says."""
        return inspect.getdoc(self.adapter) or ""

    @functools.cached_property
    def arguments(self) -> type:
        """A config class of its own keyword arguments."""
        return keyword_config(self.adapter)

    @property
    def defaults(self) -> dict[str, Any]:
        """Its own keyword arguments and their defaults."""
        return {field.name: field.default for field in dataclasses.fields(self.arguments)}


METHODS: dict[str, Method] = {
    "source": Method(
        adapter=Source, needs="supervised", moves="nothing", cost="1 F", paper="the model before adaptation"
    ),
    "ptbn": Method(
        adapter=PTBN,
        needs="supervised",
        moves="batch-norm statistics",
        cost="1 F",
        paper="Nado et al. 2020, arXiv 2006.10963",
    ),
    "tent": Method(
        adapter=Tent,
        needs="supervised",
        moves="scales and shifts of norm layers",
        cost="(T + 1) F + T B",
        paper="Wang et al. 2021, arXiv 2006.10726",
    ),
    "cta": Method(
        adapter=CTA,
        needs="aligned",
        moves="all parameters of the encoder",
        cost="(2T + 1) F + 2T B",
        paper="Barbeau et al. 2025, arXiv 2507.05221",
    ),
}


def find(name: str) -> Method:
    """Return a method's row.

    Raises:
        UnknownName: the name is not in `METHODS`.
    """
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    return METHODS[name]


def outline(name: str) -> dict[str, Any]:
    """Return a method's row as plain values, its name and arguments among them."""
    method = find(name)
    facts = {"summary": method.summary, "needs": method.needs, "moves": method.moves, "cost": method.cost}
    return {"name": name, **facts, "paper": method.paper, "arguments": method.defaults}


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise a `ConfigError` that names every argument the method does not have or that is of a wrong type or range."""
    validate(find(name).arguments, dict(arguments), f"the call of {name}")


def make_adapter(name: str, checkpoint: Checkpoint, **arguments: Any) -> Adapter:
    """Make the adapter called `name` from the checkpoint it needs.

    Args:
        name: a key of `METHODS`.
        checkpoint: of the kind the method needs; `source`, `ptbn` and `tent` also take an aligned one.
        arguments: the method's own keyword arguments.

    Raises:
        UnknownName, ConfigError: there is no such method or argument.
        AdapterError: the method needs another kind of checkpoint.
    """
    method = find(name)
    check_arguments(name, arguments)
    adapter: Callable[..., Adapter] = method.adapter
    if method.needs != "aligned":
        return adapter(checkpoint.classifier, **arguments)
    if checkpoint.task is None:
        raise AdapterError(
            f"{name} needs an aligned checkpoint and this one is {checkpoint.kind}; run `crosstask align`"
        )
    return adapter(checkpoint.classifier, checkpoint.task, **arguments)


__all__ = [
    "CTA",
    "METHODS",
    "PTBN",
    "Adapter",
    "Method",
    "Source",
    "Tent",
    "check_arguments",
    "find",
    "make_adapter",
    "outline",
]
