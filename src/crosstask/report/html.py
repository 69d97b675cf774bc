"""The summary as one HTML file that opens offline; its markup lies in `template.html.j2` and in `sections/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from crosstask.report import commands, plots, protocols, tables, words
from crosstask.report.diagnosis import View
from crosstask.report.examples import Example
from crosstask.report.summary import Row, Summary

WIDE, NARROW = 880, 350
"""Widths in pixels that each plot is drawn for: for a desk, and for a hand."""


def page(summary: Summary, examples: Sequence[Example], diagnosis: View | None = None) -> str:
    """Return the report on `summary` as a whole HTML document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": words.figure,
        "percent": words.percent,
        "points": words.points,
        "spread": words.spread,
    }
    return environment.get_template("template.html.j2").render(
        summary=summary,
        words=words,
        protocols=protocols,
        commands=commands,
        series=plots.series(summary),
        leaders=tables.leaders(summary),
        accuracies=tables.accuracies(summary),
        examples=examples,
        curves=_curves(summary),
        row_curves=_row_curves(summary),
        gains=_gains(summary),
        diagnosis=diagnosis,
        over_stream=_over_stream(summary),
        speed=_speed(summary),
    )


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


def _over_stream(summary: Summary) -> list[Markup]:
    """Return accuracy over the stream, wide and narrow; nothing where every method starts anew with each batch."""
    if not plots.says_something(summary):
        return []
    return [Markup(plots.over_stream(summary, width, height)) for width, height in ((WIDE, 400), (NARROW, 360))]


def _speed(summary: Summary) -> list[Markup]:
    """Return accuracy against speed, wide and narrow; nothing with fewer than two methods to compare."""
    if sum(1 for column in summary.columns if column.mean) < 2:
        return []
    return [Markup(plots.accuracy_against_speed(summary, width)) for width in (WIDE, NARROW)]
