"""The summary as one HTML file that opens offline; its markup lies in `template.html.j2`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from crosstask.report import plots, words
from crosstask.report.diagnosis import View
from crosstask.report.examples import Example
from crosstask.report.summary import Column, Estimate, Row, Summary

WIDE, NARROW = 880, 350
"""Widths in pixels that each plot is drawn for: for a desk, and for a hand."""


_FULL_TINT = 0.1
"""The strongest tint stands for the table's largest difference, and for ten points at least."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the table: text, its interval, and how strongly it is tinted (-100 loss .. 100 gain)."""

    text: str
    half: str = ""
    best: bool = False
    heat: int = 0


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table; `kind` is clean, row, mean or foot, `label` that of a method's line."""

    name: str
    kind: str
    cells: Sequence[Cell | None]
    label: str | None = None


def page(summary: Summary, examples: Sequence[Example], diagnosis: View | None = None) -> str:
    """Return the report on `summary` as a whole HTML document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "percent": words.percent, "points": words.points, "spread": words.spread}
    return environment.get_template("template.html.j2").render(
        summary=summary,
        words=words,
        series=plots.series(summary),
        headings=_headings(summary),
        lines=list(_method_lines(summary) if words.is_wide(summary) else _lines(summary)),
        examples=examples,
        curves=_curves(summary),
        row_curves=_row_curves(summary),
        gains=_gains(summary),
        diagnosis=diagnosis,
    )


def figure(value: float) -> str:
    """Return a positive number with about three significant digits and without exponents."""
    digits = next((digits for limit, digits in ((100, 0), (10, 1), (1, 2)) if value >= limit), 3)
    return f"{value:,.{digits}f}"


def _lines(summary: Summary) -> Iterator[Line]:
    """Yield the whole table: clean images, corruptions, their mean, and what the mean is to be compared with."""
    tints = [abs(_tint(summary, column, row)) for column in summary.columns for row in column.cells]
    scale = max(_FULL_TINT, *tints)
    for row in [*([summary.clean] if summary.clean else []), *summary.rows]:
        kind = "clean" if row == summary.clean else "row"
        cells = [column.cells.get(row) for column in summary.columns]
        heats = [round(100 * _tint(summary, column, row) / scale) for column in summary.columns]
        yield Line(name=words.row_name(summary, row), kind=kind, cells=_cells(cells, heats))
    if len(summary.rows) > 1:
        yield Line(name="mean", kind="mean", cells=_cells([column.mean for column in summary.columns]))
    yield from _foot(summary)


def _headings(summary: Summary) -> list[tuple[str, str | None]]:
    """Return the names over the table's columns, each with the label whose colour it has, if any."""
    if words.is_wide(summary):
        return [(name, None) for name in words.headings(summary)]
    return [(words.display(column.label), column.label) for column in summary.columns]


def _method_lines(summary: Summary) -> Iterator[Line]:
    """Yield a line a method: its means after and before its updates, its gain over Source, and the corruptions."""
    table = list(words.by_method(summary))
    bests = [words.best(estimates) for estimates in zip(*(estimates for _, estimates in table), strict=True)]
    tints = [[_tint(summary, column, row) for row in words.all_rows(summary)] for column, _ in table]
    scale = max(_FULL_TINT, *(abs(tint) for line in tints for tint in line))
    for place, ((column, estimates), tint) in enumerate(zip(table, tints, strict=True)):
        heats = [0] * (words.GAIN + 1) + [round(100 * each / scale) for each in tint]
        cells = [
            _signed(estimate)
            if index == words.GAIN
            else _cell(estimate, index != 1 and place in bests[index], heats[index])
            for index, estimate in enumerate(estimates)
        ]
        yield Line(name=words.display(column.label), kind="row", cells=cells, label=column.label)


def _foot(summary: Summary) -> Iterator[Line]:
    columns = summary.columns
    if any(column.steps for column in columns):
        before = [_cell(column.before) if column.steps else None for column in columns]
        yield Line(name="before any update", kind="foot", cells=before)
    if any(column.gain for column in columns):
        yield Line(name="gain over Source", kind="foot", cells=[_signed(column.gain) for column in columns])
    if summary.adapted and any(column.lead for column in columns if column is not summary.source):
        name = f"{words.display(summary.adapted.label)} minus this"
        yield Line(name=name, kind="foot", cells=[_signed(column.lead) for column in columns])


def _cells(estimates: Sequence[Estimate | None], heats: Sequence[int] | None = None) -> list[Cell | None]:
    best = words.best(estimates)
    heats = heats or [0] * len(estimates)
    return [_cell(estimate, place in best, heats[place]) for place, estimate in enumerate(estimates)]


def _cell(estimate: Estimate | None, best: bool = False, heat: int = 0) -> Cell | None:
    if estimate is None:
        return None
    return Cell(text=words.percent(estimate.mean), half=words.spread(estimate), best=best, heat=heat)


def _signed(estimate: Estimate | None) -> Cell | None:
    return None if estimate is None else Cell(text=words.points(estimate.mean), half=words.spread(estimate))


def _tint(summary: Summary, column: Column, row: Row) -> float:
    """Return how far a cell lies above the frozen model or, where that was not measured, above the row's lowest."""
    if row not in column.cells:
        return 0.0
    if summary.source:
        return column.row_gains[row].mean if row in column.row_gains else 0.0
    return column.cells[row].mean - min(other.cells[row].mean for other in summary.columns if row in other.cells)


def _curves(summary: Summary) -> list[Markup]:
    """Return accuracy over updates, wide and narrow; nothing if no method learns."""
    if not any(column.steps and column.curve for column in summary.columns):
        return []
    names = 24 * len(summary.columns) if words.is_wide(summary) else 0
    return [Markup(plots.curves(summary, width, max(height, names))) for width, height in ((WIDE, 400), (NARROW, 320))]


def _row_curves(summary: Summary) -> list[tuple[str, str, Markup]]:
    """Return the same for each corruption, with the way from frozen to adapted, where there are several."""
    if len(summary.rows) < 2 or words.is_wide(summary) or not any(column.steps for column in summary.columns):
        return []
    return [
        (words.row_name(summary, row), _way(summary, row), Markup(plots.row_curves(summary, row, number)))
        for number, row in enumerate(summary.rows)
    ]


def _way(summary: Summary, row: Row) -> str:
    """Return the accuracy of the frozen and of the adapted model on one corruption: `29.5 → 56.7`."""
    ends = [column.cells[row] for column in (summary.source, summary.adapted) if column and row in column.cells]
    return " → ".join(words.percent(end.mean) for end in ends)


def _gains(summary: Summary) -> list[Markup]:
    """Return frozen against adapted for each corruption, wide and narrow; nothing if one of them is missing."""
    source, adapted = summary.source, summary.adapted
    if not source or not adapted or not adapted.row_gains.keys() & set(summary.rows):
        return []
    return [Markup(plots.gains(summary, source, adapted, width)) for width in (WIDE, NARROW)]
