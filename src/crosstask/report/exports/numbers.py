"""The summary's numbers as plain JSON values, for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from crosstask.report import words
from crosstask.report.comparison import Comparison
from crosstask.report.summary import Column, Estimate, Row, Summary

FORMAT = 1
"""Version of the layout."""


def numbers(summary: Summary) -> dict[str, Any]:
    """Return every figure of a summary: shares in 0..1, each with its interval, what that is over, and how many."""
    return {
        "format": FORMAT,
        "headline": words.headline(summary),
        "dataset": summary.dataset,
        "protocol": dict(summary.protocol),
        "seeds": list(summary.seeds),
        "n": summary.n,
        "source": summary.source.label if summary.source else None,
        "adapted": summary.adapted.label if summary.adapted else None,
        "gaps": {label: list(names) for label, names in summary.gaps.items()},
        "columns": [_column(column) for column in summary.columns],
        "origin": dataclasses.asdict(summary.origin),
    }


def comparison_numbers(found: Comparison) -> dict[str, Any]:
    """Return every figure of a comparison of two runs."""
    return {
        "format": FORMAT,
        "dataset": found.dataset,
        "runs": list(found.names),
        "corruptions": [dataclasses.asdict(row) for row in found.rows],
        "columns": [
            {
                "label": pair.label,
                "accuracy": [estimate(pair.first), estimate(pair.second)],
                "difference": estimate(pair.difference),
            }
            for pair in found.pairs
        ],
        "only": list(found.only),
        "differs": list(found.others),
    }


def estimate(found: Estimate) -> dict[str, Any]:
    """Return a mean with its interval; `holds_zero` says of a difference that none is shown."""
    return dataclasses.asdict(found) | {"holds_zero": found.holds_zero}


def _column(column: Column) -> dict[str, Any]:
    by_row = ("cells", "row_gains", "row_curves", "over_stream")
    names = [field.name for field in dataclasses.fields(Column) if field.name not in by_row]
    return {name: _plain(getattr(column, name)) for name in names} | {
        "rows": [_row(column, row) for row in column.cells]
    }


def _row(column: Column, row: Row) -> dict[str, Any]:
    """Return all that is said of one column under one corruption."""
    gain = column.row_gains.get(row)
    return {
        "corruption": row.corruption,
        "severity": row.severity,
        "accuracy": estimate(column.cells[row]),
        "gain": estimate(gain) if gain else None,
        "curve": _plain(column.row_curves.get(row, {})),
        "over_stream": list(column.over_stream.get(row, ())),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return estimate(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, tuple) else value
