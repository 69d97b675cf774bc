"""Accuracy over the number of updates on a batch: all corruptions at once, and each on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from crosstask.report import words
from crosstask.report.plots.canvas import MUTED, PAPER, STYLE, bare_axes, marker_of, name_ends, short, to_svg, tone_of
from crosstask.report.summary import Column, Row, Summary


def curves(summary: Summary, width: int, height: int) -> str:
    """Draw accuracy over updates per batch, averaged over corruptions: a line a label, its band the interval.

    A frozen model that lies far below all others is named at the lower edge, so that the others can be told apart.
    """
    with mpl.rc_context(STYLE):
        names = {column.label: short(words.display(column.label)) for column in summary.columns}
        right = 60 + 6.5 * max(map(len, names.values()))
        figure, axes = bare_axes(width, height, left=34, right=right, top=10, bottom=40)
        near = _near(summary)
        for column in near:
            tone = tone_of(summary, column)
            _line(
                axes, column, {step: 100 * mean.mean for step, mean in column.curve.items()}, tone, _last_step(summary)
            )
            if column is summary.adapted or not words.is_wide(summary):
                _band(axes, column, tone)
        axes.set_ylim(*_up_to_100(*_band_limits(near)))
        ends = [
            (100 * column.curve[max(column.curve)].mean, names[column.label], tone_of(summary, column))
            for column in summary.columns
            if column.curve
        ]
        _steps_axis(axes, summary, _steps(summary))
        axes.set_xlabel("updates per batch", color=MUTED, fontsize=12, labelpad=6)
        name_ends(axes, ends, height)
        return to_svg(figure, f"curves-{width}")


def row_curves(summary: Summary, row: Row, number: int) -> str:
    """Draw accuracy over updates for one corruption, small; all of them have one scale, each around its own middle."""
    with mpl.rc_context(STYLE):
        figure, axes = bare_axes(210, 136, left=28, right=8, top=8, bottom=22)
        for column in summary.columns:
            curve = {step: 100 * mean for step, mean in column.row_curves.get(row, {}).items()}
            if curve:
                _line(axes, column, curve, tone_of(summary, column), _last_step(summary), markers=False)
        low, high = _row_limits(summary, row)
        half = max(high - low for low, high in (_row_limits(summary, other) for other in summary.rows)) * 0.55
        axes.set_ylim(*_up_to_100((low + high) / 2 - half, (low + high) / 2 + half))
        _steps_axis(axes, summary, [0, _last_step(summary)])
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.tick_params(labelsize=12)
        return to_svg(figure, f"row-{number}")


def _steps(summary: Summary) -> list[int]:
    return sorted({step for column in summary.columns for step in column.curve})


def _last_step(summary: Summary) -> int:
    return max(_steps(summary), default=0)


def _near(summary: Summary) -> list[Column]:
    """Return the columns that set a plot's scale: all but a frozen model whose accuracy lies far below the others'."""
    others = [column for column in summary.columns if column.curve and column is not summary.source]
    low, high = _limits([mean.mean for column in others for mean in column.curve.values()])
    far = summary.source and summary.source.mean and 100 * summary.source.mean.mean < low - (high - low)
    return others if far and others else [column for column in summary.columns if column.curve]


def _limits(shares: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and highest of some shares in per cent, at least four points apart."""
    low, high = 100 * min(shares, default=0), 100 * max(shares, default=1)
    slack = max(0.0, 4 - (high - low)) / 2
    return low - slack, high + slack


def _band_limits(columns: Sequence[Column]) -> tuple[float, float]:
    """Return limits that hold the curves and their bands; a band wider than all curves together is cut."""
    means = [mean for column in columns for mean in column.curve.values()]
    low, high = _limits([mean.mean for mean in means])
    halves = [100 * mean.half for column in columns if column.steps for mean in column.curve.values() if mean.half]
    slack = min(max(halves, default=0), high - low) + 0.06 * (high - low)
    return low - slack, high + slack


def _up_to_100(low: float, high: float) -> tuple[float, float]:
    """Shift limits in per cent down to where no axis goes beyond what an accuracy can be."""
    over = max(0.0, high - 100)
    return low - over, high - over


def _row_limits(summary: Summary, row: Row) -> tuple[float, float]:
    learners = [column for column in summary.columns if column is not summary.source]
    return _limits([mean for column in learners for mean in column.row_curves.get(row, {}).values()])


def _line(
    axes: Axes, column: Column, curve: Mapping[int, float], tone: str, last: int, *, markers: bool = True
) -> None:
    """Draw one curve in per cent; dotted, its end goes on to the `last` step of the plot."""
    steps = sorted(curve)
    end = steps[-1]
    weight, layer = (2.2, 4) if column.method == "cta" else (1.6, 3)
    look: Any = {"marker": marker_of(tone), "ms": 6, "mec": PAPER, "mew": 1, "clip_on": False} if markers else {}
    axes.plot([end, last], [curve[end]] * 2, ":", color=tone, lw=weight, zorder=layer)
    axes.plot(steps, [curve[step] for step in steps], color=tone, lw=weight, zorder=layer, **look)


def _band(axes: Axes, column: Column, tone: str) -> None:
    """Shade the interval over seeds of a method that learns."""
    known = [(step, mean.mean, mean.half) for step, mean in sorted(column.curve.items()) if mean.half is not None]
    if len(known) > 1:
        low = [100 * (mean - half) for _, mean, half in known]
        high = [100 * (mean + half) for _, mean, half in known]
        axes.fill_between([step for step, *_ in known], low, high, color=tone, alpha=0.13, lw=0)


def _steps_axis(axes: Axes, summary: Summary, ticks: Sequence[int]) -> None:
    """Space steps by their square root: the first few matter most."""
    last = _last_step(summary)
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    axes.set_xlim(0, max(last, 1))
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(ticks))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
