"""One command a column that measures its numbers again, made from the command that its records hold."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from crosstask.report.summary import Column, Summary

_AGAIN = "again"
"""The run folder of what is measured again: the old one keeps its records."""


def of_column(summary: Summary, column: Column) -> str:
    """Return a command that measures one column, beside the frozen model that every comparison needs, and no other.

    A command that is not the command line's own is returned as it is.
    """
    recorded = column.commands[-1]
    words = _split(recorded)
    if words[:1] != ["crosstask"] or words[1:2] not in (["run"], ["bench"]):
        return recorded
    pair = [each for each in (summary.source, column) if each]
    columns = {each.label: _column(each) for each in pair}
    settings: dict[str, Any] = {"bench.columns": columns, **_cells(summary)}
    if any(each.protocol["chosen"] != "recipe" for each in summary.columns):
        settings["tune"] = False  # what was chosen stands in the columns
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={_toml(value)}")]
    return shlex.join([*_start(words, column), *sets])


def _cells(summary: Summary) -> dict[str, list[Any]]:
    """Return the settings that choose corruptions and seeds; what comes in one stream cannot be chosen from."""
    seeds: dict[str, list[Any]] = {"bench.seeds": list(summary.seeds)}
    if summary.protocol["shift"] != "constant":
        return seeds
    rows = [*([summary.clean] if summary.clean else []), *summary.rows]
    return {"bench.corruptions": list(dict.fromkeys(row.corruption for row in rows)), **seeds}


def one_cell(summary: Summary) -> str:
    """Return the settings that narrow a column's command down to its first cell, or an empty string."""
    if summary.protocol["shift"] != "constant":
        return ""
    settings = {name: values[-1:] for name, values in _cells(summary).items()}
    return shlex.join([part for name, value in settings.items() for part in ("--set", f"{name}={_toml(value)}")])


def _start(words: list[str], column: Column) -> list[str]:
    """Return the command in a run folder of its own; models that are not named are trained there again."""
    named = any(word.startswith("--supervised") for word in words)
    if words[1] == "run" or not named:
        return [words[0], "run", *words[2:], "--out", _AGAIN]
    return [*words, "--out", _AGAIN] if column.protocol["model"] in ("supervised", "aligned") else words


def _column(column: Column) -> dict[str, Any]:
    protocol = column.protocol
    arguments = {name: value for name, value in column.config.items() if value is not None}
    settings = {
        "method": column.method,
        "reset": protocol["reset"],
        "predict": protocol["predict"],
        "checkpoint": protocol.get("model"),
        "arguments": arguments,
    }
    return {name: value for name, value in settings.items() if value}


def _toml(value: Any) -> str:
    """Return a plain value as TOML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []
