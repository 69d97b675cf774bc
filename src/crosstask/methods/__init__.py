"""Test-time methods under one contract, and the one table of their names."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from crosstask.checkpoint import Checkpoint
from crosstask.config import Kind, keyword_config, validate
from crosstask.errors import AdapterError, UnknownName
from crosstask.methods.adapter import Adapter, Passes
from crosstask.methods.clust3 import ClusT3
from crosstask.methods.cotta import CoTTA
from crosstask.methods.cta import CTA
from crosstask.methods.deyo import DeYO
from crosstask.methods.eata import EATA
from crosstask.methods.lame import LAME
from crosstask.methods.memo import MEMO
from crosstask.methods.nc_ttt import NCTTT
from crosstask.methods.ptbn import PTBN
from crosstask.methods.rec_ttt import RecTTT
from crosstask.methods.roid import ROID
from crosstask.methods.rotta import RoTTA
from crosstask.methods.sar import SAR
from crosstask.methods.shot import SHOT
from crosstask.methods.source import Source
from crosstask.methods.t3a import T3A
from crosstask.methods.tent import Tent
from crosstask.methods.ttac import TTAC
from crosstask.methods.ttt import TTT
from crosstask.methods.ttt_plus_plus import TTTPlusPlus
from crosstask.methods.tttflow import TTTFlow


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table of methods.

    Attributes:
        adapter: its class.
        family: `training` where the source model was made for it, `adaptation` where any classifier will do.
        needs: the checkpoint it starts from.
        moves: what changes at test time.
        forward, backward: passes of one batch of images through the network in an update at its defaults, about.
        paper: where it comes from.
    """

    adapter: type[Adapter]
    family: Literal["training", "adaptation"]
    needs: Kind
    moves: str
    forward: int
    backward: int
    paper: str

    @property
    def summary(self) -> str:
        """The first sentence about it."""
        return self.explanation.splitlines()[0]

    @property
    def explanation(self) -> str:
        """All that its docstring says."""
        return inspect.getdoc(self.adapter) or ""

    @property
    def cost(self) -> str:
        """Forward (F) and backward (B) passes of one batch of images with T updates, its prediction among them."""
        forward, backward = (f"{'' if n == 1 else n}T" if n else "" for n in (self.forward, self.backward))
        both = f"({forward} + 1) F" if forward else "1 F"
        return f"{both} + {backward} B" if backward else both

    @functools.cached_property
    def arguments(self) -> type:
        """A config class of its own keyword arguments."""
        return keyword_config(self.adapter)

    @property
    def defaults(self) -> dict[str, Any]:
        """Its own keyword arguments and their defaults."""
        return {field.name: field.default for field in dataclasses.fields(self.arguments)}

    @property
    def parts(self) -> dict[str, bool]:
        """What of a checkpoint it is made from, `model`, `task` or `statistics`, and whether it must be there."""
        own = inspect.signature(self.adapter).parameters.values()
        return {part.name: part.default is part.empty for part in own if part.kind is not part.KEYWORD_ONLY}


NORMS = "scales and shifts of norm layers"
METHODS: dict[str, Method] = {
    "source": Method(
        adapter=Source,
        family="adaptation",
        needs="supervised",
        moves="nothing",
        forward=0,
        backward=0,
        paper="the model before adaptation",
    ),
    "ptbn": Method(
        adapter=PTBN,
        family="adaptation",
        needs="supervised",
        moves="batch-norm statistics",
        forward=0,
        backward=0,
        paper="Nado et al. 2020, arXiv 2006.10963",
    ),
    "tent": Method(
        adapter=Tent,
        family="adaptation",
        needs="supervised",
        moves=NORMS,
        forward=1,
        backward=1,
        paper="Wang et al. 2021, arXiv 2006.10726",
    ),
    "eata": Method(
        adapter=EATA,
        family="adaptation",
        needs="supervised",
        moves=NORMS,
        forward=1,
        backward=1,
        paper="Niu et al. 2022, arXiv 2204.02610",
    ),
    "sar": Method(
        adapter=SAR,
        family="adaptation",
        needs="supervised",
        moves=f"{NORMS}, but for a fourth stage's",
        forward=2,
        backward=2,
        paper="Niu et al. 2023, arXiv 2302.12400",
    ),
    "shot": Method(
        adapter=SHOT,
        family="adaptation",
        needs="supervised",
        moves="all parameters of the encoder",
        forward=1,
        backward=1,
        paper="Liang et al. 2020, arXiv 2002.08546",
    ),
    "t3a": Method(
        adapter=T3A,
        family="adaptation",
        needs="supervised",
        moves="the templates of the classes",
        forward=1,
        backward=0,
        paper="Iwasawa & Matsuo 2021, NeurIPS 2021",
    ),
    "lame": Method(
        adapter=LAME,
        family="adaptation",
        needs="supervised",
        moves="nothing",
        forward=0,
        backward=0,
        paper="Boudiaf et al. 2022, arXiv 2201.05718",
    ),
    "memo": Method(
        adapter=MEMO,
        family="adaptation",
        needs="supervised",
        moves="all parameters",
        forward=32,
        backward=32,
        paper="Zhang et al. 2022, arXiv 2110.09506",
    ),
    "cotta": Method(
        adapter=CoTTA,
        family="adaptation",
        needs="supervised",
        moves="all parameters",
        forward=34,
        backward=1,
        paper="Wang et al. 2022, arXiv 2203.13591",
    ),
    "rotta": Method(
        adapter=RoTTA,
        family="adaptation",
        needs="supervised",
        moves=NORMS,
        forward=3,
        backward=1,
        paper="Yuan et al. 2023, arXiv 2303.13899",
    ),
    "deyo": Method(
        adapter=DeYO,
        family="adaptation",
        needs="supervised",
        moves=f"{NORMS}, but for a fourth stage's",
        forward=2,
        backward=1,
        paper="Lee et al. 2024, arXiv 2403.07366",
    ),
    "roid": Method(
        adapter=ROID,
        family="adaptation",
        needs="supervised",
        moves=NORMS,
        forward=2,
        backward=2,
        paper="Marsden et al. 2024, arXiv 2306.00650",
    ),
    "ttt": Method(
        adapter=TTT,
        family="training",
        needs="ttt",
        moves="encoder parameters up to the branch",
        forward=1,
        backward=1,
        paper="Sun et al. 2020, arXiv 1909.13231",
    ),
    "ttt++": Method(
        adapter=TTTPlusPlus,
        family="training",
        needs="joint",
        moves="all parameters of the encoder",
        forward=3,
        backward=3,
        paper="Liu et al. 2021, NeurIPS 2021",
    ),
    "tttflow": Method(
        adapter=TTTFlow,
        family="training",
        needs="tttflow",
        moves="encoder parameters up to the flow",
        forward=1,
        backward=1,
        paper="Osowiechi et al. 2023, arXiv 2210.11389",
    ),
    "clust3": Method(
        adapter=ClusT3,
        family="training",
        needs="clust3",
        moves="encoder parameters up to the projectors",
        forward=1,
        backward=1,
        paper="Hakim et al. 2023, arXiv 2310.12345",
    ),
    "nc-ttt": Method(
        adapter=NCTTT,
        family="training",
        needs="nc-ttt",
        moves="encoder parameters up to the projector",
        forward=1,
        backward=1,
        paper="Osowiechi et al. 2024, arXiv 2404.08392",
    ),
    "rec-ttt": Method(
        adapter=RecTTT,
        family="training",
        needs="rec-ttt",
        moves="parameters of both encoders up to the maps",
        forward=4,
        backward=2,
        paper="Colussi et al. 2025, arXiv 2411.17869",
    ),
    "ttac": Method(
        adapter=TTAC,
        family="training",
        needs="joint",
        moves="all parameters of the encoder",
        forward=1,
        backward=1,
        paper="Su, Xu & Jia 2022, arXiv 2206.02721",
    ),
    "cta": Method(
        adapter=CTA,
        family="training",
        needs="aligned",
        moves="all parameters of the encoder",
        forward=2,
        backward=2,
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
    facts = {key: getattr(method, key) for key in ("summary", "family", "needs", "moves", "cost", "paper")}
    return {"name": name, **facts, "arguments": method.defaults}


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise a `ConfigError` that names every argument the method does not have or that is of a wrong type or range.

    It is raised too where they do not go together.
    """
    method = find(name)
    validate(method.arguments, dict(arguments), f"the call of {name}")
    method.adapter.check_together(method.defaults | dict(arguments))


def passes(name: str, arguments: Mapping[str, Any], task: nn.Module | None) -> Passes:
    """Return the forward and backward passes of one batch of images in an update, about.

    Args:
        arguments: the method's own keyword arguments that are not its defaults.
        task: the task of the checkpoint the method starts from.
    """
    method = find(name)
    return method.adapter.passes((method.forward, method.backward), method.defaults | dict(arguments), task)


def make_adapter(name: str, checkpoint: Checkpoint, **arguments: Any) -> Adapter:
    """Make the adapter called `name` from the checkpoint it needs.

    Args:
        name: a key of `METHODS`.
        checkpoint: of the kind the method needs; methods that need a supervised one take any that has a head, and `cta`
            takes a supervised one as it is, see `CTA`.
        arguments: the method's own keyword arguments.

    Raises:
        UnknownName, ConfigError: there is no such method or argument.
        AdapterError: the method needs another kind of checkpoint.
    """
    method = find(name)
    check_arguments(name, arguments)
    if method.parts.get("task") and checkpoint.task is None:
        command = how_to_get(method.needs)
        raise AdapterError(f"{name} needs the checkpoint {method.needs!r} and this one is {checkpoint.kind}; {command}")
    parts = {"model": checkpoint.classifier, "task": checkpoint.task, "statistics": checkpoint.statistics}
    adapter: Callable[..., Adapter] = method.adapter
    return adapter(*(parts[part] for part in method.parts), **arguments)


def how_to_get(kind: Kind) -> str:
    """Return the command that makes the checkpoint of a kind."""
    return f"run `crosstask {'align RECIPE' if kind == 'aligned' else f'pretrain RECIPE --only {kind}'}`"


__all__ = [
    "CTA",
    "EATA",
    "LAME",
    "MEMO",
    "METHODS",
    "NCTTT",
    "TTAC",
    "TTT",
    "ClusT3",
    "RecTTT",
    "TTTFlow",
    "TTTPlusPlus",
    "PTBN",
    "ROID",
    "SAR",
    "SHOT",
    "T3A",
    "CoTTA",
    "DeYO",
    "RoTTA",
    "Adapter",
    "Method",
    "Source",
    "Tent",
    "check_arguments",
    "find",
    "make_adapter",
    "outline",
    "passes",
]
