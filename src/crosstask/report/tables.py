"""The page's tables: what stands in each cell, and how strongly it is tinted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crosstask.report import words
from crosstask.report.summary import Column, Estimate, Row, Summary

_MOST_ROWS = 20
"""Corruptions beyond which even many methods stand side by side, so that the table grows downwards."""

_FULL_TINT = 0.1
"""The strongest tint stands for the table's largest difference, and for ten points at least."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: its number.
        half: the number's interval.
        best: whether it is the best of its row or column.
        undecided: whether it is a difference whose interval holds zero.
        heat: how strongly it is tinted: -100 loss .. 100 gain.
        value: to sort by.
    """

    text: str
    half: str = ""
    best: bool = False
    undecided: bool = False
    heat: int = 0
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table; `kind` is clean, row or mean, `label` that of a method's line."""

    name: str
    kind: str
    cells: Sequence[Cell | None]
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A whole table.

    Attributes:
        first: the name over the names of its lines.
        headings: the names over its other columns, each with the label whose colour it has, if any.
        lines: all below.
    """

    first: str
    headings: Sequence[tuple[str, str | None]]
    lines: Sequence[Line]


def leaders(summary: Summary) -> Sheet:
    """Return a line a method, the highest mean first: what the methods are compared by."""
    ours = words.display(summary.adapted.label) if summary.adapted else ""
    ordered = sorted(summary.columns, key=lambda column: -(column.mean.mean if column.mean else -1))
    bold = words.best([column.mean for column in ordered])
    entries: dict[str, list[Cell | None]] = {
        "mean": [_accuracy(column.mean, place in bold) for place, column in enumerate(ordered)],
        "over Source": [_difference(column.gain) for column in ordered],
        f"{ours} minus this": [_difference(column.lead) for column in ordered],
        "before updates": [_accuracy(column.before) if column.added else None for column in ordered],
        "clean again": [_difference(column.recovery) for column in ordered],
        "images per second": [_speed(column) for column in ordered],
        "best steps \N{DAGGER}": [_accuracy(column.oracle) for column in ordered],
    }
    said = {name: cells for name, cells in entries.items() if any(cells)}
    lines = [
        Line(
            name=words.display(column.label),
            kind="row",
            label=column.label,
            cells=[cells[place] for cells in said.values()],
        )
        for place, column in enumerate(ordered)
    ]
    return Sheet(first="method", headings=[(name, None) for name in said], lines=lines)


def accuracies(summary: Summary) -> Sheet:
    """Return every cell: a line a corruption and a column a method, or the other way round for many methods."""
    few = len(words.all_rows(summary)) <= _MOST_ROWS
    return _by_method(summary) if words.is_wide(summary) and few else _by_row(summary)


def _by_row(summary: Summary) -> Sheet:
    lines, scale = [], _scale(summary)
    for row in words.all_rows(summary):
        kind = "clean" if row == summary.clean else "row"
        cells = _cells([column.cells.get(row) for column in summary.columns], _heats(summary, row, scale))
        lines.append(Line(name=words.row_name(summary, row), kind=kind, cells=cells))
    if len(summary.rows) > 1:
        means = [column.mean for column in summary.columns]
        lines.append(Line(name="mean", kind="mean", cells=_cells(means, [0] * len(means))))
    headings = [(words.display(column.label), column.label) for column in summary.columns]
    return Sheet(first="corruption", headings=headings, lines=lines)


def _by_method(summary: Summary) -> Sheet:
    rows, scale = words.all_rows(summary), _scale(summary)
    columns = [
        _cells([column.cells.get(row) for column in summary.columns], _heats(summary, row, scale)) for row in rows
    ]
    lines = [
        Line(name=words.display(column.label), kind="row", cells=cells, label=column.label)
        for column, cells in zip(summary.columns, zip(*columns, strict=True), strict=True)
    ]
    return Sheet(first="method", headings=[(words.row_name(summary, row), None) for row in rows], lines=lines)


def _cells(estimates: Sequence[Estimate | None], heats: Sequence[int]) -> list[Cell | None]:
    best = words.best(estimates)
    return [_accuracy(estimate, place in best, heats[place]) for place, estimate in enumerate(estimates)]


def _accuracy(estimate: Estimate | None, best: bool = False, heat: int = 0) -> Cell | None:
    if estimate is None:
        return None
    text = words.percent(estimate.mean)
    return Cell(text=text, half=words.spread(estimate), best=best, heat=heat, value=round(estimate.mean, 6))


def _difference(estimate: Estimate | None) -> Cell | None:
    if estimate is None:
        return None
    return Cell(
        text=words.points(estimate.mean),
        half=words.spread(estimate),
        undecided=estimate.holds_zero,
        value=round(estimate.mean, 6),
    )


def _speed(column: Column) -> Cell:
    speed = column.cost.images_per_second
    return Cell(text=words.figure(speed), value=round(speed, 3))


def _heats(summary: Summary, row: Row, scale: float) -> list[int]:
    """Return the tints of a row's cells."""
    return [round(100 * _tint(summary, column, row) / scale) for column in summary.columns]


def _scale(summary: Summary) -> float:
    """Return the difference that the strongest tint stands for: one for the whole table."""
    tints = [abs(_tint(summary, column, row)) for row in words.all_rows(summary) for column in summary.columns]
    return max(_FULL_TINT, *tints)


def _tint(summary: Summary, column: Column, row: Row) -> float:
    """Return how far a cell lies above the frozen model or, where that was not measured, above the row's lowest."""
    if row not in column.cells:
        return 0.0
    if summary.source:
        return column.row_gains[row].mean if row in column.row_gains else 0.0
    return column.cells[row].mean - min(other.cells[row].mean for other in summary.columns if row in other.cells)
