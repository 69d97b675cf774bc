"""Accuracy over the stream: whether a method gets better, or worse, while it goes on."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from crosstask.report import words
from crosstask.report.plots.canvas import GRID, MUTED, STYLE, bare_axes, name_ends, short, to_svg, tone_of
from crosstask.report.summary import Column, Row, Summary

_PARTS, _PARTS_OF_EACH = 10, 4
"""Points of a curve: of a stream of one corruption, and of each corruption of several."""


def says_something(summary: Summary) -> bool:
    """Say whether any method could change over the stream: one that is not reset before every batch."""
    return len(_shown(summary)) > (summary.source is not None)


def over_stream(summary: Summary, width: int, height: int) -> str:
    """Draw accuracy over the share of the stream that has passed, a line a method that keeps what it learned."""
    columns, stations = _shown(summary), _stations(summary)
    with mpl.rc_context(STYLE):
        right = 60 + 6.5 * max(len(short(words.display(column.label))) for column in columns)
        upright = width < 500 or len(stations) > 8
        bottom = 96 if upright and len(stations) > 1 else 40
        figure, axes = bare_axes(
            width, max(height, 22 * len(columns) + 60), left=34, right=right, top=10, bottom=bottom
        )
        ends = []
        for column in columns:
            values = _values(summary, column, stations)
            places = [(place + 0.5) / len(values) for place in range(len(values))]
            tone = tone_of(summary, column)
            weight = 2.2 if column.method == "cta" else 1.5
            axes.plot(places, values, color=tone, lw=weight, solid_joinstyle="round")
            ends.append((values[-1], short(words.display(column.label)), tone))
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
        _stream_axis(axes, summary, stations, width)
        name_ends(axes, ends, height)
        return to_svg(figure, f"stream-{width}")


def _shown(summary: Summary) -> list[Column]:
    """Return the columns that keep what they learned from one batch to the next, and the source to compare with."""
    return [
        column
        for column in summary.columns
        if column.over_stream.keys() >= set(_rows(summary))
        and (column is summary.source or (column.steps and column.protocol["reset"] != "batch"))
    ]


def _rows(summary: Summary) -> list[Row]:
    """Return the rows in the order in which they come."""
    if summary.protocol["shift"] == "constant":
        return list(summary.rows) or [row for row in [summary.clean] if row]
    by_name = {row.corruption: row for row in words.all_rows(summary)}
    return [by_name[name] for name in dict.fromkeys(summary.protocol["sequence"]) if name in by_name]


def _stations(summary: Summary) -> list[Row]:
    """Return the corruptions that follow one another, each once and in one order for all seeds; or none."""
    shared = summary.protocol
    in_a_row = shared["shift"] in ("continual", "gradual") and shared["rounds"] == 1 and not shared["shuffled"]
    each_once = len(set(shared["sequence"])) == len(shared["sequence"])
    return _rows(summary) if in_a_row and each_once else []


def _values(summary: Summary, column: Column, stations: Sequence[Row]) -> list[float]:
    """Return accuracies in per cent: corruption after corruption, or as a mean over those that come side by side."""
    if stations:
        return [100 * part for row in stations for part in _merged(column.over_stream[row], _PARTS_OF_EACH)]
    found = [column.over_stream[row] for row in _rows(summary)]
    parts = [_merged(each, min(_PARTS, *map(len, found))) for each in found]
    return [100 * statistics.fmean(each) for each in zip(*parts, strict=True)]


def _merged(parts: Sequence[float], count: int) -> list[float]:
    """Return the means of at most `count` equal groups of neighbours."""
    count = min(count, len(parts))
    ends = [round(place * len(parts) / count) for place in range(count + 1)]
    return [statistics.fmean(parts[start:end]) for start, end in itertools.pairwise(ends)]


def _stream_axis(axes: Axes, summary: Summary, stations: Sequence[Row], width: int) -> None:
    axes.xaxis.set_minor_locator(NullLocator())
    if len(stations) < 2:
        axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
        axes.set_xlabel("per cent of the stream", color=MUTED, fontsize=12, labelpad=6)
        return
    for border in range(1, len(stations)):
        axes.axvline(border / len(stations), color=GRID, lw=1, zorder=0)
    middles = [(place + 0.5) / len(stations) for place in range(len(stations))]
    upright = width < 500 or len(stations) > 8
    names = [short(words.row_name(summary, row), 18) for row in stations]
    names = names if upright else [name.replace(" ", "\n", 1) for name in names]
    axes.set_xticks(middles, names, rotation=90 if upright else 0, fontsize=11)
