"""Published evaluation protocols by name: `protocol = "tent"` in a recipe's `[bench]` decides all that its table names.

Two numbers under one preset compare; what a preset decides, a recipe can repeat but not change. A preset named on
the command line replaces what the recipe says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crosstask.errors import ConfigError, UnknownName


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a protocol decides.

    Attributes:
        about: whose protocol it is, in words.
        bench: settings of `[bench]`.
        columns: settings of every column.
    """

    about: str
    bench: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = {"delta": None, "slots": None, "rounds": 1, "shuffled": False, "rate": None}
"""Classes at random, one round in the recipe's order, and a stream that waits."""

PRESETS = {
    "ets": Preset(
        about="reset before each batch of 128, as ClusT3, NC-TTT and ReC-TTT; their best of several steps is an oracle",
        bench={**_PLAIN, "shift": "constant", "batch_size": 128},
        columns={"reset": "batch", "predict": "after"},
    ),
    "tent": Preset(
        about="reset before every corruption, batches of 200, one step, predictions from before it, as TENT",
        bench={**_PLAIN, "shift": "constant", "batch_size": 200, "steps": 1},
        columns={"reset": "corruption", "predict": "before"},
    ),
    "continual": Preset(
        about="all corruptions in a row and never reset, batches of 200, one step, as CoTTA",
        bench={**_PLAIN, "shift": "continual", "batch_size": 200, "steps": 1},
        columns={"reset": "never", "predict": "before"},
    ),
    "wild": Preset(
        about="corruptions mixed, classes in clumps, batches of 16, never reset, one step, after SAR and RoTTA",
        bench={**_PLAIN, "shift": "mixed", "delta": 0.1, "batch_size": 16, "steps": 1},
        columns={"reset": "never", "predict": "before"},
    ),
}


def apply(tree: dict[str, Any], *, instead: bool = False) -> None:
    """Write what the protocol of a recipe decides into the recipe, a tree as TOML gives it.

    Args:
        instead: in the place of what the recipe says, as where the protocol is named on the command line.

    Raises:
        UnknownName: there is no such protocol.
        ConfigError: the recipe says something else.
    """
    bench = tree.get("bench")
    name = bench.get("protocol") if isinstance(bench, dict) else None
    if not isinstance(bench, dict) or not isinstance(name, str):
        return
    if name not in PRESETS:
        raise UnknownName("protocol", name, PRESETS)
    preset = PRESETS[name]
    decide = _replace if instead else _decide
    decide(name, bench, preset.bench, "bench")
    if "steps" in preset.bench and isinstance(tune := tree.get("tune"), dict):
        decide(name, tune, {"steps": [preset.bench["steps"]]}, "tune")
    columns = bench.get("columns")
    for label, column in columns.items() if isinstance(columns, dict) else ():
        if isinstance(column, dict):
            decide(name, column, preset.columns, f"bench.columns.{label}")
            arguments = column.get("arguments")
            if "steps" in preset.bench and isinstance(arguments, dict) and arguments.get("steps"):
                decide(name, arguments, {"steps": preset.bench["steps"]}, f"bench.columns.{label}.arguments")


def _replace(name: str, table: dict[str, Any], decided: Mapping[str, Any], where: str) -> None:
    table.update(decided)


def _decide(name: str, table: dict[str, Any], decided: Mapping[str, Any], where: str) -> None:
    for key, value in decided.items():
        if table.setdefault(key, value) != value:
            raise ConfigError(
                f"the protocol {name!r} has {where}.{key} = {value!r}, the recipe says {table[key]!r}; take one away"
            )
